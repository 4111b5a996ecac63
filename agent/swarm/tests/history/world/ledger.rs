//! What a node has asked for and got, kept apart from the node's own books, to hold it to what it may never do.
//!
//! A first request keeps within the credit of its peer and of the node, but for one chunk that the registry is read
//! for. A chunk that comes twice has a reason that the node counts. A peer that lied is asked for nothing more.

use std::collections::{BTreeMap, BTreeSet};

use tranship_format::wire::{ChunkId, Class, PeerId};
use tranship_swarm::node::{Arrival, Counters, Input, NodeOptions};

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
    twice: u64,
    /// Chunks that the registry was asked for and failed to give.
    unread: u64,
}

impl Ledger {
    pub(super) fn new(credit: Credit) -> Self {
        Self {
            credit,
            open: BTreeMap::new(),
            reads: BTreeMap::new(),
            liars: BTreeSet::new(),
            twice: 0,
            unread: 0,
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
        peer: PeerId,
        request: u32,
        chunk: ChunkId,
        class: Class,
        len: u64,
    ) {
        assert!(!self.liars.contains(&peer), "a liar is asked again");
        if self.open.values().all(|open| open.chunk != chunk) {
            let at_peer = self.open.iter().filter(|((to, _), _)| *to == peer);
            let before = at_peer.map(|(_, open)| open.len).sum();
            let limit = match class {
                Class::Demand => self.credit.peer,
                _ => self.credit.peer_bulk,
            };
            check("a peer's credit", before, len, limit);
            self.check_all(class, len);
        }
        let known = self.open.insert((peer, request), Open { chunk, len });
        assert!(known.is_none(), "a number is used twice");
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
    pub(super) fn tell(&mut self, input: &Input) {
        match input {
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
                self.liars.insert(*peer);
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
        let counted = counters.hedges + counters.silent + counters.origin_overrides;
        // What the registry failed to give is asked of peers again.
        let second = counted + self.unread;
        assert!(
            self.twice <= second,
            "{} chunks came twice, for which {second} reasons are counted",
            self.twice
        );
    }
}
