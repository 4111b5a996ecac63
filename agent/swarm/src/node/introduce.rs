//! Nodes that lost the tracker before it told them of each other.
//!
//! The tracker names the members when a node opens a blob: those that came before it, and none that come
//! behind it. If it goes away then, each node that has put itself first among the few it knows reads the
//! registry for itself. So whoever is the first of a stripe shows its right to those that come next in the
//! order: they learn of it, work their routes out anew, and ask. Who came late knows all that came before, so
//! the true first knows those that may take its place.

use std::sync::Arc;

use tranship_format::Digest;
use tranship_format::wire::{Member, PeerId};

use super::action::Action;
use super::blob::{Blob, Route};
use super::{Node, StripeId, tree};

/// Members of one blob beyond which no more are learnt in passing.
const MAX_LEARNT: usize = 512;
/// Members that the first of a stripe shows itself to: each costs a connection, most of which chunks go over later.
const MAX_INTRODUCED: usize = 32;

impl Node {
    /// Whoever deals with a blob is a member to reckon with when the tracker is away, unless all reckon with
    /// the same part of a swarm too large to know.
    pub(super) fn learn_member(&mut self, blob: Digest, member: Arc<Member>) {
        let is_lost = self.tracker.is_none();
        if let Some(known) = self.blobs.get_mut(&blob)
            && !known.is_full
            && known.members.len() < MAX_LEARNT
            && member.peer != self.me.peer
            && known.members.insert(member.peer, member).is_none()
            && is_lost
        {
            known.forget_own_routes();
        }
    }

    /// A peer showed that it may have these blobs.
    pub(super) fn learn_of(&mut self, peer: &PeerId, blobs: impl Iterator<Item = Digest>) {
        if let Some(member) = self.peers.member(peer).cloned() {
            for blob in blobs {
                self.learn_member(blob, Arc::clone(&member));
            }
        }
    }

    /// If this node is the first of a stripe, of its zone or of all, as far as it knows, those behind it hear of it.
    pub(super) fn introduce(&mut self, id: StripeId, others: &[Arc<Member>]) {
        let Some(known) = self.blobs.get_mut(&id.blob).filter(|known| !known.is_full) else {
            return;
        };
        for to in tree::behind(id, &self.me, others.iter(), MAX_INTRODUCED) {
            if known.introduced_to.insert(to.peer) {
                let blob = id.blob;
                self.actions.push_back(Action::Introduce { to, blob });
            }
        }
    }
}

impl Blob {
    /// Routes that were worked out from the members are worked out again, when they are needed.
    fn forget_own_routes(&mut self) {
        for stripe in self.stripes.values_mut() {
            let is_own = match stripe.route {
                Route::Direct => true,
                Route::Parents { by_tracker, .. } => !by_tracker,
                _ => false,
            };
            if is_own {
                stripe.route = Route::Unknown;
            }
        }
    }
}
