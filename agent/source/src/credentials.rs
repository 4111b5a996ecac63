//! Who we are to a registry: given by hand, or found in docker's configuration and its helpers.
//!
//! Credentials are looked up each time a token is needed and not once at the start, so that what an operator or
//! a helper renews is used without a restart. Secrets never show in logs: their `Debug` hides them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::reference::RepoRef;

mod docker_config;
mod helper;

use docker_config::DockerConfig;

/// Text that must not be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// What we can show to a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// Nothing.
    Anonymous,
    /// User name and password.
    Basic {
        /// User name.
        username: String,
        /// Password or access token.
        password: Secret,
    },
    /// A refresh token of OAuth 2, to be exchanged for access tokens.
    IdentityToken(Secret),
    /// A bearer token that is shown as it is.
    RegistryToken(Secret),
}

/// Where credentials come from. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Credentials(Arc<Sources>);

#[derive(Clone, Debug, Default)]
struct Sources {
    given: BTreeMap<String, Credential>,
    docker: Option<DockerConfig>,
}

/// Credentials that are configured but could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// The configuration is there but cannot be read.
    #[error("could not read the docker configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The configuration is not what docker writes.
    #[error("the docker configuration {} is not well formed", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where.
        #[source]
        source: serde_json::Error,
    },
    /// An `auth` field that is not base64 of `user:password`.
    #[error("the auth of {key:?} in {} is not base64 of user:password; log in again", path.display())]
    BadAuth {
        /// The file.
        path: PathBuf,
        /// The entry.
        key: String,
    },
    /// A helper could not be run.
    #[error("could not run the credential helper {program}; is it installed?")]
    RunHelper {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A helper failed or gave nonsense.
    #[error("the credential helper {program} gave nothing for {server}: {why}")]
    Helper {
        /// The program.
        program: String,
        /// What it was asked for.
        server: String,
        /// What it said, or what is wrong with its answer.
        why: String,
    },
}

impl Credentials {
    /// No credentials at all.
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// Adds a credential for a host (`registry.example:5000`) or for the repositories below a path of it
    /// (`registry.example/team`). The most specific one counts, before docker's configuration.
    #[must_use]
    pub fn with(mut self, scope: &str, credential: Credential) -> Self {
        Arc::make_mut(&mut self.0)
            .given
            .insert(scope.to_owned(), credential);
        self
    }

    /// Adds docker's `config.json`, read at each look-up; a file that is not there holds nothing.
    #[must_use]
    pub fn with_docker_config(mut self, path: impl Into<PathBuf>) -> Self {
        Arc::make_mut(&mut self.0).docker = Some(DockerConfig::new(path.into()));
        self
    }

    /// Looks for credential helpers in `dir` and not along `PATH`.
    #[must_use]
    pub fn with_helper_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        if let Some(docker) = &mut Arc::make_mut(&mut self.0).docker {
            docker.set_helper_dir(dir.into());
        }
        self
    }

    /// The credential for a repository.
    pub async fn find(&self, repo: &RepoRef) -> Result<Credential, CredentialsError> {
        let scopes = scopes(repo);
        let given = scopes.iter().find_map(|scope| self.0.given.get(scope));
        match (given, &self.0.docker) {
            (Some(credential), _) => Ok(credential.clone()),
            (None, Some(docker)) => docker.find(repo, &scopes).await,
            (None, None) => Ok(Credential::Anonymous),
        }
    }
}

/// `host/a/b`, `host/a`, `host`: from the most specific to the least.
fn scopes(repo: &RepoRef) -> Vec<String> {
    let whole = repo.to_string();
    let mut ends: Vec<usize> = whole.match_indices('/').map(|(at, _)| at).collect();
    ends.push(whole.len());
    ends.iter()
        .rev()
        .filter_map(|&end| whole.get(..end).map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests;
