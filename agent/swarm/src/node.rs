//! An agent's side of the swarm (and the seed's): which chunk to ask of whom, and whom to serve.
mod counters;
mod event;
mod options;

use std::collections::VecDeque;
use std::time::Duration;

use tranship_format::wire::{ChunkId, Goodput, PeerId};

pub use counters::Counters;
pub use event::{Action, Arrival, FailReason, Input, Origin, RegistryFailure};
pub use options::NodeOptions;

/// The decisions of one node.
#[derive(Debug)]
pub struct Node {
    options: NodeOptions,
    actions: VecDeque<Action>,
    counters: Counters,
}

impl Node {
    /// A node that knows nobody, without a tracker until [`Input::TrackerUp`].
    pub fn new(options: NodeOptions) -> Self {
        Self {
            options,
            actions: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Duration, input: Input) {
        let _ = (now, input);
    }

    /// The next thing to do now; to be called until `None` after each [`Node::handle`] (or after
    /// several: what they ask of the tracker is then put together) and at [`Node::wake_at`].
    pub fn poll(&mut self, now: Duration) -> Option<Action> {
        let _ = now;
        self.actions.pop_front()
    }

    /// When to poll next though nothing happened.
    pub fn wake_at(&self) -> Option<Duration> {
        None
    }

    /// The chunk that a request of ours is for, `None` once it is answered, cancelled or void: what
    /// arrives for such a request is to be dropped unread.
    pub fn requested(&self, peer: &PeerId, request: u32) -> Option<ChunkId> {
        let _ = (peer, request);
        None
    }

    /// Totals so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How full the upload side is, 0 to 1,000, for HEARTBEAT.
    pub fn load_permille(&self) -> u16 {
        0
    }

    /// How fast peers were since the last call, for HEARTBEAT; at most 64.
    pub fn take_goodputs(&mut self) -> Vec<Goodput> {
        Vec::new()
    }

    /// Whether a peer is banned here.
    pub fn is_banned(&self, now: Duration, peer: &PeerId) -> bool {
        let _ = (now, peer, &self.options);
        false
    }
}
