//! Docker's `config.json`: which entry, which helper.
//!
//! Keys come in many spellings (with a scheme, with `/v1/`, with a repository path, Docker Hub's old address), so
//! they are brought to one form before they are compared. Helpers named for a host come before stored entries
//! of the same scope, and the store for all hosts comes last, as docker does it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::{Credential, CredentialsError, Secret, helper, image_match};
use crate::reference::RepoRef;

/// Docker Hub's name in configurations and towards helpers.
const DOCKER_HUB_SERVER: &str = "https://index.docker.io/v1/";

/// Base64 with or without padding: both are found in the wild.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Clone, Debug)]
pub(super) struct DockerConfig {
    path: PathBuf,
    /// The file's name, if `path` may be a folder.
    inside: Option<&'static str>,
    helper_dir: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: Option<BTreeMap<String, Entry>>,
    #[serde(default)]
    cred_helpers: Option<BTreeMap<String, String>>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl DockerConfig {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            inside: None,
            helper_dir: None,
        }
    }

    /// The path may also be a folder with a file of this name.
    pub(super) fn or_inside(self, name: &'static str) -> Self {
        Self {
            inside: Some(name),
            ..self
        }
    }

    pub(super) fn set_helper_dir(&mut self, dir: PathBuf) {
        self.helper_dir = Some(dir);
    }

    /// The credential for the first of `scopes` (most specific first) that has one.
    pub(super) async fn find(
        &self,
        repo: &RepoRef,
        scopes: &[String],
    ) -> Result<Credential, CredentialsError> {
        let Some(file) = self.read().await? else {
            return Ok(Credential::Anonymous);
        };
        let helpers = by_scope(file.cred_helpers.unwrap_or_default());
        let auths = by_scope(file.auths.unwrap_or_default());
        for scope in scopes {
            if let Some((key, name)) = helpers.get(scope) {
                let server = if scope == repo.host() {
                    server(repo)
                } else {
                    key
                };
                return self.ask(name, server).await;
            }
            if let Some((key, entry)) = auths.get(scope)
                && let Some(credential) = self.credential(key, entry)?
            {
                return Ok(credential);
            }
        }
        // Kubernetes' rule; docker's own keys hold no stars.
        let globs = auths.values().rev().filter(|(key, _)| key.contains('*'));
        for (key, entry) in globs {
            if image_match::matches(key, repo)
                && let Some(credential) = self.credential(key, entry)?
            {
                return Ok(credential);
            }
        }
        match &file.creds_store {
            Some(name) if !name.is_empty() => self.ask(name, server(repo)).await,
            _ => Ok(Credential::Anonymous),
        }
    }

    async fn read(&self) -> Result<Option<File>, CredentialsError> {
        let read = match (tokio::fs::read(&self.path).await, self.inside) {
            (Err(error), Some(name)) if error.kind() == ErrorKind::IsADirectory => {
                tokio::fs::read(self.path.join(name)).await
            }
            (read, _) => read,
        };
        match read {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|source| {
                CredentialsError::Malformed {
                    path: self.path.clone(),
                    source,
                }
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(CredentialsError::Read {
                path: self.path.clone(),
                source,
            }),
        }
    }

    async fn ask(&self, name: &str, server: &str) -> Result<Credential, CredentialsError> {
        helper::get(self.helper_dir.as_deref(), name, server).await
    }

    /// What an entry holds; an empty one only says that a store knows this host.
    fn credential(&self, key: &str, entry: &Entry) -> Result<Option<Credential>, CredentialsError> {
        let filled = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
        if let Some(token) = filled(&entry.registrytoken) {
            return Ok(Some(Credential::RegistryToken(Secret::new(token))));
        }
        if let Some(token) = filled(&entry.identitytoken) {
            return Ok(Some(Credential::IdentityToken(Secret::new(token))));
        }
        if let Some(auth) = filled(&entry.auth) {
            return decode_auth(&auth)
                .map(Some)
                .ok_or_else(|| CredentialsError::BadAuth {
                    path: self.path.clone(),
                    key: key.to_owned(),
                });
        }
        Ok(filled(&entry.username).map(|username| Credential::Basic {
            username,
            password: Secret::new(filled(&entry.password).unwrap_or_default()),
        }))
    }
}

/// Base64 of `user:password`.
pub(super) fn decode_auth(auth: &str) -> Option<Credential> {
    let text = String::from_utf8(BASE64.decode(auth.trim()).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    Some(Credential::Basic {
        username: username.to_owned(),
        // Old dockers pad the password with zero bytes.
        password: Secret::new(password.trim_end_matches('\0')),
    })
}

/// How helpers know the registry of `repo`.
fn server(repo: &RepoRef) -> &str {
    if repo.is_docker_hub() {
        DOCKER_HUB_SERVER
    } else {
        repo.host()
    }
}

/// Each value under its scope (`host` or `host/path`), beside the key that it was written with.
fn by_scope<T>(map: BTreeMap<String, T>) -> BTreeMap<String, (String, T)> {
    map.into_iter()
        .map(|(key, value)| (scope(&key), (key, value)))
        .collect()
}

/// `https://host/v1/` → `host`; `host/team` stays; all of Docker Hub's names → `docker.io`.
fn scope(key: &str) -> String {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"));
    let trimmed = bare.unwrap_or(key).trim_end_matches('/');
    let (host, path) = trimmed.split_once('/').unwrap_or((trimmed, ""));
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    };
    match path {
        "" | "v1" | "v2" => host.to_ascii_lowercase(),
        path => format!("{}/{path}", host.to_ascii_lowercase()),
    }
}
