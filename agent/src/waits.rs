//! Reads of one image that wait because no source has given their chunk yet: how long they may, and what one sees of them.
//!
//! A read that waits is a process that stands still, and whoever looks for the reason should not have to guess: each is known here with
//! its chunk and with what the sources said, for the list of devices, the metrics and the log.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;
use tranship_format::Digest;
use tranship_source::fetch::FetchError;

use crate::control::{Unserved, WaitInfo};

/// A read that waits no longer than this is a slow one, and not worth a word.
const SHOWN_AFTER: Duration = Duration::from_secs(1);
/// When the log first speaks of a read that waits, and how often again.
const TOLD_AFTER: Duration = Duration::from_secs(5);
const TOLD_EVERY: Duration = Duration::from_mins(1);
/// How long a read waits for sources that do not answer at all where it should fail and not wait.
const ERROR_PATIENCE: Duration = Duration::from_secs(10);
/// How much longer a device process waits there for an agent that is being started anew, or upgraded.
const ERROR_ABSENCE: Duration = Duration::from_secs(20);

/// How long a read may wait by this policy; `default` is for those of which nobody said how long.
pub(crate) fn deadline(unserved: Unserved, default: Duration) -> Duration {
    match unserved {
        Unserved::Error => default.min(ERROR_PATIENCE),
        Unserved::Wait(deadline) => deadline.unwrap_or(default),
    }
}

/// See the module's words.
#[derive(Debug)]
pub(crate) struct Waits {
    /// How long reads wait where nobody said otherwise.
    deadline: Duration,
    /// Whom the image's chunks are asked of, in words.
    sources: String,
    unserved: watch::Sender<Unserved>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    waiting: BTreeMap<u64, Waiting>,
    next: u64,
}

#[derive(Debug)]
struct Waiting {
    blob: Digest,
    chunk: u32,
    since: Instant,
    last: Option<FetchError>,
}

impl Waits {
    pub(crate) fn new(deadline: Duration, unserved: Unserved, registry: &str) -> Arc<Self> {
        Arc::new(Self {
            deadline,
            sources: format!("peers, the seed and the registry {registry}"),
            unserved: watch::Sender::new(unserved),
            state: Mutex::new(State {
                waiting: BTreeMap::new(),
                next: 0,
            }),
        })
    }

    /// What reads do from now on that nobody serves.
    pub(crate) fn set_unserved(&self, unserved: Unserved) {
        self.unserved.send_replace(unserved);
    }

    /// Changes when somebody says what reads do that nobody serves.
    pub(crate) fn policy(&self) -> watch::Receiver<Unserved> {
        self.unserved.subscribe()
    }

    /// How long a device process has its reads wait, for an agent that is away for up to `absence` among other things: the agent tells those that it
    /// knows of sooner.
    pub(crate) fn patience_of_process(&self, absence: Duration) -> Duration {
        match *self.unserved.borrow() {
            Unserved::Error => ERROR_PATIENCE.saturating_add(absence.min(ERROR_ABSENCE)),
            Unserved::Wait(deadline) => deadline.unwrap_or(self.deadline).saturating_add(absence),
        }
    }

    /// A read needs a chunk that is not here.
    pub(crate) fn begin(self: &Arc<Self>, blob: Digest, chunk: u32) -> Wait {
        let mut state = self.state();
        let number = state.next;
        state.next = number.wrapping_add(1);
        let waiting = Waiting {
            blob,
            chunk,
            since: Instant::now(),
            last: None,
        };
        state.waiting.insert(number, waiting);
        drop(state);
        let unserved = *self.unserved.borrow();
        Wait {
            waits: Arc::clone(self),
            number,
            deadline: deadline(unserved, self.deadline),
            fails_at_once: unserved == Unserved::Error,
        }
    }

    /// What waits at this moment, if anything has for long enough.
    pub(crate) fn look(&self) -> Option<WaitInfo> {
        let state = self.state();
        let now = Instant::now();
        let age = |waiting: &Waiting| now.saturating_duration_since(waiting.since);
        let late = || {
            let all = state.waiting.values();
            all.filter(|waiting| age(waiting) >= SHOWN_AFTER)
        };
        let oldest = late().max_by_key(|waiting| age(waiting))?;
        Some(WaitInfo {
            count: u32::try_from(late().count()).unwrap_or(u32::MAX),
            longest_ms: millis(age(oldest)),
            blob: oldest.blob.to_string(),
            chunk: oldest.chunk,
            tried: self.tried(oldest),
        })
    }

    fn tried(&self, waiting: &Waiting) -> String {
        match &waiting.last {
            Some(error) => error.to_string(),
            None => format!("no answer yet of {}", self.sources),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One read that waits; it no longer does when this is dropped.
#[derive(Debug)]
pub(crate) struct Wait {
    waits: Arc<Waits>,
    number: u64,
    /// How long it may wait.
    pub(crate) deadline: Duration,
    /// Whether it fails as soon as the sources were asked and none gave the chunk.
    pub(crate) fails_at_once: bool,
}

impl Wait {
    /// The sources have said this; whether it is the first that they said.
    pub(crate) fn note(&self, error: FetchError) -> bool {
        let mut state = self.waits.state();
        let waiting = state.waiting.get_mut(&self.number);
        waiting.is_some_and(|waiting| waiting.last.replace(error).is_none())
    }

    /// What the sources said last.
    pub(crate) fn last(&self) -> Option<FetchError> {
        let state = self.waits.state();
        state.waiting.get(&self.number)?.last.clone()
    }

    /// Tells the log now and then that the read waits, for as long as it does.
    pub(crate) async fn tell(&self) -> Infallible {
        sleep(TOLD_AFTER).await;
        loop {
            if let Some(waiting) = self.waits.state().waiting.get(&self.number) {
                tracing::warn!(
                    blob = %waiting.blob,
                    chunk = waiting.chunk,
                    waited = ?waiting.since.elapsed(),
                    deadline = ?self.deadline,
                    tried = self.waits.tried(waiting),
                    "a read hangs because its chunk does not come"
                );
            }
            sleep(TOLD_EVERY).await;
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.waits.state().waiting.remove(&self.number);
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(unserved: Unserved) -> Arc<Waits> {
        Waits::new(Duration::from_mins(5), unserved, "registry.example")
    }

    #[test]
    fn policy_decides_how_long_a_read_waits() {
        let (blob, shorter) = (Digest::of(b"blob"), Duration::from_secs(3));
        let waits = waits(Unserved::default());
        let wait = waits.begin(blob, 1);
        assert!(wait.deadline == Duration::from_mins(5) && !wait.fails_at_once);
        waits.set_unserved(Unserved::Wait(Some(shorter)));
        assert_eq!(waits.begin(blob, 1).deadline, shorter);
        waits.set_unserved(Unserved::Error);
        let wait = waits.begin(blob, 1);
        assert!(wait.deadline == ERROR_PATIENCE && wait.fails_at_once);
        let away = Duration::from_mins(10);
        assert_eq!(waits.patience_of_process(away), Duration::from_secs(30));
        waits.set_unserved(Unserved::Wait(Some(Duration::from_hours(1))));
        assert_eq!(waits.patience_of_process(away), Duration::from_mins(70));
    }

    #[test]
    fn every_policy_has_a_deadline() {
        let default = Duration::from_mins(5);
        let shorter = Duration::from_secs(3);
        assert_eq!(deadline(Unserved::default(), default), default);
        assert_eq!(deadline(Unserved::Wait(Some(shorter)), default), shorter);
        assert_eq!(deadline(Unserved::Error, default), ERROR_PATIENCE);
        assert_eq!(deadline(Unserved::Error, shorter), shorter);
    }

    #[test]
    fn what_waits_long_is_seen_with_its_chunk_and_goes_with_the_read() {
        let waits = waits(Unserved::default());
        let (old, _new) = (
            waits.begin(Digest::of(b"blob"), 7),
            waits.begin(Digest::of(b"blob"), 8),
        );
        assert_eq!(waits.look(), None, "neither waits long");
        let earlier = Instant::now().checked_sub(Duration::from_secs(20)).unwrap();
        waits.state().waiting.get_mut(&old.number).unwrap().since = earlier;
        let seen = waits.look().unwrap();
        assert!(seen.count == 1 && seen.chunk == 7 && seen.longest_ms >= 20_000);
        assert!(seen.tried.contains("registry.example"), "{}", seen.tried);
        assert!(old.note(FetchError::Overloaded) && !old.note(FetchError::Overloaded));
        assert_eq!(
            waits.look().unwrap().tried,
            FetchError::Overloaded.to_string()
        );
        drop(old);
        assert_eq!(waits.look(), None);
    }
}
