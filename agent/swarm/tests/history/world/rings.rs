//! Rings of nodes that wait for each other: what may form none, and how soon the others are gone.
//!
//! Parents form none: those that a tracker names are looked at where it names them, and those that nodes work out
//! themselves here, over all nodes at once, since nodes know different members. Requests may form one: some follow the
//! tracker's word and some a node's own tree, a parent changes while it is asked, BUSY names peers, a hedge goes to a
//! reserve. That is no fault as long as it ends: whoever is in a ring hears of more and more hops, and at the latest
//! one that hears of more than a line can have takes its request back.

use std::collections::BTreeMap;
use std::time::Duration;

use tranship_format::wire::{ChunkId, PeerId};
use tranship_swarm::StripeId;

use super::World;

/// More nodes than this are too many to look at after each step.
const MOST_HOSTS: usize = 16;
/// Hops that a line may have, and WAITs that tell of one more each, a tenth of a second apart; and the ways between.
const LONGEST: Duration = Duration::from_millis(24 * 100 + 400);

/// A ring: who asked whom, with which requests.
type Ring = Vec<(usize, PeerId, u32)>;

/// Rings that were seen, and when first.
#[derive(Debug, Default)]
pub(super) struct Rings {
    since: BTreeMap<Ring, Duration>,
}

impl World {
    /// A host asks for a chunk, perhaps by a tree of its own.
    pub(super) fn check_own_trees(&self, host: usize, chunk: ChunkId) {
        if self.hosts.len() > MOST_HOSTS {
            return;
        }
        let id = StripeId::of(chunk, self.terms.stripe_chunks);
        let mut line = vec![host];
        assert!(
            !self.leads_back(id, &mut line),
            "own trees form a ring: {id:?}, {line:?}"
        );
    }

    fn leads_back(&self, id: StripeId, line: &mut Vec<usize>) -> bool {
        let (Some(&first), Some(&last)) = (line.first(), line.last()) else {
            return false;
        };
        self.hosts[last].node.own_parents(id).iter().any(|peer| {
            let next = self.by_peer[peer];
            line.push(next);
            let leads_back =
                next == first || (line.len() <= MOST_HOSTS && self.leads_back(id, line));
            if !leads_back {
                line.pop();
            }
            leads_back
        })
    }

    /// A peer says that it waits for a chunk itself.
    pub(super) fn check_ring(&mut self, host: usize, peer: PeerId, request: u32) {
        if self.hosts.len() > MOST_HOSTS {
            return;
        }
        let mut ring = Ring::new();
        if let Some(chunk) = self.hosts[host].ledger.chunk_of(peer, request)
            && self.waits_in_ring(chunk, host, host, &mut ring)
        {
            ring.sort_unstable();
            let since = *self.rings.since.entry(ring.clone()).or_insert(self.now);
            assert!(
                self.now <= since + LONGEST,
                "nodes wait for each other since {since:?}: {chunk:?}, {ring:?}"
            );
        }
    }

    fn waits_in_ring(&self, chunk: ChunkId, first: usize, at: usize, ring: &mut Ring) -> bool {
        let this = &self.hosts[at];
        if !this.alive || this.has.contains(&chunk) {
            return false;
        }
        this.ledger.waits_for(chunk).iter().any(|&(peer, request)| {
            if ring.iter().any(|(asker, ..)| *asker == at) {
                return false;
            }
            ring.push((at, peer, request));
            let next = self.by_peer[&peer];
            let is_ring = next == first || self.waits_in_ring(chunk, first, next, ring);
            if !is_ring {
                ring.pop();
            }
            is_ring
        })
    }
}
