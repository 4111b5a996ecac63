//! The kubelet's credential provider plugins: the same configuration, the same programs, so that a cloud's registry needs no login of ours.
//!
//! What a plugin gave is kept for as long as it says. It is asked again before that time is over, while what it gave is still good, and
//! at once when a registry refuses that; however many wait, one question is on its way for a registry.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Credential, CredentialsError};
use crate::reference::RepoRef;

mod config;
mod plugin;

pub use config::PluginsError;
use config::Provider;
use plugin::{Answer, KeptFor};

/// A plugin that failed is not asked again for so long.
const FAILED_FOR: Duration = Duration::from_secs(10);
/// What a plugin gave last is not asked for anew within this time, refused or not.
const ASKED_AT_MOST_EVERY: Duration = Duration::from_secs(10);
/// Answers for single images that are kept for one registry.
const IMAGES_MAX: usize = 1024;

/// All plugins, in the order of their configuration.
#[derive(Debug)]
pub struct Plugins {
    plugins: Vec<Plugin>,
}

#[derive(Debug)]
struct Plugin {
    provider: Provider,
    program: PathBuf,
    /// By registry. An inner lock is held while the plugin is asked, which makes all others of the registry wait for its answer.
    slots: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<Slot>>>>,
    /// What is good for all registries.
    global: Mutex<Option<Arc<Answer>>>,
}

#[derive(Debug, Default)]
struct Slot {
    by_image: BTreeMap<String, Arc<Answer>>,
    by_registry: Option<Arc<Answer>>,
    failed: Option<(String, Instant)>,
}

impl Plugins {
    /// Reads a `CredentialProviderConfig`; its plugins are programs in `dir`. Whether they are there shows when they are needed.
    ///
    /// # Errors
    /// If the file cannot be read or is not of that kind.
    pub fn read(path: &Path, dir: &Path) -> Result<Self, PluginsError> {
        let providers = config::read(path)?.into_iter();
        let plugins = providers.map(|provider| Plugin {
            program: dir.join(&provider.name),
            provider,
            slots: Mutex::default(),
            global: Mutex::default(),
        });
        Ok(Self {
            plugins: plugins.collect(),
        })
    }

    /// Credentials for `repo`, the best first. If all that is kept was `refused`, plugins are asked anew.
    pub(super) async fn find(
        &self,
        repo: &RepoRef,
        refused: &[Credential],
    ) -> Result<Vec<Credential>, CredentialsError> {
        let (mut found, mut failed) = (Vec::new(), None);
        for plugin in &self.plugins {
            if !plugin.provider.is_for(repo) {
                continue;
            }
            match plugin.find(repo, refused).await {
                Ok(credentials) => found.extend(credentials),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            Some(error) if found.is_empty() => Err(error),
            _ => Ok(found),
        }
    }

    /// When the plugin that gave a credential is to be asked anew.
    pub(super) async fn renew_at(
        &self,
        repo: &RepoRef,
        credential: &Credential,
    ) -> Option<Instant> {
        let now = Instant::now();
        for plugin in &self.plugins {
            if !plugin.provider.is_for(repo) {
                continue;
            }
            let slot = plugin.slot(repo.host());
            let slot = slot.lock().await;
            let known = slot.known(repo, now).or_else(|| plugin.known_for_all(now));
            let gave = |known: &Arc<Answer>| known.credentials(repo).contains(credential);
            if let Some(known) = known.filter(gave) {
                return Some(known.stale_at());
            }
        }
        None
    }
}

impl Plugin {
    async fn find(
        &self,
        repo: &RepoRef,
        refused: &[Credential],
    ) -> Result<Vec<Credential>, CredentialsError> {
        let slot = self.slot(repo.host());
        let mut slot = slot.lock().await;
        let now = Instant::now();
        let known = slot.known(repo, now).or_else(|| self.known_for_all(now));
        if let Some(known) = &known {
            let found = known.credentials(repo);
            let is_refused = !found.is_empty() && found.iter().all(|one| refused.contains(one));
            let is_enough = if is_refused {
                known.is_younger(ASKED_AT_MOST_EVERY, now)
            } else {
                known.is_fresh(now)
            };
            if is_enough {
                return Ok(found);
            }
        }
        let failed = slot.failed.as_ref().filter(|(_, until)| now < *until);
        let asked = match failed {
            Some((why, _)) => Err(why.clone()),
            None => plugin::ask(&self.provider, &self.program, repo).await,
        };
        match asked {
            Ok(answer) => {
                let answer = Arc::new(answer);
                let found = answer.credentials(repo);
                self.keep(&mut slot, repo, answer);
                Ok(found)
            }
            Err(why) => {
                let is_news = failed.is_none();
                if is_news {
                    slot.failed = now
                        .checked_add(FAILED_FOR)
                        .map(|until| (why.clone(), until));
                }
                let error = CredentialsError::Plugin {
                    program: self.program.clone(),
                    image: repo.to_string(),
                    why,
                };
                let Some(known) = known else {
                    return Err(error);
                };
                if is_news {
                    tracing::warn!(%error, "credentials are not renewed; those at hand are used until they expire");
                }
                Ok(known.credentials(repo))
            }
        }
    }

    fn slot(&self, registry: &str) -> Arc<tokio::sync::Mutex<Slot>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(registry.to_owned()).or_default())
    }

    fn known_for_all(&self, now: Instant) -> Option<Arc<Answer>> {
        let global = self.global.lock().unwrap_or_else(PoisonError::into_inner);
        global.clone().filter(|answer| answer.is_good(now))
    }

    fn keep(&self, slot: &mut Slot, repo: &RepoRef, answer: Arc<Answer>) {
        slot.failed = None;
        match answer.kept_for {
            KeptFor::Image => {
                if slot.by_image.len() >= IMAGES_MAX {
                    let now = Instant::now();
                    slot.by_image.retain(|_, answer| answer.is_good(now));
                }
                if slot.by_image.len() >= IMAGES_MAX {
                    slot.by_image.pop_first();
                }
                slot.by_image.insert(repo.path().to_owned(), answer);
            }
            KeptFor::Registry => slot.by_registry = Some(answer),
            KeptFor::Global => {
                let mut global = self.global.lock().unwrap_or_else(PoisonError::into_inner);
                *global = Some(answer);
            }
        }
    }
}

impl Slot {
    fn known(&self, repo: &RepoRef, now: Instant) -> Option<Arc<Answer>> {
        let by_image = self.by_image.get(repo.path());
        let known = [by_image, self.by_registry.as_ref()];
        let mut good = known.into_iter().flatten();
        good.find(|answer| answer.is_good(now)).cloned()
    }
}

#[cfg(test)]
mod tests;
