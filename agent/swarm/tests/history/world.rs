//! Nodes, a tracker and a registry in virtual time: everything that the two machines do not decide.
//!
//! Control messages between two nodes arrive in order after a random latency; chunks leave a node one
//! after the other at the rate of its uplink; the registry answers after its latency at its own rate.
//! Whatever the machines ask for is checked here against what may never happen.

mod banning;
mod doing;
mod giving_up;
mod happening;
mod hedging;
mod ledger;
mod registry;
mod rings;
mod tracking;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::{
    ChunkId, Class, Member, PeerId, Role, TrackerReply, TrackerRequest, Want,
};
use tranship_swarm::node::{self, Input, Node, NodeOptions};
use tranship_swarm::tracker::{Tracker, TrackerOptions};

use crate::random::Random;

pub(crate) use ledger::{Credit, Ledger};

/// What does not change during a history.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) latency_us: (u64, u64),
    pub(crate) uplink: u64,
    pub(crate) registry_latency: Duration,
    pub(crate) registry_rate: u64,
    pub(crate) tracker_us: u64,
    pub(crate) stripe_chunks: u32,
    /// Demand reads that a reader has outstanding.
    pub(crate) readahead: usize,
    pub(crate) racks: bool,
}

/// Where all images are.
const REGISTRY: &str = "registry.example";

/// How a node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Its connections are reset: everybody knows at once.
    Crash,
    /// It falls silent: others find out after three seconds.
    Vanish,
}

#[derive(Clone, Debug)]
enum Event {
    ToNode(usize, Input),
    ToTracker(usize, u32, TrackerRequest),
    FromTracker(usize, u64, u32, TrackerReply),
    Join(usize),
    Gone(usize),
    Heartbeat(usize),
    WakeNode(usize),
    WakeTracker,
    Read(usize),
    End(usize, End),
    EndLeaseHolder,
    TrackerDown,
    TrackerBack,
    Ban(usize),
    RegistryBack,
}

pub(crate) struct Host {
    pub(crate) node: Node,
    pub(crate) member: Member,
    pub(crate) alive: bool,
    ended: Option<End>,
    pub(crate) lies: bool,
    pub(crate) slow: u64,
    /// How long each right lasts that the tracker gives it; `None` is to be given none.
    pub(crate) right: Option<Duration>,
    /// When the right that it knows of ends.
    right_until: Duration,
    /// Chance in percent that its store has no room for a chunk.
    pub(crate) full: u64,
    pub(crate) has: BTreeSet<ChunkId>,
    /// Chunks it verified but could not keep, which it may still pass on.
    passed: BTreeSet<ChunkId>,
    pub(crate) open: BTreeSet<ChunkId>,
    pub(crate) done: BTreeSet<ChunkId>,
    pub(crate) failed: BTreeSet<ChunkId>,
    pub(crate) script: Vec<(ChunkId, Class)>,
    pub(crate) done_at: Duration,
    pub(crate) waits: Vec<Duration>,
    asked_at: BTreeMap<ChunkId, Duration>,
    pub(crate) sent_len: u64,
    uplink_free_at: Duration,
    connected: BTreeSet<usize>,
    asked_tracker: BTreeMap<u32, TrackerRequest>,
    last_tracker_request: u32,
    wake_at: Option<Duration>,
    reads: BTreeMap<u64, (Digest, std::ops::Range<u32>)>,
    joined: bool,
    joined_at: Duration,
    pub(crate) ledger: Ledger,
}

pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) terms: Terms,
    pub(crate) random: Random,
    events: BTreeMap<(Duration, u64), Event>,
    last_event: u64,
    pub(crate) hosts: Vec<Host>,
    by_peer: BTreeMap<PeerId, usize>,
    pub(crate) blobs: BTreeMap<Digest, Arc<[u32]>>,
    pub(crate) tracker: Option<Tracker>,
    tracker_started_at: Duration,
    epoch: u64,
    /// Since when.
    pub(crate) banned: BTreeMap<PeerId, Duration>,
    /// By this run of the tracker.
    pub(crate) shunned: BTreeSet<PeerId>,
    tracker_free_at: Duration,
    tracker_wake_at: Option<Duration>,
    last_at: BTreeMap<(usize, usize), Duration>,
    registry_free_at: Duration,
    /// Chance in percent that a registry read fails.
    pub(crate) registry_fails: u64,
    /// When it no longer does.
    pub(super) registry_backs_at: Option<Duration>,
    pub(crate) registry_len: u64,
    pub(crate) tracker_messages: u64,
    pub(crate) all_start_by: Duration,
    /// Whether the tracker stays long enough to tell everybody of everybody.
    pub(crate) members_know_each_other: bool,
    /// What may be under way at once, if not what a node chooses.
    pub(crate) credit: Option<Credit>,
    /// Hedges saved up at most, if not what a node chooses.
    pub(crate) hedge_burst: Option<u32>,
    rings: rings::Rings,
    steps: u64,
    /// More events than this are a swarm that talks without getting anywhere.
    pub(crate) max_steps: u64,
    /// Whether each event is printed.
    tells: bool,
}

const TRACKER: usize = usize::MAX;
const HEARTBEAT: Duration = Duration::from_secs(1);

impl World {
    pub(crate) fn new(terms: Terms, seed: u64) -> Self {
        Self {
            now: Duration::ZERO,
            terms,
            random: Random(seed),
            events: BTreeMap::new(),
            last_event: 0,
            hosts: Vec::new(),
            by_peer: BTreeMap::new(),
            blobs: BTreeMap::new(),
            tracker: None,
            tracker_started_at: Duration::ZERO,
            epoch: 0,
            banned: BTreeMap::new(),
            shunned: BTreeSet::new(),
            tracker_free_at: Duration::ZERO,
            tracker_wake_at: None,
            last_at: BTreeMap::new(),
            registry_free_at: Duration::ZERO,
            registry_fails: 0,
            registry_backs_at: None,
            registry_len: 0,
            tracker_messages: 0,
            all_start_by: Duration::ZERO,
            members_know_each_other: false,
            credit: None,
            hedge_burst: None,
            rings: rings::Rings::default(),
            steps: 0,
            max_steps: 50_000_000,
            tells: crate::number("TRANSHIP_SWARM_TELL").is_some(),
        }
    }

    pub(crate) fn start_tracker(&mut self) {
        self.epoch += 1;
        let options = TrackerOptions {
            stripe_chunks: self.terms.stripe_chunks,
            heartbeat: HEARTBEAT,
            grace: if self.epoch == 1 {
                Duration::ZERO
            } else {
                Duration::from_millis(200)
            },
            ..TrackerOptions::default()
        };
        self.tracker = Some(Tracker::new(
            options,
            self.epoch,
            self.banned.keys().copied(),
        ));
        self.shunned.clear();
        self.tracker_started_at = self.now;
        self.tracker_wake_at = None;
    }

    pub(crate) fn add_blob(&mut self, name: &str, lens: Vec<u32>) -> Digest {
        let digest = Digest::of(name.as_bytes());
        self.blobs.insert(digest, lens.into());
        digest
    }

    /// A node that opens `blobs`, joins and starts reading its script at `start`.
    pub(crate) fn add_host(
        &mut self,
        role: Role,
        zone: &str,
        blobs: &[Digest],
        script: Vec<(ChunkId, Class)>,
        start: Duration,
    ) -> usize {
        let number = self.hosts.len();
        let peer = PeerId::from_bytes(format!("node-{number:05}").as_bytes()).unwrap();
        let rack = if self.terms.racks {
            format!("{zone}-{}", number / 8)
        } else {
            String::new()
        };
        let member = Member {
            peer,
            addresses: vec![format!("/memory/{number}")],
            zone: zone.to_owned(),
            rack,
            role,
        };
        let mut options = NodeOptions::new(member.clone(), self.random.next());
        options.stripe_chunks = self.terms.stripe_chunks;
        if let Some(credit) = self.credit {
            credit.set(&mut options);
        }
        if let Some(burst) = self.hedge_burst {
            options.hedge_burst = burst;
        }
        let ledger = Ledger::new(&options);
        self.hosts.push(Host {
            node: Node::new(options),
            member,
            alive: true,
            ended: None,
            lies: false,
            slow: 1,
            full: 0,
            has: BTreeSet::new(),
            right: Some(Duration::from_hours(1)),
            right_until: Duration::ZERO,
            passed: BTreeSet::new(),
            open: BTreeSet::new(),
            done: BTreeSet::new(),
            failed: BTreeSet::new(),
            script,
            done_at: Duration::ZERO,
            waits: Vec::new(),
            asked_at: BTreeMap::new(),
            sent_len: 0,
            uplink_free_at: Duration::ZERO,
            connected: BTreeSet::new(),
            asked_tracker: BTreeMap::new(),
            last_tracker_request: 0,
            wake_at: None,
            reads: BTreeMap::new(),
            joined: false,
            joined_at: Duration::ZERO,
            ledger,
        });
        self.by_peer.insert(peer, number);
        self.at(Duration::ZERO, Event::Join(number));
        for &blob in blobs {
            let chunk_lens = Arc::clone(&self.blobs[&blob]);
            let input = Input::OpenBlob {
                blob,
                registries: vec![REGISTRY.into()],
                chunk_lens,
                present: Vec::new(),
            };
            self.at(start, Event::ToNode(number, input));
        }
        self.at(start, Event::Read(number));
        number
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.last_event += 1;
        self.events
            .insert((at.max(self.now), self.last_event), event);
    }

    /// A peer wants a chunk, whether it may or not.
    pub(crate) fn want_at(
        &mut self,
        at: Duration,
        from: usize,
        to: usize,
        request: u32,
        want: Want,
    ) {
        let peer = self.hosts[from].member.peer;
        let input = Input::Want {
            peer,
            request,
            want,
        };
        self.at(at, Event::ToNode(to, input));
    }

    pub(crate) fn end_at(&mut self, at: Duration, host: usize, end: End) {
        self.at(at, Event::End(host, end));
    }

    pub(crate) fn end_lease_holder_at(&mut self, at: Duration) {
        self.at(at, Event::EndLeaseHolder);
    }

    pub(crate) fn tracker_down_at(&mut self, at: Duration) {
        self.at(at, Event::TrackerDown);
    }

    pub(crate) fn tracker_back_at(&mut self, at: Duration) {
        self.at(at, Event::TrackerBack);
    }

    pub(crate) fn tell_at(&mut self, at: Duration, host: usize, input: Input) {
        self.at(at, Event::ToNode(host, input));
    }

    /// Sums a counter over all nodes.
    pub(crate) fn sum(&self, of: impl Fn(&node::Counters) -> u64) -> u64 {
        self.hosts.iter().map(|host| of(host.node.counters())).sum()
    }
}
