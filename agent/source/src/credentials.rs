//! Who we are to a registry: given by hand, learnt from pulls, or found in docker's configuration and its helpers, with the kubelet's
//! plugins, or in secrets of Kubernetes.
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
mod image_match;
mod learnt;
mod plugins;
mod program;
mod sealed;

pub use learnt::Learnt;
pub use plugins::{Plugins, PluginsError};
pub use sealed::SealError;

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

impl Credential {
    /// What docker's configurations call `auth`: base64 of `user:password`.
    pub fn from_auth(auth: &str) -> Option<Self> {
        docker_config::decode_auth(auth)
    }
}

/// Where credentials come from. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Credentials(Arc<Sources>);

#[derive(Clone, Debug, Default)]
struct Sources {
    given: BTreeMap<String, Credential>,
    learnt: Option<Arc<Learnt>>,
    docker: Option<DockerConfig>,
    plugins: Option<Arc<Plugins>>,
    secrets: Vec<DockerConfig>,
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
    /// A plugin of the kubelet's failed or gave nonsense.
    #[error("the credential provider plugin {} gave nothing for {image}: {why}", program.display())]
    Plugin {
        /// The program.
        program: PathBuf,
        /// What it was asked for.
        image: String,
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

    /// Adds what is learnt from pulls; it comes before all that is looked up.
    #[must_use]
    pub fn with_learnt(mut self, learnt: Arc<Learnt>) -> Self {
        Arc::make_mut(&mut self.0).learnt = Some(learnt);
        self
    }

    /// Adds plugins of the kubelet's, asked after docker's configuration.
    #[must_use]
    pub fn with_plugins(mut self, plugins: Plugins) -> Self {
        Arc::make_mut(&mut self.0).plugins = Some(Arc::new(plugins));
        self
    }

    /// Adds a secret of Kubernetes (`kubernetes.io/dockerconfigjson`): its file, or the folder that it is mounted as. Read at each
    /// look-up; one that is not there holds nothing.
    #[must_use]
    pub fn with_pull_secret(mut self, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let secret = DockerConfig::new(path).or_inside(".dockerconfigjson");
        Arc::make_mut(&mut self.0).secrets.push(secret);
        self
    }

    /// The credential for a repository.
    pub async fn find(&self, repo: &RepoRef) -> Result<Credential, CredentialsError> {
        self.find_other(repo, &[]).await
    }

    /// The best credential that is none of those that were `refused`; plugins whose credentials are among them are asked anew.
    /// [`Anonymous`](Credential::Anonymous) if there is none.
    pub(crate) async fn find_other(
        &self,
        repo: &RepoRef,
        refused: &[Credential],
    ) -> Result<Credential, CredentialsError> {
        let scopes = scopes(repo);
        if let Some(given) = scopes.iter().find_map(|scope| self.0.given.get(scope)) {
            let is_refused = refused.contains(given);
            return Ok(if is_refused {
                Credential::Anonymous
            } else {
                given.clone()
            });
        }
        let is_another =
            |found: &Credential| *found != Credential::Anonymous && !refused.contains(found);
        let learnt = self.0.learnt.iter().flat_map(|learnt| learnt.find(repo));
        if let Some(learnt) = learnt.into_iter().find(is_another) {
            return Ok(learnt);
        }
        let mut failed = None;
        if let Some(docker) = &self.0.docker {
            match docker.find(repo, &scopes).await {
                Ok(found) if is_another(&found) => return Ok(found),
                Ok(_) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Some(plugins) = &self.0.plugins {
            match plugins.find(repo, refused).await {
                Ok(found) => {
                    if let Some(found) = found.into_iter().find(is_another) {
                        return Ok(found);
                    }
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        for secret in &self.0.secrets {
            match secret.find(repo, &scopes).await {
                Ok(found) if is_another(&found) => return Ok(found),
                Ok(_) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(Credential::Anonymous),
        }
    }

    /// When a credential for `repo` should be looked up anew although it is still good; `None` where nobody says how long it is.
    pub(crate) async fn renew_at(
        &self,
        repo: &RepoRef,
        credential: &Credential,
    ) -> Option<tokio::time::Instant> {
        self.0.plugins.as_ref()?.renew_at(repo, credential).await
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
#[cfg(test)]
pub(crate) use tests::write_program;
