//! Turns away from a parent that is slow, before all that was asked of it has shown that it is.
//!
//! What was asked of it already stays asked, and is hedged when its time has come: on links on which all chunks take long,
//! to ask others for it as well at once makes what is sent in vain more than what is won.

use std::time::Duration;

use tranship_format::wire::{ChunkId, Fault, MAX_STRIPES, PeerId};

use super::action::Action;
use super::blob::Route;
use super::patience::MISSED_WAITS;
use super::timer::Timer;
use super::wanted::Attempt;
use super::{Node, StripeId};

impl Node {
    /// A peer was slower than it should be; after three times in a row it is avoided.
    pub(super) fn strike(&mut self, now: Duration, attempt: Attempt, chunk: ChunkId) {
        // One that says nothing at all, not even WAIT again, is as good as gone.
        let silent = now.saturating_sub(self.peers.heard_at(&attempt.peer));
        let is_silent = silent > self.options.wait_repeat * MISSED_WAITS;
        if is_silent || self.peers.strike(attempt.peer) {
            self.find_slow(now, attempt, chunk);
        }
    }

    /// A peer is avoided for a while, since it did not bring this chunk as it should.
    pub(super) fn find_slow(&mut self, now: Duration, attempt: Attempt, chunk: ChunkId) {
        if !self.peers.mark_slow(now, attempt.peer, self.options.avoid) {
            return;
        }
        // One that said WAIT may be slow because of others: that is not for the tracker.
        if attempt.alive_at.is_none() || attempt.here_at.is_some() {
            let (fault, peer) = (Fault::Slow, attempt.peer);
            self.actions
                .push_back(Action::Report { fault, peer, chunk });
            self.leave_parent(now, attempt.peer);
        }
    }

    /// Asks the tracker for another parent than this one, wherever it is one.
    fn leave_parent(&mut self, now: Duration, peer: PeerId) {
        if self.tracker.is_none() {
            return;
        }
        let until = now + self.options.lookup_patience;
        for (&blob, known) in &mut self.blobs {
            let mut left = Vec::new();
            for (&number, stripe) in &mut known.stripes {
                if !stripe.wanted.is_empty() && stripe.route.is_child_of(&peer) {
                    stripe.route = Route::Asked { until };
                    left.push(number);
                    let id = StripeId { blob, number };
                    self.timers.insert((until, Timer::Lookup(id)));
                }
            }
            self.counters.lookups += left.len() as u64;
            for stripes in left.chunks(MAX_STRIPES) {
                let stripes = stripes.to_vec();
                self.actions.push_back(Action::Lookup { blob, stripes });
            }
        }
    }
}
