//! Turns away from a peer that is slow, at once and for everything that it was to bring.
//!
//! Each chunk that was asked of it would else wait until its own patience is over, one after the other: in a line of
//! nodes that is the time of all behind, too.

use std::time::Duration;

use tranship_format::wire::{ChunkId, Fault, PeerId};

use super::action::Action;
use super::blob::Route;
use super::choose::Choice;
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
        self.ask_others_instead(now, attempt.peer);
    }

    /// What was asked of a slow peer alone is asked of others, as far as there are any.
    fn ask_others_instead(&mut self, now: Duration, peer: PeerId) {
        for (request, chunk) in self.peers.requests_at(peer) {
            let Some(wanted) = self.wants.get(&chunk) else {
                continue;
            };
            if wanted.read.is_some() || wanted.attempts.len() != 1 {
                continue;
            }
            if let Choice::Ask(member) = self.choose(now, chunk)
                && let Some(&attempt) = self
                    .wants
                    .get(&chunk)
                    .and_then(|wanted| wanted.attempts.first())
            {
                self.drop_attempt(chunk, attempt);
                self.actions.push_back(Action::SendCancel { peer, request });
                self.counters.silent += 1;
                self.send_want(now, chunk, member, false);
            }
        }
    }

    /// Asks the tracker for another parent than this one, wherever it is one.
    fn leave_parent(&mut self, now: Duration, peer: PeerId) {
        if self.tracker.is_none() {
            return;
        }
        let until = now + self.options.lookup_patience;
        let ids: Vec<StripeId> = self.blobs.iter().flat_map(|(&blob, known)| {
            let is_its_child = |route: &Route| matches!(route, Route::Parents { parents, by_tracker: true } if parents.iter().take(2).any(|parent| parent.peer == peer));
            let left = known.stripes.iter().filter(move |(_, stripe)| !stripe.wanted.is_empty() && is_its_child(&stripe.route));
            left.map(move |(&number, _)| StripeId { blob, number })
        }).collect();
        for id in ids {
            if let Some(stripe) = self.stripe_mut(id) {
                stripe.route = Route::Asked { until };
            }
            self.timers.insert((until, Timer::Lookup(id)));
            self.counters.lookups += 1;
            let (blob, stripes) = (id.blob, vec![id.number]);
            self.actions.push_back(Action::Lookup { blob, stripes });
        }
    }
}
