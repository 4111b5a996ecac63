//! What we show to registries so that they let us in, kept for each scope until it expires.
//!
//! A hundred chunk reads find out together that their token is old: one of them gets the new one, the others wait
//! for it. Some registries answer 403 where 401 is meant, so both renew, but only once for each request:
//! a token that is fresh and still refused is a no.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;
use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::error::{RegistryFailure, TokenError};
use crate::credentials::{Credential, Credentials};
use crate::reference::RepoRef;

mod challenge;
mod token;

pub(super) use challenge::Challenge;

/// How many scopes are remembered before expired ones are swept out.
const SLOTS_SWEPT_AT: usize = 1024;

/// How many credentials are tried after the first was refused.
pub(super) const OTHERS_MAX: usize = 4;

/// What a request needs to be allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Access {
    Pull,
    PullAndPush,
}

impl Access {
    fn actions(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::PullAndPush => "pull,push",
        }
    }
}

/// For what a pass is good: one repository for some actions, and perhaps another one to read from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Scope {
    repo: RepoRef,
    access: Access,
    also_pull: Option<RepoRef>,
}

impl Scope {
    pub(super) fn new(repo: &RepoRef, access: Access) -> Self {
        Self {
            repo: repo.clone(),
            access,
            also_pull: None,
        }
    }

    /// Also permits to read from `repo`, to mount a blob from there.
    pub(super) fn and_pull(mut self, repo: &RepoRef) -> Self {
        self.also_pull = Some(repo.clone());
        self
    }

    /// The scopes as token services name them.
    fn names(&self) -> Vec<String> {
        let own = format!("repository:{}:{}", self.repo.path(), self.access.actions());
        let other = self
            .also_pull
            .as_ref()
            .map(|repo| format!("repository:{}:pull", repo.path()));
        [own].into_iter().chain(other).collect()
    }
}

/// What is put into a request's `Authorization` header.
#[derive(Clone, Debug)]
pub(super) struct Pass {
    header: HeaderValue,
    kind: Kind,
    /// From when on it is not used any more.
    stale_at: Option<Instant>,
}

impl Pass {
    pub(super) fn header(&self) -> &HeaderValue {
        &self.header
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    fn is_one_of(&self, passes: &[Self]) -> bool {
        passes.iter().any(|pass| pass.header == self.header)
    }

    fn is_fresh(&self, now: Instant) -> bool {
        self.stale_at.is_none_or(|stale_at| now < stale_at)
    }
}

/// Where a pass comes from: what else whoever sees it could do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A token that anybody is given.
    Anonymous,
    /// A token for the scope, which the token service gave for our credentials; it soon expires.
    Scoped,
    /// Our credentials themselves.
    Secret,
}

#[derive(Debug, Default)]
struct Slot {
    pass: Option<Pass>,
    /// How the registry lets us in; known after its first 401.
    challenge: Option<Challenge>,
}

impl Slot {
    fn is_fresh(&self, now: Instant) -> bool {
        self.pass.as_ref().is_some_and(|pass| pass.is_fresh(now))
    }
}

/// Passes by scope.
#[derive(Debug)]
pub(super) struct Auth {
    credentials: Credentials,
    /// The outer lock is held for look-ups only. The inner one is held while a pass is fetched, which makes all
    /// others of the scope wait for that pass; a fetcher that is dropped lets the next one try.
    slots: Mutex<BTreeMap<Scope, Arc<tokio::sync::Mutex<Slot>>>>,
}

impl Auth {
    pub(super) fn new(credentials: Credentials) -> Self {
        Self {
            credentials,
            slots: Mutex::default(),
        }
    }

    /// The pass to show, if one is needed and known; an expired one is renewed first.
    pub(super) async fn pass(
        &self,
        endpoint: &Endpoint,
        scope: &Scope,
    ) -> Result<Option<Pass>, RegistryFailure> {
        let slot = self.slot(scope);
        let mut slot = slot.lock().await;
        match (&slot.pass, &slot.challenge) {
            (Some(pass), Some(challenge)) if !pass.is_fresh(Instant::now()) => {
                let challenge = challenge.clone();
                slot.pass = self.fetch(endpoint, scope, &challenge, &[]).await?;
            }
            _ => {}
        }
        Ok(slot.pass.clone())
    }

    /// The pass that would be shown, if there is one, it is fresh, and nobody is renewing it just now.
    pub(super) fn pass_at_hand(&self, scope: &Scope) -> Option<Pass> {
        let slot = self.slot(scope);
        let slot = slot.try_lock().ok()?;
        slot.pass
            .clone()
            .filter(|pass| pass.is_fresh(Instant::now()))
    }

    /// Gets a new pass after those `refused` (or none) were not let in, for the time that `again` counts from 0. False if
    /// there is nothing else to show.
    pub(super) async fn renew(
        &self,
        endpoint: &Endpoint,
        scope: &Scope,
        challenge: Option<Challenge>,
        refused: &[Pass],
        again: usize,
    ) -> Result<bool, RegistryFailure> {
        let slot = self.slot(scope);
        let mut slot = slot.lock().await;
        let is_refused = |pass: &Pass| pass.is_one_of(refused);
        if let Some(pass) = &slot.pass
            && !is_refused(pass)
            && pass.is_fresh(Instant::now())
        {
            return Ok(true);
        }
        let Some(challenge) = challenge.or_else(|| slot.challenge.clone()) else {
            return Ok(false);
        };
        // The token service has seen each credential; of those that go to the registry itself each is tried there.
        let is_token = matches!(challenge, Challenge::Bearer { .. });
        if again > 0 && is_token {
            return Ok(false);
        }
        let pass = self.fetch(endpoint, scope, &challenge, refused).await?;
        let is_new = pass.as_ref().is_some_and(|pass| !is_refused(pass));
        slot.challenge = Some(challenge);
        slot.pass = pass;
        Ok(is_new)
    }

    /// A pass for the best credential that is not refused: neither by the token service now, nor as `refused` by the registry before.
    async fn fetch(
        &self,
        endpoint: &Endpoint,
        scope: &Scope,
        challenge: &Challenge,
        refused: &[Pass],
    ) -> Result<Option<Pass>, RegistryFailure> {
        let mut tried = Vec::new();
        let mut last = None;
        loop {
            let credential = match (self.credentials.find_other(&scope.repo, &tried).await, last) {
                (Ok(Credential::Anonymous) | Err(_), Some(last)) => return last,
                (found, _) => found?,
            };
            let got = self.show(endpoint, scope, challenge, &credential).await;
            let is_refused = match &got {
                Ok(Some(pass)) => pass.is_one_of(refused),
                Ok(None) => false,
                Err(failure) => failure.is_refusal(),
            };
            if !is_refused || credential == Credential::Anonymous || tried.len() >= OTHERS_MAX {
                return got;
            }
            last = Some(got);
            tried.push(credential);
        }
    }

    /// What is shown for a credential, if it is of use to the registry.
    async fn show(
        &self,
        endpoint: &Endpoint,
        scope: &Scope,
        challenge: &Challenge,
        credential: &Credential,
    ) -> Result<Option<Pass>, RegistryFailure> {
        match (challenge, credential) {
            (_, Credential::RegistryToken(token)) => bearer(token.reveal()).map(Some),
            (Challenge::Basic, Credential::Basic { username, password }) => {
                basic(username, password.reveal()).map(Some)
            }
            (Challenge::Basic, Credential::Anonymous | Credential::IdentityToken(_)) => Ok(None),
            (Challenge::Bearer { realm, .. }, credential) => {
                let token = token::fetch(endpoint, challenge, &scope.names(), credential).await;
                token.map(Some).map_err(|failure| {
                    RegistryFailure::Token(TokenError {
                        realm: realm.clone(),
                        failure: Box::new(failure),
                    })
                })
            }
        }
    }

    fn slot(&self, scope: &Scope) -> Arc<tokio::sync::Mutex<Slot>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= SLOTS_SWEPT_AT && !slots.contains_key(scope) {
            let now = Instant::now();
            slots.retain(|_, slot| {
                let in_use = Arc::strong_count(slot) > 1;
                in_use || slot.try_lock().is_ok_and(|slot| slot.is_fresh(now))
            });
        }
        Arc::clone(slots.entry(scope.clone()).or_default())
    }
}

fn bearer(token: &str) -> Result<Pass, RegistryFailure> {
    pass(&format!("Bearer {token}"), Kind::Secret, None)
}

fn basic(username: &str, password: &str) -> Result<Pass, RegistryFailure> {
    pass(&basic_value(username, password), Kind::Secret, None)
}

fn basic_value(username: &str, password: &str) -> String {
    format!(
        "Basic {}",
        STANDARD.encode(format!("{username}:{password}"))
    )
}

fn pass(value: &str, kind: Kind, stale_at: Option<Instant>) -> Result<Pass, RegistryFailure> {
    let mut header = HeaderValue::from_str(value)
        .map_err(|_| RegistryFailure::Malformed("a token with forbidden characters".to_owned()))?;
    header.set_sensitive(true);
    Ok(Pass {
        header,
        kind,
        stale_at,
    })
}
