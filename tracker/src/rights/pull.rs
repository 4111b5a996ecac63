//! Asks registries whether an image may be pulled, once for all who ask together.
//!
//! The question is the manifest itself, by its digest: whoever is given it may pull the image, and what it
//! names are the image's blobs. It is read once and only looked for after that. What a node showed goes to
//! the registry that the node named and nowhere else, and is forgotten; answers are remembered by its hash.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tranship_format::Digest;
use tranship_format::wire::{ImageSource, MAX_BLOBS, PullProof};
use tranship_source::credentials::Secret;
use tranship_source::reference::ManifestSelector;
use tranship_source::{
    Credential, Credentials, RegistryClient, RegistryError, RepoRef, Verdict, places,
};

/// One question may take so long.
const PATIENCE: Duration = Duration::from_secs(10);
/// What anybody may pull is not asked again for so long.
const PUBLIC: Duration = Duration::from_mins(5);
/// What somebody with this very proof may pull: long enough for all questions about one start.
const PROVED: Duration = Duration::from_secs(10);
/// A no. Nodes ask again by themselves, and an image may just be on its way to the registry.
const REFUSED: Duration = Duration::from_secs(30);
/// A registry that is away may soon be back.
const AWAY: Duration = Duration::from_secs(2);
/// Questions asked at once.
const AT_ONCE: usize = 64;
/// Answers and manifests remembered before old ones are swept out.
const REMEMBERED: usize = 65_536;
/// As many manifests.
const MANIFESTS: usize = 16_384;

/// What a registry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The image may be pulled; its blobs.
    Yes(Arc<[Digest]>),
    /// It may not, or there is none.
    No,
    /// The registry does not say.
    Unknown,
}

type Cell = Arc<tokio::sync::Mutex<Option<(Answer, Instant)>>>;

/// Asks and remembers.
#[derive(Debug)]
pub(crate) struct Puller {
    /// Without credentials.
    client: RegistryClient,
    allowed: Vec<String>,
    at_once: Semaphore,
    /// By hash of image and proof. The inner lock is held while the registry is asked.
    answers: Mutex<BTreeMap<Digest, Cell>>,
    manifests: Mutex<BTreeMap<Digest, Arc<[Digest]>>>,
}

impl Puller {
    /// Asks registries through `client`, whose credentials must be none: all of them, or those in `allowed`.
    pub(crate) fn new(client: RegistryClient, allowed: Vec<String>) -> Self {
        Self {
            client,
            allowed,
            at_once: Semaphore::new(AT_ONCE),
            answers: Mutex::default(),
            manifests: Mutex::default(),
        }
    }

    /// Whether whoever shows `proof` may pull the image.
    pub(crate) async fn ask(&self, image: &ImageSource, proof: &PullProof) -> Answer {
        let name = format!("{}/{}", image.registry, image.repository);
        let repo = match name.parse::<RepoRef>() {
            // A name that means another registry than it says would be granted under a wrong one.
            Ok(repo) if repo.host() == image.registry => repo,
            _ => return Answer::No,
        };
        if !self.allowed.is_empty() && !places::cover(&self.allowed, &repo) {
            tracing::info!(repository = %repo, "an image is not granted: the tracker may not ask its registry");
            return Answer::No;
        }
        let public = self.remembered(&repo, image.manifest, None);
        let public = public.await;
        if matches!(public, Answer::No) && *proof != PullProof::None {
            return self.remembered(&repo, image.manifest, Some(proof)).await;
        }
        public
    }

    async fn remembered(
        &self,
        repo: &RepoRef,
        manifest: Digest,
        proof: Option<&PullProof>,
    ) -> Answer {
        let cell = self.cell(key(repo, &manifest, proof));
        let mut cell = cell.lock().await;
        if let Some((answer, until)) = &*cell
            && *until > Instant::now()
        {
            return answer.clone();
        }
        let credential = match proof {
            None => Some(Credential::Anonymous),
            Some(proof) => credential(proof),
        };
        let answer = match credential {
            Some(credential) => self.pull(repo, manifest, credential).await,
            None => Answer::No,
        };
        let life = match (&answer, proof) {
            (Answer::Yes(_), None) => PUBLIC,
            (Answer::Yes(_), Some(_)) => PROVED,
            (Answer::No, _) => REFUSED,
            (Answer::Unknown, _) => AWAY,
        };
        *cell = Some((answer.clone(), Instant::now() + life));
        answer
    }

    async fn pull(&self, repo: &RepoRef, manifest: Digest, credential: Credential) -> Answer {
        let is_public = credential == Credential::Anonymous;
        let client = if is_public {
            self.client.clone()
        } else {
            let credentials = Credentials::anonymous().with(&repo.to_string(), credential);
            self.client.with_credentials(credentials)
        };
        let asking = async {
            let _turn = self.at_once.acquire().await;
            self.look(&client, repo, manifest).await
        };
        let found = tokio::time::timeout(PATIENCE, asking).await;
        match found {
            Ok(Ok(Some(blobs))) => Answer::Yes(blobs),
            Ok(Ok(None)) => Answer::No,
            Ok(Err(error)) => {
                let away = matches!(error.verdict(), Verdict::TryAgain { .. });
                if away || !is_public {
                    tracing::info!(
                        repository = %repo,
                        %manifest,
                        error = &error as &dyn std::error::Error,
                        "an image is not granted"
                    );
                }
                if away { Answer::Unknown } else { Answer::No }
            }
            Err(_) => {
                tracing::info!(repository = %repo, %manifest, "an image is not granted: its registry does not answer");
                Answer::Unknown
            }
        }
    }

    async fn look(
        &self,
        client: &RegistryClient,
        repo: &RepoRef,
        manifest: Digest,
    ) -> Result<Option<Arc<[Digest]>>, RegistryError> {
        let which = ManifestSelector::Digest(manifest);
        let known = self.manifests().get(&manifest).cloned();
        if let Some(blobs) = known {
            return Ok(client.find_manifest(repo, &which).await?.map(|_| blobs));
        }
        let document = client.manifest(repo, &which).await?;
        let Ok(image) = document.image() else {
            return Ok(None);
        };
        let layers = image.layers.iter().map(|layer| layer.digest);
        let blobs: Arc<[Digest]> = layers.take(MAX_BLOBS).collect();
        let mut manifests = self.manifests();
        if manifests.len() >= MANIFESTS {
            manifests.clear();
        }
        manifests.insert(manifest, Arc::clone(&blobs));
        Ok(Some(blobs))
    }

    fn manifests(&self) -> std::sync::MutexGuard<'_, BTreeMap<Digest, Arc<[Digest]>>> {
        self.manifests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn cell(&self, key: Digest) -> Cell {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= REMEMBERED && !answers.contains_key(&key) {
            let now = Instant::now();
            answers.retain(|_, cell| {
                let is_good = |(_, until): &(Answer, Instant)| *until > now;
                Arc::strong_count(cell) > 1
                    || cell
                        .try_lock()
                        .is_ok_and(|known| known.as_ref().is_some_and(is_good))
            });
        }
        Arc::clone(answers.entry(key).or_default())
    }
}

fn key(repo: &RepoRef, manifest: &Digest, proof: Option<&PullProof>) -> Digest {
    let secret = match proof {
        None | Some(PullProof::None) => None,
        Some(PullProof::Token(secret)) => Some((1, secret)),
        Some(PullProof::Password(secret)) => Some((2, secret)),
    };
    let mut bytes = manifest.bytes().to_vec();
    if let Some((kind, secret)) = secret {
        bytes.push(kind);
        bytes.extend_from_slice(Digest::of(secret).bytes());
    } else {
        bytes.push(0);
    }
    bytes.extend_from_slice(repo.to_string().as_bytes());
    Digest::of(&bytes)
}

fn credential(proof: &PullProof) -> Option<Credential> {
    match proof {
        PullProof::None => Some(Credential::Anonymous),
        PullProof::Token(token) => {
            let token = std::str::from_utf8(token).ok()?;
            Some(Credential::RegistryToken(Secret::new(token)))
        }
        PullProof::Password(password) => {
            let (username, password) = std::str::from_utf8(password).ok()?.split_once(':')?;
            Some(Credential::Basic {
                username: username.to_owned(),
                password: Secret::new(password),
            })
        }
    }
}

#[cfg(test)]
mod tests;
