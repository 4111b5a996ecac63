//! How long a chunk may make no progress, and what then: another source, in the end the registry without a lease.

use std::time::Duration;

use tranship_format::wire::{ChunkId, Class};

use super::Node;
use super::action::Action;
use super::blob::{Park, Route};
use super::timer::Timer;

/// Times all sources of a chunk may be exhausted before it is read from the registry unasked.
pub(super) const MAX_ROUNDS: u32 = 3;
/// Repetitions of WAIT that may be missed before silence means something: words wait in full queues too.
pub(super) const MISSED_WAITS: u32 = 5;
/// Hops up to which patience grows.
const MOST_STAGGERED: u8 = 24;
/// How much longer a demand read waits in a swarm too large to know: the registry serves none of thousands that turn to it, while
/// peers that have the chunk become more all the time.
const IN_A_CROWD: u32 = 4;

impl Node {
    pub(super) fn patience(&self, chunk: ChunkId) -> Option<Duration> {
        let wanted = self.wants.get(&chunk)?;
        if wanted.class != Class::Demand {
            return Some(self.pace.patience(self.options.bulk_patience));
        }
        let waits = wanted.attempts.is_empty()
            || wanted
                .attempts
                .iter()
                .any(|attempt| attempt.alive_at.is_some());
        let base = if waits {
            self.options.waiting_patience
        } else {
            self.options.demand_patience
        };
        // The farther away, the more patient: in a line of waiting nodes the first gives a source up that
        // gives nothing, and the others hear of it before they do the same.
        let hops = u32::from(wanted.hops().saturating_sub(2).min(MOST_STAGGERED));
        let is_crowd = self.blobs.get(&chunk.blob).is_some_and(|blob| blob.is_full);
        let times = if is_crowd { IN_A_CROWD } else { 1 };
        Some(self.pace.patience(base) * times + self.options.wait_repeat / 2 * hops)
    }

    /// Sees to it that somebody looks after the chunk when it gets nowhere. Bulk that nobody was
    /// asked for yet only waits for its turn.
    pub(super) fn arm_patience(&mut self, now: Duration, chunk: ChunkId) {
        let Some(patience) = self.patience(chunk) else {
            return;
        };
        let Some(wanted) = self.wants.get_mut(&chunk) else {
            return;
        };
        if wanted.class != Class::Demand && wanted.attempts.is_empty() {
            return;
        }
        let at = (wanted.patient_since() + patience)
            .max(wanted.not_before)
            .max(now);
        if wanted.patience_at.is_none_or(|armed| at < armed) {
            wanted.patience_at = Some(at);
            self.timers.insert((at, Timer::Patience(chunk)));
        }
    }

    pub(super) fn patience_over(&mut self, now: Duration, chunk: ChunkId) {
        let Some(patience) = self.patience(chunk) else {
            return;
        };
        let Some(wanted) = self.wants.get_mut(&chunk) else {
            return;
        };
        if wanted.patience_at.is_none_or(|armed| armed > now) {
            return;
        }
        wanted.patience_at = None;
        let is_demand = wanted.class == Class::Demand;
        if wanted.read.is_some() || wanted.direct || (!is_demand && wanted.attempts.is_empty()) {
            return;
        }
        if (wanted.patient_since() + patience).max(wanted.not_before) > now {
            self.arm_patience(now, chunk);
            return;
        }
        wanted.progress_at = now;
        if is_demand {
            // What was asked of peers stays asked: whoever is first wins.
            for attempt in wanted.attempts.clone() {
                self.strike(now, attempt, chunk);
            }
            self.go_direct(chunk);
            return;
        }
        let attempts = std::mem::take(&mut wanted.attempts);
        wanted.rounds += 1;
        let direct = wanted.rounds > MAX_ROUNDS;
        for attempt in attempts {
            if let Some(wanted) = self.wants.get_mut(&chunk) {
                wanted.refuse(attempt.peer, None);
            }
            self.forget_request(attempt.peer, attempt.request, chunk);
            let cancel = Action::SendCancel {
                peer: attempt.peer,
                request: attempt.request,
            };
            self.actions.push_back(cancel);
            self.find_slow(now, attempt, chunk);
        }
        if direct {
            self.go_direct(chunk);
        } else {
            self.make_idle(chunk);
        }
    }

    /// The chunk is to be read from the registry without a lease.
    pub(super) fn go_direct(&mut self, chunk: ChunkId) {
        let id = self.stripe_of(chunk);
        let leased = self
            .stripe(id)
            .is_some_and(|stripe| matches!(stripe.route, Route::Lease(_) | Route::Direct));
        if let Some(wanted) = self.wants.get_mut(&chunk)
            && !wanted.direct
            && wanted.read.is_none()
        {
            wanted.direct = true;
            self.direct_count += 1;
            if !leased {
                self.counters.origin_overrides += 1;
            }
        }
        self.make_idle(chunk);
        self.unpark(id, &[Park::Route, Park::Credit, Park::Window]);
    }
}
