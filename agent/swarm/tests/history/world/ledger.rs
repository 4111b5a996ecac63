//! What a node has asked for and got, kept apart from the node's own books, to hold it to what it may never do.
//!
//! A request keeps within the credit of its peer, and all that is under way within the node's, but for one chunk that
//! the registry is read for. A chunk has its credit once: a second request for it, to another peer, needs none of the
//! node's, but the other peer's, and a place in the budget of hedges unless the first peer fell silent. A chunk that
//! comes twice has a reason that the node counts. A peer that lied, or was banned, is asked for nothing more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tranship_format::wire::{ChunkId, Class, PeerId};
use tranship_swarm::node::{Arrival, Counters, Input, NodeOptions};

use super::giving_up::GivingUp;
use super::hedging::Hedging;

/// Bytes that may be under way: of one peer for demand, of one peer for the rest, in all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Credit {
    pub(crate) peer: u64,
    pub(crate) peer_bulk: u64,
    pub(crate) all: u64,
}

impl Credit {
    pub(super) fn of(options: &NodeOptions) -> Self {
        Self {
            peer: options.peer_credit_len,
            peer_bulk: options.peer_bulk_credit_len,
            all: options.credit_len,
        }
    }

    pub(super) fn set(self, options: &mut NodeOptions) {
        options.peer_credit_len = self.peer;
        options.peer_bulk_credit_len = self.peer_bulk;
        options.credit_len = self.all;
    }
}

#[derive(Clone, Copy, Debug)]
struct Open {
    chunk: ChunkId,
    len: u64,
    /// The peer said WAIT, and that it has not got the chunk itself.
    waits: bool,
}

fn check(what: &str, before: u64, len: u64, limit: u64) {
    assert!(
        before == 0 || before + len <= limit,
        "{what}: {before} bytes are under way, {len} more are asked for, {limit} may be"
    );
}

/// One node's.
#[derive(Debug)]
pub(crate) struct Ledger {
    credit: Credit,
    open: BTreeMap<(PeerId, u32), Open>,
    /// Chunks that the registry is read for and that did not come yet.
    reads: BTreeMap<u64, BTreeMap<u32, u64>>,
    liars: BTreeSet<PeerId>,
    /// Peers that the node was told are banned: for longer than a history lasts.
    banned: BTreeSet<PeerId>,
    twice: u64,
    /// Chunks that the registry was asked for and failed to give.
    unread: u64,
    hedging: Hedging,
    pub(super) giving_up: GivingUp,
}

impl Ledger {
    pub(super) fn new(options: &NodeOptions) -> Self {
        Self {
            credit: Credit::of(options),
            open: BTreeMap::new(),
            reads: BTreeMap::new(),
            liars: BTreeSet::new(),
            banned: BTreeSet::new(),
            twice: 0,
            unread: 0,
            hedging: Hedging::new(options),
            giving_up: GivingUp::new(options),
        }
    }

    fn check_all(&self, class: Class, len: u64) {
        let asked = self.open.values().map(|open| open.len);
        let read = self.reads.values().flat_map(BTreeMap::values).copied();
        let limit = match class {
            Class::Demand => self.credit.all,
            _ => self.credit.all / 4 * 3,
        };
        check("the node's credit", asked.chain(read).sum(), len, limit);
    }

    /// A node asks a peer.
    pub(super) fn want(
        &mut self,
        now: Duration,
        peer: PeerId,
        request: u32,
        chunk: ChunkId,
        class: Class,
        len: u64,
    ) {
        assert!(!self.liars.contains(&peer), "a liar is asked again");
        let others = self.open.iter().filter(|((to, _), _)| *to == peer);
        // A more urgent request for the same chunk takes the place of the one before.
        let others = others.filter(|(_, open)| open.chunk != chunk);
        let other_lens: BTreeMap<ChunkId, u64> =
            others.map(|(_, open)| (open.chunk, open.len)).collect();
        let limit = match class {
            Class::Demand => self.credit.peer,
            _ => self.credit.peer_bulk,
        };
        check("a peer's credit", other_lens.values().sum(), len, limit);
        let asked = self.open.iter().filter(|(_, open)| open.chunk == chunk);
        let asked: BTreeSet<PeerId> = asked.map(|((to, _), _)| *to).collect();
        if asked.is_empty() {
            self.check_all(class, len);
        }
        self.hedging.asks(now, peer, &asked);
        let open = Open {
            chunk,
            len,
            waits: false,
        };
        let known = self.open.insert((peer, request), open);
        assert!(known.is_none(), "a number is used twice");
    }

    /// Whether the node has been told that a peer is banned.
    pub(super) fn knows_banned(&self, peer: &PeerId) -> bool {
        self.banned.contains(peer)
    }

    /// Peers of which the node waits for a chunk that they wait for themselves, while it does not read the registry for it.
    pub(super) fn waits_for(&self, chunk: ChunkId) -> Vec<(PeerId, u32)> {
        let is_read = |of: &BTreeMap<u32, u64>| of.contains_key(&chunk.number);
        if self.reads.values().any(is_read) {
            return Vec::new();
        }
        let open = self.open.iter();
        open.filter(|(_, open)| open.waits && open.chunk == chunk)
            .map(|(&asked, _)| asked)
            .collect()
    }

    /// The chunk of an open request.
    pub(super) fn chunk_of(&self, peer: PeerId, request: u32) -> Option<ChunkId> {
        self.open.get(&(peer, request)).map(|open| open.chunk)
    }

    /// A node takes a request back.
    pub(super) fn cancel(&mut self, peer: PeerId, request: u32) {
        self.open.remove(&(peer, request));
    }

    /// A node reads the registry from `first` on. A chunk that a peer was asked for has its credit already, and one
    /// goes on its way whatever peers were asked for; more than one chunk is read within the credit alone.
    pub(super) fn read(
        &mut self,
        read: u64,
        first: ChunkId,
        class: Class,
        lens: BTreeMap<u32, u64>,
    ) {
        let is_free = self.reads.is_empty() || self.open.values().any(|open| open.chunk == first);
        if !is_free || lens.len() > 1 {
            self.check_all(class, lens.values().sum());
        }
        self.reads.insert(read, lens);
    }

    /// A verified chunk comes that is in the store already.
    pub(super) fn comes_twice(&mut self) {
        self.twice += 1;
    }

    /// What a node is told ends requests, before it knows.
    pub(super) fn tell(&mut self, now: Duration, input: &Input) {
        match input {
            Input::Data { peer, request, .. }
            | Input::Busy { peer, request, .. }
            | Input::Miss { peer, request }
            | Input::Wait { peer, request, .. }
                if !self.open.contains_key(&(*peer, *request)) =>
            {
                // Nobody waits for it any more.
            }
            Input::Data { peer, .. }
            | Input::Busy { peer, .. }
            | Input::Miss { peer, .. }
            | Input::Wait { peer, .. }
            | Input::Want { peer, .. } => self.hedging.hears(now, *peer),
            Input::PeerUp { member } => self.hedging.hears(now, member.peer),
            _ => {}
        }
        self.giving_up.tell(now, input);
        match input {
            Input::Wait {
                peer,
                request,
                hops,
                ..
            } => {
                if let Some(open) = self.open.get_mut(&(*peer, *request)) {
                    open.waits = *hops > 0;
                }
            }
            Input::Data {
                peer,
                request,
                arrival,
            } => {
                let asked = self.open.remove(&(*peer, *request)).is_some();
                if asked && *arrival == Arrival::Wrong {
                    self.liars.insert(*peer);
                    self.forget(*peer);
                }
            }
            Input::Busy { peer, request, .. } | Input::Miss { peer, request } => {
                self.open.remove(&(*peer, *request));
            }
            Input::PeerGone { peer } => self.forget(*peer),
            Input::Bans { peers } => peers.iter().for_each(|peer| {
                self.banned.insert(*peer);
                self.forget(*peer);
            }),
            Input::RegistryChunk { read, number, .. } => {
                if let Some(left) = self.reads.get_mut(read) {
                    left.remove(number);
                }
            }
            Input::RegistryEnd { read, .. } => {
                let left = self.reads.remove(read).unwrap_or_default();
                self.unread += left.len() as u64;
            }
            _ => {}
        }
    }

    fn forget(&mut self, peer: PeerId) {
        self.open.retain(|(to, _), _| *to != peer);
    }

    /// At the end: whatever came twice has a reason that was counted.
    pub(crate) fn close(&self, counters: &Counters) {
        self.hedging.close(counters);
        let counted = counters.hedges + counters.origin_overrides;
        // What the registry failed to give is asked of peers again.
        let second = counted + self.unread;
        assert!(
            self.twice <= second,
            "{} chunks came twice, for which {second} reasons are counted",
            self.twice
        );
    }
}
