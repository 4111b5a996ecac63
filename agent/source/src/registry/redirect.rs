//! Where a blob's bytes really are, remembered for a short time.
//!
//! Registries often answer a blob request with a redirect to storage, signed and short-lived. Asking again for each
//! chunk would double the requests; trusting it too long would fail all readers at once. So it is kept for a
//! while, and when it is refused one reader asks the registry for the next one while the others wait.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Url;
use tokio::time::Instant;

/// How many blobs are remembered before unused ones are swept out.
const ROUTES_SWEPT_AT: usize = 4096;

/// How to reach one blob.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Route {
    /// Nobody asked yet, or what was known is no longer true.
    #[default]
    Unknown,
    /// The registry itself sends the bytes.
    Direct,
    /// Somebody else does, until then.
    Via(Url, Instant),
}

/// Locked while the registry is asked for the route, and otherwise only to look at it.
pub(super) type SharedRoute = Arc<tokio::sync::Mutex<Route>>;

#[derive(Debug)]
pub(super) struct Routes {
    life: Duration,
    routes: Mutex<BTreeMap<Url, SharedRoute>>,
}

impl Routes {
    pub(super) fn new(life: Duration) -> Self {
        Self {
            life,
            routes: Mutex::default(),
        }
    }

    /// The route of the blob that an endpoint has at `url`.
    pub(super) fn of(&self, url: &Url) -> SharedRoute {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if routes.len() >= ROUTES_SWEPT_AT && !routes.contains_key(url) {
            routes.retain(|_, route| Arc::strong_count(route) > 1);
        }
        Arc::clone(routes.entry(url.clone()).or_default())
    }

    /// The route that an answer shows, which came from `answered` when the registry was asked at `asked`.
    pub(super) fn learnt(&self, asked: &Url, answered: &Url) -> Route {
        if asked == answered {
            return Route::Direct;
        }
        match Instant::now().checked_add(self.life) {
            Some(until) => Route::Via(answered.clone(), until),
            None => Route::Unknown,
        }
    }
}
