//! Credentials that came with pulls: the kubelet gives containerd a pod's secrets with the image, and nobody else.
//!
//! They are good for the repository that they came for, and for no other. A node that starts again is not given them anew, since
//! its images are pulled already; so those with which a pull succeeded are kept, sealed.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::sealed::{SealError, Sealed};
use super::{Credential, Secret};
use crate::reference::RepoRef;

/// Repositories whose credentials are kept; beyond it the oldest are forgotten.
const REPOS_MAX: usize = 1024;

/// See the module's words.
#[derive(Debug, Default)]
pub struct Learnt {
    entries: Mutex<BTreeMap<String, Entry>>,
    sealed: Option<Sealed>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    credential: Credential,
    /// Seconds since 1970.
    learnt_at: u64,
    /// Whether it has proved good, and is to outlive us.
    is_kept: bool,
    /// What had proved good before, until this one has as well.
    before: Option<Credential>,
}

/// An entry as it is sealed.
#[derive(Serialize, Deserialize)]
struct Written {
    repo: String,
    learnt_at: u64,
    #[serde(flatten)]
    credential: WrittenCredential,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
enum WrittenCredential {
    Basic { username: String, password: String },
    IdentityToken { token: String },
    RegistryToken { token: String },
}

impl Learnt {
    /// For as long as this process lives.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// Kept in `dir`, sealed. If what is there cannot be read, that is logged and nothing is known: a node that starts is worth
    /// more than credentials that it will be given again.
    pub fn open(dir: &Path) -> Self {
        let opened = Sealed::open(dir.join("credentials"), &dir.join("credentials.key"));
        match opened {
            Ok(sealed) => {
                let entries = read(&sealed).unwrap_or_else(|error| {
                    tracing::warn!(
                        error = &error as &dyn Error,
                        "credentials of earlier pulls are forgotten"
                    );
                    BTreeMap::new()
                });
                Self {
                    entries: Mutex::new(entries),
                    sealed: Some(sealed),
                }
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn Error,
                    "credentials of pulls are not kept for the next start"
                );
                Self::in_memory()
            }
        }
    }

    /// Takes a credential that came with a pull from `repo`. It is used at once, and kept once it has [proved good](Self::proved).
    pub fn learn(&self, repo: &RepoRef, credential: Credential) {
        let mut entries = self.entries();
        let name = repo.to_string();
        let is_known = entries
            .get(&name)
            .is_some_and(|entry| entry.credential == credential);
        if credential == Credential::Anonymous || is_known {
            return;
        }
        let before = entries.remove(&name).and_then(|entry| match entry {
            Entry {
                credential,
                is_kept: true,
                ..
            } => Some(credential),
            Entry { before, .. } => before,
        });
        entries.insert(
            name,
            Entry {
                credential,
                learnt_at: now(),
                is_kept: false,
                before,
            },
        );
        while entries.len() > REPOS_MAX {
            let oldest = entries.iter().min_by_key(|(_, entry)| entry.learnt_at);
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else {
                break;
            };
            entries.remove(&oldest);
        }
    }

    /// The pull succeeded: what came with it outlives this process. Writes to disk.
    ///
    /// # Errors
    /// If it cannot be written; it is used as long as this process lives all the same.
    pub fn proved(&self, repo: &RepoRef, credential: &Credential) -> Result<(), SealError> {
        // Held while it is written, so that what is written last is the newest.
        let mut entries = self.entries();
        let entry = entries.get_mut(&repo.to_string());
        let Some(entry) = entry.filter(|entry| entry.credential == *credential && !entry.is_kept)
        else {
            return Ok(());
        };
        entry.is_kept = true;
        entry.before = None;
        self.write(&entries)
    }

    /// The pull failed: what came with it is used no more, unless it had proved good before.
    pub fn failed(&self, repo: &RepoRef, credential: &Credential) {
        let mut entries = self.entries();
        let name = repo.to_string();
        let Some(entry) = entries.get_mut(&name) else {
            return;
        };
        if entry.is_kept || entry.credential != *credential {
            return;
        }
        match entry.before.take() {
            Some(before) => {
                entry.credential = before;
                entry.is_kept = true;
            }
            None => {
                entries.remove(&name);
            }
        }
    }

    /// What came with the last pull from `repo`, and what had proved good before it.
    pub(super) fn find(&self, repo: &RepoRef) -> Vec<Credential> {
        let entries = self.entries();
        let entry = entries.get(&repo.to_string()).cloned();
        let credentials = entry.map(|entry| [Some(entry.credential), entry.before]);
        credentials.into_iter().flatten().flatten().collect()
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, entries: &BTreeMap<String, Entry>) -> Result<(), SealError> {
        let Some(sealed) = &self.sealed else {
            return Ok(());
        };
        let entries = entries.iter();
        let written: Vec<Written> = entries
            .filter_map(|(repo, entry)| written(repo, entry))
            .collect();
        // Nothing in it can fail to be JSON.
        let text = serde_json::to_vec(&written).unwrap_or_default();
        sealed.write(&text)
    }
}

fn read(sealed: &Sealed) -> Result<BTreeMap<String, Entry>, SealError> {
    let Some(text) = sealed.read()? else {
        return Ok(BTreeMap::new());
    };
    // Sealed by us: what is not understood is a newer version's.
    let written: Vec<Written> = serde_json::from_slice(&text).unwrap_or_default();
    let entries = written.into_iter().map(|written| {
        let credential = match written.credential {
            WrittenCredential::Basic { username, password } => Credential::Basic {
                username,
                password: Secret::new(password),
            },
            WrittenCredential::IdentityToken { token } => {
                Credential::IdentityToken(Secret::new(token))
            }
            WrittenCredential::RegistryToken { token } => {
                Credential::RegistryToken(Secret::new(token))
            }
        };
        let entry = Entry {
            credential,
            learnt_at: written.learnt_at,
            is_kept: true,
            before: None,
        };
        (written.repo, entry)
    });
    Ok(entries.collect())
}

fn written(repo: &str, entry: &Entry) -> Option<Written> {
    let good = if entry.is_kept {
        &entry.credential
    } else {
        entry.before.as_ref()?
    };
    let credential = match good {
        Credential::Anonymous => return None,
        Credential::Basic { username, password } => WrittenCredential::Basic {
            username: username.clone(),
            password: password.reveal().to_owned(),
        },
        Credential::IdentityToken(token) => WrittenCredential::IdentityToken {
            token: token.reveal().to_owned(),
        },
        Credential::RegistryToken(token) => WrittenCredential::RegistryToken {
            token: token.reveal().to_owned(),
        },
    };
    Some(Written {
        repo: repo.to_owned(),
        learnt_at: entry.learnt_at,
        credential,
    })
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(password: &str) -> Credential {
        Credential::Basic {
            username: "u".to_owned(),
            password: Secret::new(password),
        }
    }

    fn repo(name: &str) -> RepoRef {
        format!("registry.example/{name}").parse().unwrap()
    }

    #[test]
    fn what_proved_good_outlives_the_process_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let learnt = Learnt::open(dir.path());
        let token = Credential::IdentityToken(Secret::new("hunter3"));
        learnt.learn(&repo("good"), basic("hunter1"));
        learnt.learn(&repo("token"), token.clone());
        learnt.learn(&repo("open"), basic("hunter2"));
        learnt.proved(&repo("good"), &basic("hunter1")).unwrap();
        learnt.proved(&repo("token"), &token).unwrap();
        assert_eq!(learnt.find(&repo("open")), [basic("hunter2")]);
        assert_eq!(learnt.find(&repo("good/below")), []);
        drop(learnt);
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            assert!(!bytes.windows(6).any(|part| part == b"hunter"));
        }
        let next = Learnt::open(dir.path());
        assert_eq!(next.find(&repo("good")), [basic("hunter1")]);
        assert_eq!(next.find(&repo("token")), [token]);
        assert_eq!(next.find(&repo("open")), []);
        assert!(!format!("{next:?}").contains("hunter"));
    }

    #[test]
    fn a_failed_pull_takes_back_what_it_brought_and_nothing_else() {
        let learnt = Learnt::in_memory();
        learnt.learn(&repo("a"), basic("good"));
        learnt.proved(&repo("a"), &basic("good")).unwrap();
        learnt.failed(&repo("a"), &basic("good"));
        assert_eq!(learnt.find(&repo("a")), [basic("good")]);
        learnt.learn(&repo("a"), basic("bad"));
        learnt.learn(&repo("a"), basic("worse"));
        learnt.failed(&repo("a"), &basic("other"));
        assert_eq!(learnt.find(&repo("a")), [basic("worse"), basic("good")]);
        learnt.failed(&repo("a"), &basic("worse"));
        assert_eq!(learnt.find(&repo("a")), [basic("good")]);
        learnt.learn(&repo("b"), basic("bad"));
        learnt.failed(&repo("b"), &basic("bad"));
        assert_eq!(learnt.find(&repo("b")), []);
        learnt.learn(&repo("b"), Credential::Anonymous);
        assert_eq!(learnt.find(&repo("b")), []);
    }

    #[test]
    fn a_broken_file_is_as_if_there_were_none() {
        let dir = tempfile::tempdir().unwrap();
        let learnt = Learnt::open(dir.path());
        learnt.learn(&repo("a"), basic("p"));
        learnt.proved(&repo("a"), &basic("p")).unwrap();
        std::fs::write(dir.path().join("credentials"), "nonsense").unwrap();
        let next = Learnt::open(dir.path());
        assert_eq!(next.find(&repo("a")), []);
        next.learn(&repo("a"), basic("q"));
        next.proved(&repo("a"), &basic("q")).unwrap();
        assert_eq!(Learnt::open(dir.path()).find(&repo("a")), [basic("q")]);
        std::fs::write(dir.path().join("credentials.key"), "short").unwrap();
        let last = Learnt::open(dir.path());
        last.learn(&repo("a"), basic("r"));
        last.proved(&repo("a"), &basic("r")).unwrap();
        assert_eq!(last.find(&repo("a")), [basic("r")]);
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let learnt = Learnt::in_memory();
        for number in 0..REPOS_MAX + 10 {
            learnt.learn(&repo(&format!("r{number}")), basic("p"));
        }
        assert_eq!(learnt.entries().len(), REPOS_MAX);
    }
}
