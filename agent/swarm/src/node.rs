//! An agent's side of the swarm (and the seed's): which chunk to ask of whom, and whom to serve.
//!
//! The tracker says where a stripe comes from, once; from then on the node decides chunk by chunk.
//! It asks one source for each chunk, a second only for one that is silent and within a budget, and
//! when nothing helps it reads the registry itself: nobody is ever worse off than alone.

mod action;
mod announce;
mod answer;
mod blob;
mod choose;
mod counters;
mod input;
mod introduce;
mod leave;
mod lookup;
mod options;
mod pace;
mod patience;
mod peers;
mod pump;
mod registry;
mod rights;
mod route;
mod serve;
mod slow_link;
#[cfg(test)]
mod tests;
mod timer;
mod tree;
mod uplink;
mod upload;
mod wanted;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::{ChunkId, Class, Goodput, Member, PeerId};

use crate::StripeId;
use blob::Blob;
use pace::Pace;
use peers::Peers;
use registry::Read;
use rights::Rights;
use timer::Timer;
use upload::Uploads;
use wanted::{Order, Wanted};

pub use action::{Action, FailReason, Origin};
pub use counters::Counters;
pub use input::{Arrival, Input, RegistryFailure, Right, TrackerChange};
pub use options::NodeOptions;

/// The decisions of one node.
#[derive(Debug)]
pub struct Node {
    me: Arc<Member>,
    options: NodeOptions,
    /// The tracker's epoch while it can be reached.
    tracker: Option<u64>,
    last_epoch: Option<u64>,
    blobs: BTreeMap<Digest, Blob>,
    /// Blobs that the tracker has not been told of.
    to_open: BTreeSet<Digest>,
    refresh_every: Duration,
    refresh_at: Duration,
    wants: BTreeMap<ChunkId, Wanted>,
    /// Wants that are to be read from the registry without a lease and are not yet.
    direct_count: usize,
    last_order: Order,
    /// Stripes that can start something, most urgent first.
    ready: BTreeSet<(Class, Order, StripeId)>,
    parked_for_credit: BTreeSet<StripeId>,
    parked_for_window: BTreeSet<StripeId>,
    /// Stripes that the tracker was asked about and that have open wants.
    engaged: BTreeSet<StripeId>,
    peers: Peers,
    /// Peers that said GOAWAY.
    leaving: BTreeSet<PeerId>,
    last_request: u32,
    reads: BTreeMap<u64, Read>,
    last_read: u64,
    /// When bytes of any registry read last came.
    registry_moved_at: Duration,
    /// Bytes asked of all sources and not come yet.
    in_flight_len: u64,
    uploads: Uploads,
    /// What peers may have.
    rights: Rights,
    /// Requests of peers for chunks on their way.
    waiters: BTreeMap<(PeerId, u32), ChunkId>,
    pace: Pace,
    timers: BTreeSet<(Duration, Timer)>,
    random: u64,
    actions: VecDeque<Action>,
    counters: Counters,
}

impl Node {
    /// A node that knows nobody, without a tracker until [`Input::TrackerUp`].
    pub fn new(options: NodeOptions) -> Self {
        Self {
            me: Arc::new(options.me.clone()),
            tracker: None,
            last_epoch: None,
            blobs: BTreeMap::new(),
            to_open: BTreeSet::new(),
            refresh_every: Duration::ZERO,
            refresh_at: Duration::ZERO,
            wants: BTreeMap::new(),
            direct_count: 0,
            last_order: 0,
            ready: BTreeSet::new(),
            parked_for_credit: BTreeSet::new(),
            parked_for_window: BTreeSet::new(),
            engaged: BTreeSet::new(),
            peers: Peers::default(),
            leaving: BTreeSet::new(),
            last_request: 0,
            reads: BTreeMap::new(),
            last_read: 0,
            registry_moved_at: Duration::ZERO,
            in_flight_len: 0,
            uploads: Uploads::default(),
            rights: Rights::default(),
            waiters: BTreeMap::new(),
            pace: Pace::new(options.hedge_min, options.hedge_max, options.hedge_burst),
            timers: BTreeSet::new(),
            random: options.seed,
            actions: VecDeque::new(),
            counters: Counters::default(),
            options,
        }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Duration, input: Input) {
        match input {
            Input::OpenBlob {
                blob,
                registries,
                chunk_lens,
                present,
            } => {
                self.open_blob(now, blob, chunk_lens, &present);
                if let Some(known) = self.blobs.get_mut(&blob) {
                    known.registries = registries;
                }
            }
            Input::CloseBlob { blob } => self.close_blob(now, blob),
            Input::Wanted {
                chunk,
                class,
                give_up_at,
            } => {
                self.wanted(now, chunk, class, give_up_at);
            }
            Input::Unwanted { chunk } => self.unwanted(now, chunk),
            Input::Evicted { chunk } => self.evicted(now, chunk),
            Input::TrackerUp { epoch, seed } => self.tracker_up(now, epoch, seed),
            Input::TrackerDown => self.tracker_down(),
            Input::TrackerChanged { blobs, change } => self.tracker_changed(now, blobs, change),
            Input::Members {
                blob,
                members,
                until,
            } => {
                self.members(blob, &members);
                self.hold_right(now, blob, until);
            }
            Input::RightAwaited { blob } => self.await_right(blob),
            Input::Granted { peer, right } => self.granted(now, peer, right),
            Input::Routes { blob, routes } => self.routes(now, blob, routes),
            Input::LookupFailed { blob, stripes } => self.lookup_failed(now, blob, stripes),
            Input::ProgressAck { lease, expires_in } => self.progress_ack(lease, expires_in),
            Input::Bans { peers } => {
                for peer in peers {
                    if !self.peers.is_banned(now, &peer) && peer != self.me.peer {
                        self.ban(now, peer);
                    }
                }
            }
            Input::PeerUp { member } => {
                self.peers.meet(&member);
                self.peers.mark_here(now, member.peer);
                self.leaving.remove(&member.peer);
            }
            Input::Data {
                peer,
                request,
                arrival,
            } => self.data(now, peer, request, arrival),
            Input::Wait {
                peer,
                request,
                idle,
                hops,
            } => self.wait(now, peer, request, idle, hops),
            Input::Busy {
                peer,
                request,
                retry,
                alternatives,
            } => {
                self.busy(now, peer, request, retry, &alternatives);
            }
            Input::Miss { peer, request } => self.miss(now, peer, request),
            Input::PeerGone { peer } => self.peer_gone(now, peer),
            Input::GoAway { peer } => {
                self.leaving.insert(peer);
            }
            Input::Want {
                peer,
                request,
                want,
            } => self.peer_wants(now, peer, request, want),
            Input::Cancel { peer, request } => self.peer_cancels(now, peer, request),
            Input::Sent { peer, request } => self.sent(now, peer, request),
            Input::SendFailed { peer, request } => self.send_failed(now, peer, request),
            Input::RegistryProgress { read, len } => self.registry_progress(now, read, len),
            Input::RegistryChunk {
                read,
                number,
                arrival,
            } => {
                self.registry_chunk(now, read, number, arrival);
            }
            Input::RegistryEnd { read, failure } => self.registry_end(now, read, failure),
        }
    }

    /// The next thing to do now; to be called until `None` after each [`Node::handle`] (or after
    /// several: what they ask of the tracker is then put together) and at [`Node::wake_at`].
    pub fn poll(&mut self, now: Duration) -> Option<Action> {
        while let Some(&(at, timer)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            self.fire(now, timer);
        }
        if !self.to_open.is_empty() {
            self.open_at_tracker(now);
        }
        if !self.ready.is_empty() {
            self.pump(now);
        }
        self.actions.pop_front()
    }

    /// When to poll next though nothing happened.
    pub fn wake_at(&self) -> Option<Duration> {
        self.timers.first().map(|&(at, _)| at)
    }

    /// The chunk that a request of ours is for, `None` once it is answered, cancelled or void: what
    /// arrives for such a request is to be dropped unread.
    pub fn requested(&self, peer: &PeerId, request: u32) -> Option<ChunkId> {
        self.peers.requests.get(&(*peer, request)).copied()
    }

    /// Totals so far.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How fast peers were since the last call, for HEARTBEAT; at most 64.
    pub fn take_goodputs(&mut self) -> Vec<Goodput> {
        self.peers.take_goodputs()
    }

    /// Whether a blob is open.
    pub fn is_open(&self, blob: &Digest) -> bool {
        self.blobs.contains_key(blob)
    }

    /// Whether a peer is banned here.
    pub fn is_banned(&self, now: Duration, peer: &PeerId) -> bool {
        self.peers.is_banned(now, peer)
    }

    /// Whether a peer is asked for nothing because it sent something wrong.
    pub fn is_shunned(&self, now: Duration, peer: &PeerId) -> bool {
        self.peers.is_shunned(now, peer)
    }

    fn open_blob(&mut self, now: Duration, digest: Digest, chunk_lens: Arc<[u32]>, present: &[u8]) {
        if let Some(blob) = self.blobs.get_mut(&digest) {
            blob.replace_present(present);
            self.announce_soon(now, digest);
            return;
        }
        let blob = Blob::new(chunk_lens, present, self.options.stripe_chunks);
        self.blobs.insert(digest, blob);
        self.to_open.insert(digest);
    }

    fn close_blob(&mut self, now: Duration, digest: Digest) {
        let all = ChunkId {
            blob: digest,
            number: 0,
        }..=ChunkId {
            blob: digest,
            number: u32::MAX,
        };
        let wanted: Vec<ChunkId> = self.wants.range(all).map(|(&chunk, _)| chunk).collect();
        for chunk in wanted {
            self.fail(now, chunk, FailReason::Unknown);
        }
        self.blobs.remove(&digest);
        self.to_open.remove(&digest);
        let of_it = |id: &StripeId| id.blob == digest;
        self.parked_for_credit.retain(|id| !of_it(id));
        self.parked_for_window.retain(|id| !of_it(id));
        self.engaged.retain(|id| !of_it(id));
        self.ready.retain(|(_, _, id)| !of_it(id));
        if self.tracker.is_some() {
            self.actions.push_back(Action::Announce {
                blob: digest,
                runs: Vec::new(),
            });
        }
    }

    /// A request number that is not 0 and not in use.
    fn next_request(&mut self) -> u32 {
        loop {
            self.last_request = self.last_request.wrapping_add(1);
            let in_use = self
                .peers
                .requests
                .keys()
                .any(|&(_, open)| open == self.last_request);
            if self.last_request != 0 && !in_use {
                return self.last_request;
            }
        }
    }

    /// A random part of `of`, so that many nodes do not do the same at the same moment.
    fn jitter(&mut self, of: Duration) -> Duration {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let nanos = u64::try_from(of.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos((mixed ^ (mixed >> 31)) % nanos)
    }
}
