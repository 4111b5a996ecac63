//! Other places that have a registry's blobs, and which of them to leave alone for a while.
//!
//! What is named by a digest is checked by that digest or by the blob's chunk table, so a mirror needs no trust: a bad one
//! costs time, and then it is left alone. Only the registry itself may say what a tag means, and whom a file of hosts trusts
//! with that. A mirror is asked with its own credentials; those of the registry never travel there.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;
use tranship_format::Digest;

use super::endpoint::Endpoint;
use super::error::RegistryFailure;
use crate::reference::RepoRef;

/// A mirror that failed is left alone for so long, if it does not say how long itself.
const FAILED: Duration = Duration::from_secs(30);
/// One that lacks a blob, or does not give it to us, is not asked for it again for so long.
const LACKING: Duration = Duration::from_mins(5);
/// One that gave wrong bytes is left alone for so long.
const LIED: Duration = Duration::from_mins(10);
/// Entries that are remembered before those that are over are swept out.
const SWEPT_AT: usize = 4096;

/// A registry or a mirror whose name cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no registry's host, such as mirror.example or mirror.example:5000")]
pub struct BadMirror(pub String);

/// The mirrors of registries, in the order in which they are asked before the registry itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirrors(BTreeMap<String, Vec<String>>);

impl Mirrors {
    /// Takes mirrors by registry; both as references name a host.
    ///
    /// # Errors
    /// [`BadMirror`] names the host that is none.
    pub fn new(
        mirrors: impl IntoIterator<Item = (String, Vec<String>)>,
    ) -> Result<Self, BadMirror> {
        let host = |text: String| match format!("{text}/a/b").parse::<RepoRef>() {
            // A first part that is no host is taken as a part of Docker Hub's repository.
            Ok(repo) if repo.path() == "a/b" => Ok(repo.host().to_owned()),
            _ => Err(BadMirror(text)),
        };
        let entries = mirrors.into_iter().map(|(registry, mirrors)| {
            let mirrors: Result<_, _> = mirrors.into_iter().map(host).collect();
            Ok((host(registry)?, mirrors?))
        });
        Ok(Self(entries.collect::<Result<_, BadMirror>>()?))
    }

    /// The repository at each mirror of its registry.
    pub(super) fn of(&self, repo: &RepoRef) -> impl Iterator<Item = RepoRef> {
        let mirrors = self.0.get(repo.host()).into_iter().flatten();
        mirrors.map(|mirror| repo.at_host(mirror))
    }
}

/// What is known of mirrors by experience.
#[derive(Debug, Default)]
pub(super) struct Experience {
    /// Until when a mirror is left alone, altogether or for one blob.
    aside: Mutex<BTreeMap<(String, Option<Digest>), Instant>>,
    /// Which mirror began to answer for a blob last.
    answered: Mutex<BTreeMap<Digest, String>>,
}

impl Experience {
    /// Whether a mirror is to be asked, for a blob or a manifest or, without one, for a tag.
    pub(super) fn is_willing(&self, mirror: &Endpoint, digest: Option<&Digest>) -> bool {
        let aside = self.aside.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let waits = |digest: Option<Digest>| {
            let until = aside.get(&(mirror.name().to_owned(), digest));
            until.is_some_and(|until| now < *until)
        };
        !waits(None) && !digest.is_some_and(|digest| waits(Some(*digest)))
    }

    /// Somebody began to answer for a blob: a mirror, or with `None` the registry itself.
    pub(super) fn answers(&self, digest: &Digest, mirror: Option<&Endpoint>) {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        match mirror {
            Some(mirror) => {
                if answered.len() >= SWEPT_AT {
                    answered.pop_first();
                }
                answered.insert(*digest, mirror.name().to_owned());
            }
            None => {
                answered.remove(digest);
            }
        }
    }

    /// A mirror did not answer as it should; comes back with why.
    pub(super) fn failed(
        &self,
        mirror: &Endpoint,
        digest: Option<&Digest>,
        failure: RegistryFailure,
    ) -> RegistryFailure {
        let mirror = mirror.name();
        let error: &dyn std::error::Error = &failure;
        if let Some(digest) = digest {
            tracing::warn!(mirror, %digest, error, "a mirror fails, others are asked");
        } else {
            tracing::warn!(mirror, error, "a mirror fails, others are asked");
        }
        self.put_aside(mirror, digest, &failure);
        failure
    }

    /// Whoever answered for a blob last broke off, or what it gave is not the blob.
    pub(super) fn disappointed(&self, digest: &Digest, failure: &RegistryFailure) {
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let mirror = answered.remove(digest);
        drop(answered);
        if let Some(mirror) = mirror {
            tracing::warn!(
                mirror,
                %digest,
                error = failure as &dyn std::error::Error,
                "a mirror disappoints, others are asked"
            );
            self.put_aside(&mirror, Some(digest), failure);
        }
    }

    fn put_aside(&self, mirror: &str, digest: Option<&Digest>, failure: &RegistryFailure) {
        let (blob, pause) = match failure {
            RegistryFailure::TooManyRequests { retry_after, .. }
            | RegistryFailure::Server { retry_after, .. } => (None, retry_after.unwrap_or(FAILED)),
            RegistryFailure::TimedOut { .. }
            | RegistryFailure::Transport { .. }
            | RegistryFailure::ShortBody { .. }
            | RegistryFailure::Tls { .. }
            | RegistryFailure::Token(_) => (None, FAILED),
            RegistryFailure::WrongDigest { .. } => (None, LIED),
            // A tag that it lacks today it may have in a moment.
            _ if digest.is_none() => return,
            _ => (digest.copied(), LACKING),
        };
        let now = Instant::now();
        let mut aside = self.aside.lock().unwrap_or_else(PoisonError::into_inner);
        if aside.len() >= SWEPT_AT {
            aside.retain(|_, until| now < *until);
        }
        if let Some(until) = now.checked_add(pause) {
            aside.insert((mirror.to_owned(), blob), until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_taken_as_references_name_them() {
        let one = |registry: &str, mirror: &str| {
            Mirrors::new([(registry.to_owned(), vec![mirror.to_owned()])])
        };
        let hub = one("index.docker.io", "mirror.example:5000").unwrap();
        let repo: RepoRef = "busybox".parse().unwrap();
        let mirrors: Vec<_> = hub.of(&repo).map(|mirror| mirror.to_string()).collect();
        assert_eq!(mirrors, ["mirror.example:5000/library/busybox"]);
        for wrong in ["mirror", "https://mirror.example", "a.b/c", "", "a b.c"] {
            assert_eq!(
                one("registry.example", wrong),
                Err(BadMirror(wrong.to_owned()))
            );
            assert!(one(wrong, "mirror.example").is_err());
        }
    }
}
