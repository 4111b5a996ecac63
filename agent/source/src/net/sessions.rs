//! This node's conversations with all its trackers, as if they were one.
//!
//! The node's machine knows one tracker. Which of several that is for a blob, and who else is told of it, is
//! `tranship_swarm::shard`'s to say; here what the machine wants said goes to those, and what they say comes back in the
//! machine's words, leases under its own numbers. What a tracker says that is not asked about a blob any more is dropped.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tranship_format::Digest;
use tranship_format::wire::{
    BlobInfo, Goodput, Grant, ImageSource, LeaseState, PeerId, Prove, PullProof, Route,
    StripeRoute, StripeRun, TrackerRequest,
};
use tranship_swarm::node::Input;
use tranship_swarm::shard::Shards;

use super::lent::Proved;
use super::session::{Session, SessionEvent, Told};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_tracker: BTreeMap<PeerId, Session>,
    shards: Shards,
}

impl Sessions {
    pub(crate) fn new(by_tracker: BTreeMap<PeerId, Session>) -> Self {
        let shards = Shards::default();
        Self { by_tracker, shards }
    }

    /// The trackers that have us.
    pub(crate) fn joined(&self) -> impl Iterator<Item = &PeerId> {
        let joined = self
            .by_tracker
            .iter()
            .filter(|(_, session)| session.is_joined());
        joined.map(|(tracker, _)| tracker)
    }

    /// Whether a peer is a tracker's seed.
    pub(crate) fn is_seed(&self, peer: &PeerId) -> bool {
        self.by_tracker
            .values()
            .any(|session| session.is_seed(peer))
    }

    /// Takes in what a session's task tells; gives what follows from it.
    pub(crate) fn handle(
        &mut self,
        now: Duration,
        tracker: PeerId,
        event: SessionEvent,
    ) -> Vec<Told> {
        let Some(session) = self.by_tracker.get_mut(&tracker) else {
            return Vec::new();
        };
        let told = session.handle(event);
        self.merge(now, tracker, told)
    }

    fn merge(&mut self, now: Duration, tracker: PeerId, told: Vec<Told>) -> Vec<Told> {
        let mut merged = Vec::new();
        for told in told {
            let input = match told {
                Told::Machine(input) => input,
                opened @ Told::Opened(_) => {
                    merged.push(opened);
                    continue;
                }
            };
            let inputs = match input {
                Input::TrackerUp { epoch, seed } => self.shards.up(now, tracker, epoch, seed),
                Input::TrackerDown => self.shards.down(now, &tracker),
                Input::Routes { blob, routes } => self.routes(tracker, blob, routes),
                Input::LookupFailed { blob, .. } if self.shards.asked(&blob) != Some(tracker) => {
                    Vec::new()
                }
                Input::ProgressAck { lease, expires_in } => {
                    let lease = self.shards.number(tracker, lease);
                    vec![Input::ProgressAck { lease, expires_in }]
                }
                other => vec![other],
            };
            merged.extend(inputs.into_iter().map(Told::from));
        }
        self.take_leave();
        merged
    }

    /// A tracker that is told of a blob no more hears that nothing of it is here, so that it sends nobody.
    fn take_leave(&mut self) {
        for (tracker, blob) in self.shards.take_left() {
            if let Some(session) = self.by_tracker.get_mut(&tracker) {
                let runs = Vec::new();
                session.tell(&TrackerRequest::Announce { blob, runs });
            }
        }
    }

    fn routes(&mut self, tracker: PeerId, blob: Digest, routes: Vec<StripeRoute>) -> Vec<Input> {
        if self.shards.asked(&blob) != Some(tracker) {
            return Vec::new();
        }
        let mut routes = routes;
        for told in &mut routes {
            if let Route::Origin { lease, .. } = &mut told.route {
                *lease = self.shards.number(tracker, *lease);
            }
        }
        vec![Input::Routes { blob, routes }]
    }

    /// This node uses a blob.
    pub(crate) fn use_blob(&mut self, now: Duration, blob: Digest) {
        self.shards.open(now, blob);
    }

    /// It no longer does; the trackers have been told.
    pub(crate) fn drop_blob(&mut self, blob: &Digest) {
        self.shards.close(blob);
    }

    /// OPEN, at each tracker that is told of one of the blobs, of those.
    pub(crate) fn open(
        &mut self,
        image: &ImageSource,
        grant: Option<&Grant>,
        proof: &PullProof,
        blobs: &[BlobInfo],
    ) {
        let mut told: BTreeMap<PeerId, Vec<BlobInfo>> = BTreeMap::new();
        for blob in blobs {
            for tracker in self.shards.told(&blob.digest) {
                told.entry(tracker).or_default().push(*blob);
            }
        }
        for (tracker, blobs) in told {
            if let Some(session) = self.by_tracker.get_mut(&tracker) {
                session.open(image.clone(), grant.cloned(), proof.clone(), blobs);
            }
        }
    }

    /// PROVE, at the tracker that is to be asked about the blob; without anybody to ask, `reply` is dropped.
    pub(crate) fn prove(
        &mut self,
        now: Duration,
        prove: Box<Prove>,
        reply: oneshot::Sender<Proved>,
    ) {
        let asked = self.shards.to_ask(now, &prove.blob);
        if let Some(session) = asked.and_then(|tracker| self.by_tracker.get_mut(&tracker)) {
            session.prove(prove, reply);
        }
    }

    /// LOOKUP; `false` when there is nobody to ask.
    pub(crate) fn lookup(&mut self, blob: Digest, stripes: Vec<u32>) -> bool {
        let asked = self.shards.asked(&blob);
        let session = asked.and_then(|tracker| self.by_tracker.get_mut(&tracker));
        session.is_some_and(|session| session.lookup(blob, stripes))
    }

    /// PROGRESS, at the tracker that gave the lease.
    pub(crate) fn progress(&mut self, lease: u64, done_len: u64, state: LeaseState) {
        let Some((tracker, lease)) = self.shards.lease(lease) else {
            return;
        };
        if let Some(session) = self.by_tracker.get_mut(&tracker) {
            session.tell(&TrackerRequest::Progress {
                lease,
                done_len,
                state,
            });
        }
    }

    /// ANNOUNCE.
    pub(crate) fn announce(&mut self, blob: Digest, runs: Vec<StripeRun>) {
        let request = TrackerRequest::Announce { blob, runs };
        for tracker in self.shards.told(&blob) {
            if let Some(session) = self.by_tracker.get_mut(&tracker) {
                session.tell(&request);
            }
        }
    }

    /// REPORT, at all trackers: each has its own list of bans.
    pub(crate) fn report(&mut self, request: &TrackerRequest) {
        for session in self.by_tracker.values_mut() {
            session.tell(request);
        }
    }

    /// When [`Sessions::tick`] is due; `started` is when the clock of `now` was at zero.
    pub(crate) fn wake_at(&self, started: Instant) -> Option<Instant> {
        let sessions = self.by_tracker.values().filter_map(Session::wake_at);
        let settled = self.shards.wake_at().map(|at| started + at);
        sessions.chain(settled).min()
    }

    /// Says that we are still here and renews our certificates, when due. All trackers hear at once, so that each
    /// hears of all goodputs.
    pub(crate) fn tick(
        &mut self,
        now: Duration,
        load_permille: u16,
        goodputs: impl FnOnce() -> Vec<Goodput>,
    ) -> Vec<Told> {
        let mut told: Vec<Told> = self.shards.tick(now).into_iter().map(Told::from).collect();
        self.take_leave();
        let beats = self.by_tracker.values().any(Session::is_beat_due);
        let goodputs = if beats { goodputs() } else { Vec::new() };
        let trackers: Vec<PeerId> = self.by_tracker.keys().copied().collect();
        for tracker in trackers {
            if let Some(session) = self.by_tracker.get_mut(&tracker) {
                let heard = session.tick(load_permille, beats.then_some(goodputs.as_slice()));
                told.extend(self.merge(now, tracker, heard));
            }
        }
        told
    }

    /// LEAVE; the receivers hear when it has been written.
    pub(crate) fn leave(&mut self) -> Vec<oneshot::Receiver<()>> {
        let sessions = self.by_tracker.values_mut();
        sessions.filter_map(Session::leave).collect()
    }
}
