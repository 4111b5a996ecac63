//! The tracker's side of the swarm: who has what, who reads the registry, who gets it from whom.
mod event;
mod options;

use std::collections::VecDeque;
use std::time::Duration;

use tranship_format::wire::PeerId;

pub use event::{Action, Input};
pub use options::TrackerOptions;

/// The decisions of the tracker.
#[derive(Debug)]
pub struct Tracker {
    options: TrackerOptions,
    epoch: u64,
    actions: VecDeque<Action>,
}

impl Tracker {
    /// A tracker that knows nobody. `epoch` must differ from every earlier one; `bans` are those
    /// kept on disk.
    pub fn new(
        options: TrackerOptions,
        epoch: u64,
        bans: impl IntoIterator<Item = PeerId>,
    ) -> Self {
        let _ = bans.into_iter();
        Self {
            options,
            epoch,
            actions: VecDeque::new(),
        }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Duration, input: Input) {
        let _ = (now, input, &self.options);
    }

    /// The next thing to do now; to be called until `None`.
    pub fn poll(&mut self, now: Duration) -> Option<Action> {
        let _ = now;
        self.actions.pop_front()
    }

    /// When to poll next though nothing happened.
    pub fn wake_at(&self) -> Option<Duration> {
        None
    }

    /// The epoch, for JOINED.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}
