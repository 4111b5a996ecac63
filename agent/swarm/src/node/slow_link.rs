//! What a node does whose own link is slow: it sends what nobody else has, one chunk at a time, and has the tracker send others elsewhere.

use std::time::Duration;

use tranship_format::wire::{ChunkId, Fault, PeerId, Role};

use super::Node;
use super::action::Action;
use super::blob::Route;

/// How often the tracker is told that the link is slow.
const TELL_SLOW: Duration = Duration::from_secs(30);

impl Node {
    /// Whether somebody besides the asker has a chunk, as far as is known here: one that got it from here, or a parent
    /// that it came from. Whoever asks the only one that has it waits, however slow that is.
    pub(super) fn is_elsewhere(&self, now: Duration, asker: PeerId, chunk: ChunkId) -> bool {
        let recent = self.uploads.recent.get(&chunk).into_iter().flatten();
        let mut recent = recent.filter(|(peer, _)| *peer != asker);
        let stripe = self.stripe(self.stripe_of(chunk));
        let is_parent = |peer: PeerId| peer != asker && self.peers.is_usable(now, &peer);
        recent.next().is_some()
            || stripe.is_some_and(|stripe| match &stripe.route {
                Route::Parents { parents, .. } => {
                    parents.iter().any(|parent| is_parent(parent.peer))
                }
                // It had some, and is to have others.
                Route::Asked { .. } | Route::Hold { .. } => true,
                Route::Unknown | Route::Lease(_) | Route::Direct => false,
            })
    }

    /// Whether a peer is to get a chunk of somebody else: one chunk at a time fills a slow link, and what this node itself is sent stands
    /// still behind it, since that is acknowledged over the same link.
    pub(super) fn spares_link(&self, now: Duration, asker: PeerId, chunk: ChunkId) -> bool {
        self.uploads.is_full(now) && self.is_elsewhere(now, asker, chunk)
    }

    /// Has the tracker give this node's children other parents, and its leases to others: a member's own word is enough.
    pub(super) fn tell_slow(&mut self, now: Duration, chunk: ChunkId) {
        let told_at = self.uploads.told_slow_at;
        let is_known = told_at.is_some_and(|at| now.saturating_sub(at) < TELL_SLOW);
        if !is_known && self.me.role == Role::Agent && self.uploads.is_slow(now) {
            self.uploads.told_slow_at = Some(now);
            let (fault, peer) = (Fault::Slow, self.me.peer);
            self.actions
                .push_back(Action::Report { fault, peer, chunk });
        }
    }
}
