//! Questions to the tracker: where stripes come from.

use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::{ChunkId, PeerId};

use super::action::Action;
use super::blob::{Blob, Park, Route, Stripe};
use super::timer::Timer;
use super::{Node, StripeId};

/// Questions to the tracker without an answer before a stripe does without it.
const MAX_UNANSWERED: u32 = 1;
/// Stripes behind the one that is wanted that are asked about with it. Who reads the one mostly reads the next, and eight of ten questions of
/// a start were about single stripes: of ten thousand nodes that start together a tracker has answered all sooner.
const AHEAD: u32 = 3;

impl Node {
    /// Notes as asked about a stripe whose route is not known, and those behind it; adds their numbers to `asked`.
    pub(super) fn look_up(&mut self, now: Duration, id: StripeId, asked: &mut Vec<u32>) {
        let until = now + self.options.lookup_patience;
        let count = self.blobs.get(&id.blob).map_or(0, Blob::stripe_count);
        let end = id.number.saturating_add(1 + AHEAD).min(count);
        for number in id.number..end {
            let id = StripeId { number, ..id };
            if let Some(stripe) = self.stripe_mut(id)
                && matches!(stripe.route, Route::Unknown)
            {
                stripe.route = Route::Asked { until };
                asked.push(number);
                self.timers.insert((until, Timer::Lookup(id)));
            }
        }
    }

    /// Asks the tracker for other parents than this one, or works them out where it is away.
    pub(super) fn ask_for_others(&mut self, now: Duration, chunk: ChunkId, peer: PeerId) {
        let id = self.stripe_of(chunk);
        let until = now + self.options.lookup_patience;
        let tracker_up = self.tracker.is_some();
        let Some(stripe) = self.stripe_mut(id) else {
            return;
        };
        // Once for all chunks that this peer keeps waiting.
        let (is_its_child, is_of_the_tracker) = match &stripe.route {
            Route::Parents {
                parents,
                by_tracker: true,
            } => (parents.iter().any(|parent| parent.peer == peer), true),
            Route::Unknown => (false, true),
            _ => (false, false),
        };
        if !tracker_up && is_of_the_tracker {
            if self.is_first_left(id) {
                return self.go_direct(chunk);
            }
            // Nobody will name others: those whom the members known make parents stand in.
            return self.route_by_tree(now, id);
        }
        if !tracker_up || !is_its_child {
            return;
        }
        stripe.route = Route::Asked { until };
        self.timers.insert((until, Timer::Lookup(id)));
        self.counters.lookups += 1;
        let (blob, stripes) = (id.blob, vec![id.number]);
        self.actions.push_back(Action::Lookup { blob, stripes });
    }

    /// Whether a node that nobody of a lost tracker's order helps reads the registry in its place: it is the first of those left, and the others
    /// wait for it, in that order. By a tree of its own it would wait for one of them. A crowd too large to know is another matter: of
    /// thousands each would read.
    pub(super) fn is_first_left(&self, id: StripeId) -> bool {
        let is_crowd = self.blobs.get(&id.blob).is_some_and(|blob| blob.is_full);
        let is_ordered = |stripe: &Stripe| {
            matches!(
                stripe.route,
                Route::Parents {
                    by_tracker: true,
                    ..
                }
            )
        };
        !is_crowd && self.stripe(id).is_some_and(is_ordered)
    }

    pub(super) fn lookup_late(&mut self, now: Duration, id: StripeId) {
        let tracker_up = self.tracker.is_some();
        let Some(stripe) = self.stripe_mut(id) else {
            return;
        };
        if !matches!(stripe.route, Route::Asked { until } if until <= now) || !tracker_up {
            return;
        }
        stripe.unanswered += 1;
        let without = stripe.unanswered > MAX_UNANSWERED;
        stripe.route = Route::Unknown;
        if without {
            self.route_by_tree(now, id);
        }
        self.unpark(id, &[Park::Route]);
    }

    pub(super) fn lookup_failed(&mut self, now: Duration, blob: Digest, stripes: Vec<u32>) {
        let is_unheard = |known: &Blob| known.right.is_unheard(now);
        if self.tracker.is_some()
            && self
                .blobs
                .get(&blob)
                .is_some_and(|known| !is_unheard(known))
        {
            self.actions
                .push_back(Action::OpenBlobs { blobs: vec![blob] });
        }
        for number in stripes {
            let id = StripeId { blob, number };
            if let Some(stripe) = self.stripe_mut(id)
                && matches!(stripe.route, Route::Asked { .. })
            {
                stripe.unanswered += 1;
                let until = now + Duration::from_millis(50) * stripe.unanswered.min(20);
                stripe.route = Route::Hold { until };
                self.timers.insert((until, Timer::Hold(id)));
            }
        }
    }
}
