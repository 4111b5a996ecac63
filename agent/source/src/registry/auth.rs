//! What we show to registries so that they let us in, kept for each scope until it expires.
//!
//! A hundred chunk reads find out together that their token is old: one of them gets the new one, the others wait
//! for it. Mostly nobody has to: whoever shows one that is about to expire has the next one fetched behind his back. Nothing is
//! renewed that nobody uses: a node with a thousand images would keep token services busy for ever. Some registries answer 403 where 401 is
//! meant, so both renew, but only once for each request: a token that is fresh and still refused is a no.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::error::{RegistryFailure, TokenError};
use crate::credentials::{Credential, Credentials};
use crate::reference::RepoRef;

mod challenge;
mod pass;
mod token;

pub(super) use challenge::Challenge;
pub(super) use pass::{Kind, Pass};

/// How many scopes are remembered before expired ones are swept out.
const SLOTS_SWEPT_AT: usize = 1024;

/// How many credentials are tried after the first was refused.
pub(super) const OTHERS_MAX: usize = 4;

/// How long after a pass was renewed in vain, or to no avail, that is tried again.
const RENEWED_AT_MOST_EVERY: Duration = Duration::from_secs(10);

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

/// What is known of one scope.
#[derive(Debug, Default)]
struct Slot {
    /// What is shown now. Looked at without waiting for whoever gets the next one.
    shown: Mutex<Option<Pass>>,
    /// How the registry lets us in; known after its first 401. Held while a pass is fetched, which makes all who have none that is
    /// fresh wait for that one; a fetcher that is dropped lets the next one try.
    challenge: Arc<tokio::sync::Mutex<Option<Challenge>>>,
}

impl Slot {
    fn shown(&self) -> Option<Pass> {
        self.lock().clone()
    }

    fn fresh(&self, now: Instant) -> Option<Pass> {
        self.shown().filter(|pass| pass.is_fresh(now))
    }

    fn show(&self, pass: Option<Pass>) {
        *self.lock() = pass;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Pass>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Passes by scope.
#[derive(Debug)]
pub(super) struct Auth {
    credentials: Credentials,
    slots: Mutex<BTreeMap<Scope, Arc<Slot>>>,
}

impl Auth {
    pub(super) fn new(credentials: Credentials) -> Self {
        Self {
            credentials,
            slots: Mutex::default(),
        }
    }

    /// The pass to show, if one is needed and known; an expired one is renewed first, and one that is about to expire behind.
    pub(super) async fn pass(
        &self,
        endpoint: &Endpoint,
        scope: &Scope,
    ) -> Result<Option<Pass>, RegistryFailure> {
        let slot = self.slot(scope);
        let now = Instant::now();
        if let Some(pass) = slot.fresh(now) {
            if pass.is_due(now) {
                self.renew_behind(&slot, endpoint, scope);
            }
            return Ok(Some(pass));
        }
        let challenge = slot.challenge.lock().await;
        match (slot.shown(), &*challenge) {
            (Some(pass), Some(challenge)) if !pass.is_fresh(Instant::now()) => {
                let pass = fetch(&self.credentials, endpoint, scope, challenge, &[]).await?;
                slot.show(pass.clone());
                Ok(pass)
            }
            (pass, _) => Ok(pass),
        }
    }

    /// Has the next pass fetched while this one is shown, unless somebody gets one already.
    fn renew_behind(&self, slot: &Arc<Slot>, endpoint: &Endpoint, scope: &Scope) {
        let Ok(turn) = Arc::clone(&slot.challenge).try_lock_owned() else {
            return;
        };
        // It may have been renewed since it was looked at.
        let old = slot.shown().filter(|pass| pass.is_due(Instant::now()));
        let (Some(challenge), Some(old)) = (turn.clone(), old) else {
            return;
        };
        let (credentials, slot) = (self.credentials.clone(), Arc::clone(slot));
        let (endpoint, scope) = (endpoint.clone(), scope.clone());
        tokio::spawn(async move {
            let fetched = fetch(&credentials, &endpoint, &scope, &challenge, &[]).await;
            let next = match fetched {
                // What anybody is given may be less than what we have.
                Ok(found) => found
                    .filter(|pass| pass.kind() != Kind::Anonymous || old.kind() == Kind::Anonymous),
                Err(error) => {
                    tracing::warn!(repo = %scope.repo, error = &error as &dyn Error, "what we show to the registry is not renewed; it is shown until it expires");
                    None
                }
            };
            let soon = Instant::now() + RENEWED_AT_MOST_EVERY;
            slot.show(Some(next.unwrap_or(old).not_renewed_before(soon)));
            drop(turn);
        });
    }

    /// The pass that would be shown, if there is one and it is fresh.
    pub(super) fn pass_at_hand(&self, scope: &Scope) -> Option<Pass> {
        self.slot(scope).fresh(Instant::now())
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
        let mut known = slot.challenge.lock().await;
        let is_refused = |pass: &Pass| pass.is_one_of(refused);
        if let Some(pass) = slot.fresh(Instant::now())
            && !is_refused(&pass)
        {
            return Ok(true);
        }
        let Some(challenge) = challenge.or_else(|| known.clone()) else {
            return Ok(false);
        };
        // The token service has seen each credential; of those that go to the registry itself each is tried there.
        let is_token = matches!(challenge, Challenge::Bearer { .. });
        if again > 0 && is_token {
            return Ok(false);
        }
        // So that whoever comes meanwhile waits, and does not show it as well.
        slot.show(None);
        let pass = fetch(&self.credentials, endpoint, scope, &challenge, refused).await?;
        let is_new = pass.as_ref().is_some_and(|pass| !is_refused(pass));
        *known = Some(challenge);
        slot.show(pass);
        Ok(is_new)
    }

    fn slot(&self, scope: &Scope) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= SLOTS_SWEPT_AT && !slots.contains_key(scope) {
            let now = Instant::now();
            slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.fresh(now).is_some());
        }
        Arc::clone(slots.entry(scope.clone()).or_default())
    }
}

/// A pass for the best credential that is not refused: neither by the token service now, nor as `refused` by the registry before.
async fn fetch(
    credentials: &Credentials,
    endpoint: &Endpoint,
    scope: &Scope,
    challenge: &Challenge,
    refused: &[Pass],
) -> Result<Option<Pass>, RegistryFailure> {
    let mut tried = Vec::new();
    let mut last = None;
    loop {
        let credential = match (credentials.find_other(&scope.repo, &tried).await, last) {
            (Ok(Credential::Anonymous) | Err(_), Some(last)) => return last,
            (found, _) => found?,
        };
        let got = show(credentials, endpoint, scope, challenge, &credential).await;
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
    credentials: &Credentials,
    endpoint: &Endpoint,
    scope: &Scope,
    challenge: &Challenge,
    credential: &Credential,
) -> Result<Option<Pass>, RegistryFailure> {
    let secret = match (challenge, credential) {
        (_, Credential::RegistryToken(token)) => Pass::bearer(token.reveal())?,
        (Challenge::Basic, Credential::Basic { username, password }) => {
            Pass::basic(username, password.reveal())?
        }
        (Challenge::Basic, Credential::Anonymous | Credential::IdentityToken(_)) => {
            return Ok(None);
        }
        (Challenge::Bearer { realm, .. }, credential) => {
            let token = token::fetch(endpoint, challenge, &scope.names(), credential).await;
            return token.map(Some).map_err(|failure| {
                RegistryFailure::Token(TokenError {
                    realm: realm.clone(),
                    failure: Box::new(failure),
                })
            });
        }
    };
    let renew_at = credentials.renew_at(&scope.repo, credential).await;
    Ok(Some(secret.renewed_at(renew_at)))
}
