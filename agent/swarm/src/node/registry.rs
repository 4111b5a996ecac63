//! Reads of the registry and the leases they are made under.
//!
//! Under a lease only wanted chunks are read, by this node's readers or by peers that ask it: an
//! image is lazy for the whole swarm, not for one node.

use std::collections::BTreeMap;
use std::time::Duration;

use tranship_format::wire::{ChunkId, Class, LeaseState};

use super::action::{Action, FailReason, Origin};
use super::blob::{Lease, Park, Route};
use super::input::{Arrival, RegistryFailure};
use super::timer::Timer;
use super::{Node, StripeId};

/// Failures in a row before a lease is given back for another to try.
const FAILURES_WITH_LEASE: u32 = 2;

/// A registry read in flight.
#[derive(Debug)]
pub(super) struct Read {
    stripe: StripeId,
    /// Chunks still to come, with their lengths.
    left: BTreeMap<u32, u64>,
    progress_at: Duration,
}

impl Node {
    pub(super) fn begin_read(
        &mut self,
        now: Duration,
        id: StripeId,
        chunks: &[ChunkId],
        run_len: u64,
        class: Class,
    ) {
        let (Some(first), Some(last)) = (chunks.first(), chunks.last()) else {
            return;
        };
        let range = first.number..last.number.saturating_add(1);
        self.last_read += 1;
        let read = self.last_read;
        let mut left = BTreeMap::new();
        let mut class = class;
        for &chunk in chunks {
            self.take_idle(chunk);
            left.insert(chunk.number, self.chunk_len(chunk));
            if let Some(wanted) = self.wants.get_mut(&chunk) {
                wanted.read = Some(read);
                class = class.min(wanted.class);
                self.direct_count -= usize::from(std::mem::take(&mut wanted.direct));
            }
        }
        self.in_flight_len += run_len;
        self.reads.insert(
            read,
            Read {
                stripe: id,
                left,
                progress_at: now,
            },
        );
        let action = Action::ReadRegistry {
            read,
            blob: id.blob,
            chunks: range,
            class,
        };
        self.actions.push_back(action);
        self.lease_changed(now, id);
    }

    pub(super) fn registry_progress(&mut self, now: Duration, read: u64, len: u64) {
        let Some(reading) = self.reads.get_mut(&read) else {
            return;
        };
        reading.progress_at = now;
        let id = reading.stripe;
        self.registry_moved_at = now;
        if let Some(lease) = self.lease_mut(id) {
            lease.streamed_len += len;
            self.lease_changed(now, id);
        }
    }

    pub(super) fn registry_chunk(
        &mut self,
        now: Duration,
        read: u64,
        number: u32,
        arrival: Arrival,
    ) {
        let Some(reading) = self.reads.get_mut(&read) else {
            return;
        };
        reading.progress_at = now;
        let id = reading.stripe;
        let Some(len) = reading.left.remove(&number) else {
            return;
        };
        self.in_flight_len = self.in_flight_len.saturating_sub(len);
        self.unpark_all(Park::Credit);
        let chunk = ChunkId {
            blob: id.blob,
            number,
        };
        if arrival == Arrival::Wrong {
            self.counters.wrong_chunks += 1;
            let failure = RegistryFailure {
                retry_after: None,
                permanent: false,
            };
            self.read_failed(now, chunk, failure, FailReason::WrongAtRegistry);
            return;
        }
        if let Some(lease) = self.lease_mut(id) {
            lease.whole_len += len;
        }
        self.counters.chunks_from_registry += 1;
        self.counters.bytes_from_registry += len;
        self.arrived(now, chunk, arrival, Origin::Registry);
        self.lease_changed(now, id);
    }

    pub(super) fn registry_end(
        &mut self,
        now: Duration,
        read: u64,
        failure: Option<RegistryFailure>,
    ) {
        let Some(reading) = self.reads.remove(&read) else {
            return;
        };
        let failure = failure.unwrap_or(RegistryFailure {
            retry_after: None,
            permanent: false,
        });
        if let Some(pause) = failure.retry_after.filter(|_| !failure.permanent)
            && let Some(blob) = self.blobs.get_mut(&reading.stripe.blob)
        {
            blob.rests_until = blob.rests_until.max(now.saturating_add(pause));
        }
        let why = if failure.permanent {
            FailReason::Refused
        } else {
            FailReason::RegistryFailed
        };
        for (number, len) in reading.left {
            self.in_flight_len = self.in_flight_len.saturating_sub(len);
            let chunk = ChunkId {
                blob: reading.stripe.blob,
                number,
            };
            if self
                .wants
                .get(&chunk)
                .is_some_and(|wanted| wanted.read == Some(read))
            {
                self.read_failed(now, chunk, failure, why);
            }
        }
        self.unpark_all(Park::Credit);
        self.lease_changed(now, reading.stripe);
    }

    fn read_failed(
        &mut self,
        now: Duration,
        chunk: ChunkId,
        failure: RegistryFailure,
        why: FailReason,
    ) {
        let id = self.stripe_of(chunk);
        let Some(wanted) = self.wants.get_mut(&chunk) else {
            return;
        };
        wanted.read = None;
        wanted.progress_at = now;
        let asked = wanted.attempts.first().copied();
        if self.registry_rests(now, id) {
            // Its word is no failure: the lease is kept and everybody waits, for another holder would only
            // be one more who asks. Who was asked of it in vain is asked still, and another beside it as beside any other.
            match asked {
                Some(attempt) => self.hedge_soon(now, chunk, attempt),
                None => self.make_idle(chunk),
            }
            self.arm_patience(now, chunk);
            return;
        }
        let Some(wanted) = self.wants.get_mut(&chunk) else {
            return;
        };
        wanted.registry_failures += 1;
        let failures = wanted.registry_failures;
        if failures >= FAILURES_WITH_LEASE || failure.permanent {
            self.release_lease(id);
        }
        let others_may_have_it = self
            .stripe(id)
            .is_some_and(|stripe| !matches!(stripe.route, Route::Direct));
        let tries = self.options.registry_tries;
        let is_last = failures
            >= if failure.permanent {
                tries.min(2)
            } else {
                tries
            };
        if is_last || (failure.permanent && !others_may_have_it) {
            self.fail(now, chunk, why);
            return;
        }
        let doublings = (failures - 1).min(5);
        let pause = self.options.registry_backoff * 2_u32.saturating_pow(doublings);
        let pause = failure
            .retry_after
            .unwrap_or(pause + self.jitter(pause / 2));
        if let Some(wanted) = self.wants.get_mut(&chunk) {
            wanted.not_before = now + pause;
        }
        self.timers.insert((now + pause, Timer::Retry(chunk)));
        self.arm_patience(now, chunk);
    }

    /// Time since the source of a chunk that is on its way last gave something: zero as long as the
    /// registry has not been silent for suspiciously long, for then nobody else would be faster.
    pub(super) fn idle_of(&self, now: Duration, chunk: ChunkId) -> Duration {
        let Some(wanted) = self.wants.get(&chunk) else {
            return Duration::ZERO;
        };
        match wanted.read.and_then(|read| self.reads.get(&read)) {
            Some(read) => {
                // One that waits for its turn on our link is as alive as those before it.
                let silent = now.saturating_sub(read.progress_at.max(self.registry_moved_at));
                if silent > self.options.registry_patience {
                    silent
                } else {
                    Duration::ZERO
                }
            }
            // The registry will be asked when it wants to be.
            None if wanted.attempts.is_empty()
                && self.registry_rests(now, self.stripe_of(chunk)) =>
            {
                Duration::ZERO
            }
            // One that waits for its turn is as alive as the reads before it.
            None if wanted.attempts.is_empty() => wanted.idle(now).min(self.reads_idle(now)),
            // A little less than what we heard ourselves: of a line of waiting nodes the first loses its
            // patience first, and the others hear of it in time. It still grows along a ring.
            None => wanted
                .idle(now)
                .saturating_sub(self.options.wait_repeat / 2),
        }
    }

    /// Whether the registry has asked to be left alone and the time is not over.
    pub(super) fn registry_rests(&self, now: Duration, id: StripeId) -> bool {
        self.rest_of(id).is_some_and(|until| now < until)
    }

    pub(super) fn rest_of(&self, id: StripeId) -> Option<Duration> {
        self.blobs.get(&id.blob).map(|blob| blob.rests_until)
    }

    fn reads_idle(&self, now: Duration) -> Duration {
        let latest = self.reads.values().map(|read| read.progress_at).max();
        latest.map_or(Duration::MAX, |at| now.saturating_sub(at))
    }

    /// Whether there is nothing to read under a lease now: nothing is wanted, or the registry has asked for a pause.
    fn lease_rests(&self, now: Duration, id: StripeId) -> bool {
        let stripe = self.stripe(id);
        stripe.is_none_or(|stripe| stripe.wanted.is_empty()) || self.registry_rests(now, id)
    }

    fn lease_mut(&mut self, id: StripeId) -> Option<&mut Lease> {
        match &mut self.stripe_mut(id)?.route {
            Route::Lease(lease) => Some(lease),
            _ => None,
        }
    }

    /// Something about a lease's read changed: the tracker is told, at once if it begins or ends to
    /// rest, else not too often.
    pub(super) fn lease_changed(&mut self, now: Duration, id: StripeId) {
        let rests = self.lease_rests(now, id);
        let every = self.options.progress_every;
        let Some(lease) = self.lease_mut(id) else {
            return;
        };
        let done_len = lease.streamed_len.max(lease.whole_len);
        let at = match lease.told {
            Some((told_len, told_rests)) if told_rests == rests => {
                if told_len == done_len {
                    return;
                }
                (lease.told_at + every).max(now)
            }
            None if !rests => lease.told_at + every,
            _ => now,
        };
        if at <= now {
            self.tell_progress(now, id);
        } else {
            self.timers.insert((at, Timer::Progress(id)));
        }
    }

    pub(super) fn tell_progress(&mut self, now: Duration, id: StripeId) {
        let rests = self.lease_rests(now, id);
        let tracker_up = self.tracker.is_some();
        let link_moves =
            now.saturating_sub(self.registry_moved_at) < self.options.progress_every * 2;
        let Some(lease) = self.lease_mut(id) else {
            return;
        };
        let done_len = lease.streamed_len.max(lease.whole_len);
        let nothing_new = lease.told == Some((done_len, rests));
        if !tracker_up || (nothing_new && (rests || !link_moves)) {
            return;
        }
        lease.told = Some((done_len, rests));
        lease.told_at = now;
        let lease = lease.id;
        let state = if rests {
            LeaseState::Resting
        } else if nothing_new {
            LeaseState::Queued
        } else {
            LeaseState::Reading
        };
        if !rests {
            // To be told again if nothing new comes until then.
            let at = now + self.options.progress_every * 2;
            self.timers.insert((at, Timer::Progress(id)));
        }
        self.actions.push_back(Action::Progress {
            lease,
            done_len,
            state,
        });
    }

    /// Gives a lease back, so that another may try.
    fn release_lease(&mut self, id: StripeId) {
        if self.tracker.is_some()
            && let Some(lease) = self.lease_mut(id)
        {
            let (lease, done_len) = (lease.id, lease.streamed_len.max(lease.whole_len));
            let state = LeaseState::Released;
            self.actions.push_back(Action::Progress {
                lease,
                done_len,
                state,
            });
            self.lose_lease(id);
        }
    }

    pub(super) fn progress_ack(&mut self, lease: u64, expires_in: Option<Duration>) {
        let holds = |route: &Route| matches!(route, Route::Lease(held) if held.id == lease);
        let held = self.blobs.iter().find_map(|(&blob, known)| {
            let stripe = known
                .stripes
                .iter()
                .find(|(_, stripe)| holds(&stripe.route));
            stripe.map(|(&number, _)| StripeId { blob, number })
        });
        if expires_in.is_none()
            && let Some(id) = held
        {
            self.lose_lease(id);
        }
    }

    /// The lease is another's now; what is being read is read to its end.
    fn lose_lease(&mut self, id: StripeId) {
        if let Some(stripe) = self.stripe_mut(id) {
            stripe.route = Route::Unknown;
        }
        self.unpark(id, &[Park::Route, Park::Credit]);
    }
}
