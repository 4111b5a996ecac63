//! What is put into a request's `Authorization` header, and until when.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;
use tokio::time::Instant;

use crate::registry::error::RegistryFailure;

/// What is put into a request's `Authorization` header.
#[derive(Clone, Debug)]
pub(in crate::registry) struct Pass {
    header: HeaderValue,
    kind: Kind,
    /// From when on whoever uses it has the next one fetched, and shows this one meanwhile.
    renew_at: Option<Instant>,
    /// From when on it is not used any more.
    stale_at: Option<Instant>,
}

/// Where a pass comes from: what else whoever sees it could do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::registry) enum Kind {
    /// A token that anybody is given.
    Anonymous,
    /// A token for the scope, which the token service gave for our credentials; it soon expires.
    Scoped,
    /// Our credentials themselves.
    Secret,
}

impl Pass {
    /// One that is good until it is refused.
    pub(super) fn new(value: &str, kind: Kind) -> Result<Self, RegistryFailure> {
        let mut header = HeaderValue::from_str(value).map_err(|_| {
            RegistryFailure::Malformed("a token with forbidden characters".to_owned())
        })?;
        header.set_sensitive(true);
        Ok(Self {
            header,
            kind,
            renew_at: None,
            stale_at: None,
        })
    }

    pub(super) fn bearer(token: &str) -> Result<Self, RegistryFailure> {
        Self::new(&format!("Bearer {token}"), Kind::Secret)
    }

    pub(super) fn basic(username: &str, password: &str) -> Result<Self, RegistryFailure> {
        Self::new(&basic_value(username, password), Kind::Secret)
    }

    /// The same, not used from `stale_at` on, and renewed before that.
    pub(super) fn until(self, stale_at: Instant, early: Duration) -> Self {
        Self {
            renew_at: stale_at.checked_sub(early),
            stale_at: Some(stale_at),
            ..self
        }
    }

    /// The same, renewed from then on.
    pub(super) fn renewed_at(self, renew_at: Option<Instant>) -> Self {
        Self { renew_at, ..self }
    }

    /// The same, if it would be renewed before `at`, only from then on.
    pub(super) fn not_renewed_before(self, at: Instant) -> Self {
        Self {
            renew_at: self.renew_at.map(|renew_at| renew_at.max(at)),
            ..self
        }
    }

    pub(in crate::registry) fn header(&self) -> &HeaderValue {
        &self.header
    }

    pub(in crate::registry) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn is_one_of(&self, passes: &[Self]) -> bool {
        passes.iter().any(|pass| pass.header == self.header)
    }

    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        self.stale_at.is_none_or(|stale_at| now < stale_at)
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.renew_at.is_some_and(|renew_at| now >= renew_at)
    }
}

/// HTTP's basic scheme.
pub(super) fn basic_value(username: &str, password: &str) -> String {
    format!(
        "Basic {}",
        STANDARD.encode(format!("{username}:{password}"))
    )
}
