//! Picks the peer to ask for a chunk, and keeps what is asked within its credit.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tranship_format::wire::{ChunkId, Class, Member, PeerId};

use super::blob::Route;
use super::wanted::Wanted;
use super::{Node, StripeId};

/// What to do about a chunk that needs a source.
#[derive(Debug)]
pub(super) enum Choice {
    /// Ask this peer.
    Ask(Arc<Member>),
    /// There is one to ask, but enough is asked of it.
    NoCredit,
    /// Whoever is left said BUSY: not before this.
    Later(Duration),
    /// Whoever is left was slower than the registry would be.
    OnlySlow,
    /// There is nobody left to ask.
    Nobody,
}

impl Node {
    /// The best peer to ask for a chunk that has not been asked yet: whom BUSY named, then the
    /// stripe's parents in order. Slow ones are not asked while there may be others: there are never many of them. Where there are none
    /// they are better than the registry, which has to send the chunk to all others as well; of what a reader waits for each is asked
    /// for one chunk at a time, which shows whether it still is slow.
    pub(super) fn choose(&self, now: Duration, chunk: ChunkId) -> Choice {
        let Some(wanted) = self.wants.get(&chunk) else {
            return Choice::Nobody;
        };
        if !self.may_ask_peers(now, &chunk.blob) {
            return Choice::Nobody;
        }
        let len = self.chunk_len(chunk);
        // The second parent is the one for odd chunks: see the tracker's stripes. Who is the parent in the
        // one tree may be below this node in the other, and so is not asked there: it would wait for us.
        let (parents, by_tracker): (&[Arc<Member>], bool) = match self
            .stripe(self.stripe_of(chunk))
            .map(|stripe| &stripe.route)
        {
            Some(Route::Parents {
                parents,
                by_tracker,
            }) => (parents, *by_tracker),
            _ => (&[], false),
        };
        let parent = usize::from(by_tracker && chunk.number % 2 == 1 && parents.len() > 1);
        let reserves = if by_tracker { 2 } else { 1 };
        let parents = parents
            .get(parent)
            .into_iter()
            .chain(parents.get(reserves..).unwrap_or_default());
        let named = wanted.alternatives.iter().map(|member| (member, true));
        let parents = parents.map(|member| (member, false));
        let mut later = None;
        let mut is_silent = false;
        let is_idle = |peer: &PeerId| self.peers.asked_len(peer) == 0;
        let mut slow: Option<&Arc<Member>> = None;
        for (member, has_it) in named.chain(parents) {
            let peer = &member.peer;
            if !has_it && later.is_some() {
                // One that is busy will have time. Others may wait for this node by now, and two that wait for
                // each other have none.
                break;
            }
            let refused_until = wanted.refused_until(peer);
            if !self.may_ask(now, wanted, peer) || refused_until == Duration::MAX {
                continue;
            }
            if self.is_silent(now, peer) {
                is_silent = true;
            } else if self.peers.is_slow(now, peer) {
                let is_better = slow.is_none_or(|known| is_idle(peer) && !is_idle(&known.peer));
                slow = if refused_until <= now && is_better {
                    Some(member)
                } else {
                    slow
                };
            } else if refused_until > now {
                later = Some(later.map_or(refused_until, |at: Duration| at.min(refused_until)));
            } else if self.has_peer_credit(peer, wanted.class, len) {
                return Choice::Ask(Arc::clone(member));
            } else {
                // A reserve that is asked as well is no reserve.
                return Choice::NoCredit;
            }
        }
        let (rounds, is_demand) = if wanted.class > Class::Demand {
            (2, false)
        } else {
            (1, true)
        };
        match (later, slow) {
            (Some(at), _) => Choice::Later(at),
            (None, Some(member)) if wanted.rounds >= rounds => {
                let may = is_idle(&member.peer)
                    || (!is_demand && self.has_peer_credit(&member.peer, wanted.class, len));
                if may {
                    Choice::Ask(Arc::clone(member))
                } else {
                    Choice::NoCredit
                }
            }
            (None, Some(_)) => Choice::OnlySlow,
            (None, None) if is_silent => Choice::OnlySlow,
            (None, None) => Choice::Nobody,
        }
    }

    fn may_ask(&self, now: Duration, wanted: &Wanted, peer: &PeerId) -> bool {
        *peer != self.me.peer
            && self.peers.is_usable(now, peer)
            && !self.leaving.contains(peer)
            && !wanted.is_asked_of(peer)
            && wanted.children.iter().all(|child| child.peer != *peer)
    }

    /// Whether a peer that was asked says nothing, as one that is gone does long before its connection ends.
    pub(super) fn is_silent(&self, now: Duration, peer: &PeerId) -> bool {
        self.peers.is_silent(now, peer, self.options.hedge_max)
    }

    fn has_peer_credit(&self, peer: &PeerId, class: Class, len: u64) -> bool {
        let limit = if class == Class::Demand {
            self.options.peer_credit_len
        } else {
            self.options.peer_bulk_credit_len
        };
        let asked = self.peers.asked_len(peer);
        asked == 0 || asked + len <= limit
    }

    /// Whether `len` more bytes may be in flight in all. One chunk always may.
    pub(super) fn has_credit(&self, class: Class, len: u64) -> bool {
        let limit = if class == Class::Demand {
            self.options.credit_len
        } else {
            self.options.credit_len / 4 * 3
        };
        self.in_flight_len == 0 || self.in_flight_len + len <= limit
    }

    pub(super) fn chunk_len(&self, chunk: ChunkId) -> u64 {
        self.blobs
            .get(&chunk.blob)
            .and_then(|blob| blob.chunk_len(chunk.number))
            .unwrap_or(0)
    }

    /// Gives back the credit of a request that is answered, cancelled or void.
    pub(super) fn forget_request(&mut self, peer: PeerId, request: u32, chunk: ChunkId) {
        let len = self.chunk_len(chunk);
        if self.peers.close_request(peer, request, len) {
            self.in_flight_len = self.in_flight_len.saturating_sub(len);
            self.unpark_all(super::blob::Park::Credit);
        }
    }

    /// The parents of a stripe that this node worked out itself, for tests of what they may never form.
    pub fn own_parents(&self, id: StripeId) -> Vec<PeerId> {
        match self.stripe(id).map(|stripe| &stripe.route) {
            Some(Route::Parents {
                parents,
                by_tracker: false,
            }) => parents.iter().map(|parent| parent.peer).collect(),
            _ => Vec::new(),
        }
    }

    /// Peers with requests of ours.
    pub fn asked_peers(&self) -> BTreeSet<PeerId> {
        self.peers.asked()
    }
}
