//! Starts what can be started: goes through the stripes with open wants, most urgent first, until
//! each has either nothing left to start or a reason to wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::{ChunkId, Class, MAX_STRIPES, Member, Want};

use super::action::Action;
use super::blob::{Park, Route};
use super::choose::Choice;
use super::patience::MAX_ROUNDS;
use super::timer::Timer;
use super::wanted::Attempt;
use super::{Node, StripeId};

/// First pause before the tracker is asked again because nobody it named could help.
const HOLD: Duration = Duration::from_millis(10);

/// What one step of a stripe came to.
enum Step {
    /// Something was started or changed: look again.
    Again,
    /// Nothing can be started, for this reason.
    Park(Park),
}

impl Node {
    pub(super) fn pump(&mut self, now: Duration) {
        let mut lookups: BTreeMap<Digest, Vec<u32>> = BTreeMap::new();
        while let Some(&(_, _, id)) = self.ready.first() {
            if let Step::Park(why) = self.step(now, id, &mut lookups) {
                self.park(id, why);
            }
        }
        for (blob, stripes) in lookups {
            for asked in stripes.chunks(MAX_STRIPES) {
                self.counters.lookups += asked.len() as u64;
                self.actions.push_back(Action::Lookup {
                    blob,
                    stripes: asked.to_vec(),
                });
            }
        }
    }

    fn step(
        &mut self,
        now: Duration,
        id: StripeId,
        lookups: &mut BTreeMap<Digest, Vec<u32>>,
    ) -> Step {
        let bulk_is_full = self.engaged.len() >= self.options.bulk_stripes;
        let tracker_up = self.tracker.is_some();
        let right_awaited = self.is_right_awaited(&id.blob);
        let engaged = self.engaged.contains(&id);
        let Some(stripe) = self.stripe_mut(id) else {
            return Step::Park(Park::Route);
        };
        let Some(&(class, _, number)) = stripe.idle.first() else {
            return Step::Park(Park::Route);
        };
        let chunk = ChunkId {
            blob: id.blob,
            number,
        };
        // A chunk that goes to the registry unasked does not wait for its stripe's route.
        if let Some(direct) = self.first_direct(id) {
            return self.start_read(now, id, direct);
        }
        if self.is_refused(now, &id.blob) {
            self.route_to_registry(id);
        }
        let for_child = self
            .wants
            .get(&chunk)
            .is_some_and(|wanted| !wanted.children.is_empty());
        let Some(stripe) = self.stripe_mut(id) else {
            return Step::Park(Park::Route);
        };
        match stripe.route {
            Route::Unknown if tracker_up && right_awaited => Step::Park(Park::Route),
            Route::Unknown if tracker_up => {
                if class > Class::Demand && bulk_is_full && !engaged && !for_child {
                    return Step::Park(Park::Window);
                }
                self.engaged.insert(id);
                self.look_up(now, id, lookups.entry(id.blob).or_default());
                Step::Park(Park::Route)
            }
            Route::Unknown => {
                self.route_by_tree(now, id);
                Step::Again
            }
            Route::Asked { .. } | Route::Hold { .. } => Step::Park(Park::Route),
            Route::Lease(_) | Route::Direct => self.start_read(now, id, chunk),
            Route::Parents { .. } => match self.choose(now, chunk) {
                Choice::Ask(member) => self.ask(now, chunk, member),
                Choice::NoCredit => Step::Park(Park::Credit),
                Choice::Later(at) => {
                    self.take_idle(chunk);
                    self.timers.insert((at, Timer::Retry(chunk)));
                    Step::Again
                }
                Choice::OnlySlow | Choice::Nobody => self.exhausted(now, id, chunk),
            },
        }
    }

    fn first_direct(&self, id: StripeId) -> Option<ChunkId> {
        let stripe = self.stripe(id)?;
        let direct = |chunk: &ChunkId| self.wants.get(chunk).is_some_and(|wanted| wanted.direct);
        let chunks = stripe.idle.iter().map(|&(_, _, number)| ChunkId {
            blob: id.blob,
            number,
        });
        if self.direct_count == 0 {
            None
        } else {
            chunks.into_iter().find(direct)
        }
    }

    fn ask(&mut self, now: Duration, chunk: ChunkId, member: Arc<Member>) -> Step {
        let len = self.chunk_len(chunk);
        let class = self
            .wants
            .get(&chunk)
            .map_or(Class::Background, |wanted| wanted.class);
        if !self.has_credit(class, len) {
            return Step::Park(Park::Credit);
        }
        self.take_idle(chunk);
        self.send_want(now, chunk, member, false);
        Step::Again
    }

    /// Asks a peer for a chunk.
    pub(super) fn send_want(
        &mut self,
        now: Duration,
        chunk: ChunkId,
        to: Arc<Member>,
        is_hedge: bool,
    ) {
        let len = self.chunk_len(chunk);
        let request = self.next_request();
        let Some(wanted) = self.wants.get_mut(&chunk) else {
            return;
        };
        let class = wanted.class;
        let peer = to.peer;
        wanted.alternatives.retain(|other| other.peer != peer);
        wanted.attempts.push(Attempt {
            peer,
            request,
            class,
            sent_at: now,
            alive_at: None,
            here_at: None,
            hops: 0,
            is_hedge,
        });
        self.peers.open_request(now, peer, request, (chunk, len));
        self.in_flight_len += len;
        self.counters.requests += 1;
        self.pace.earn();
        let want = Want {
            class,
            chunk,
            hash: None,
        };
        self.actions
            .push_back(Action::SendWant { to, request, want });
        let jitter = self.jitter(self.pace.hedge_delay() / 4);
        let at = now + self.pace.hedge_delay() + jitter;
        self.timers.insert((at, Timer::Hedge(chunk, request)));
        self.arm_patience(now, chunk);
    }

    /// A chunk that was asked for in passing is now demanded: the peer is told by a new request, which
    /// stands in for the old one unless that is being answered; it misses the other.
    pub(super) fn upgrade(&mut self, now: Duration, chunk: ChunkId) {
        let Some(wanted) = self.wants.get(&chunk) else {
            return;
        };
        let class = wanted.class;
        let outdated = wanted
            .attempts
            .iter()
            .find(|attempt| attempt.class > class)
            .copied();
        if class != Class::Demand
            || wanted.attempts.len() != 1
            || !self.may_ask_peers(now, &chunk.blob)
        {
            return;
        }
        if let Some(old) = outdated
            && let Some(member) = self.peers.member(&old.peer).cloned()
        {
            self.send_want(now, chunk, member, false);
            let new = self
                .wants
                .get_mut(&chunk)
                .and_then(|wanted| wanted.attempts.last_mut());
            if let Some(new) = new {
                new.alive_at = old.alive_at;
                new.here_at = old.here_at;
                new.hops = old.hops;
            }
        }
    }

    /// Forgets a request for a chunk that stays wanted.
    pub(super) fn drop_attempt(&mut self, chunk: ChunkId, attempt: Attempt) {
        self.forget_request(attempt.peer, attempt.request, chunk);
        if let Some(wanted) = self.wants.get_mut(&chunk) {
            wanted
                .attempts
                .retain(|other| other.request != attempt.request);
        }
    }

    /// Nobody named for this stripe can help with a chunk: the tracker is asked again, and after some
    /// rounds, or without a tracker, the registry is read unasked.
    fn exhausted(&mut self, now: Duration, id: StripeId, chunk: ChunkId) -> Step {
        let tracker_up = self.tracker.is_some();
        let Some(wanted) = self.wants.get_mut(&chunk) else {
            return Step::Again;
        };
        wanted.rounds += 1;
        wanted.refused.clear();
        wanted.alternatives.clear();
        let rounds = wanted.rounds;
        if rounds > MAX_ROUNDS || (!tracker_up && (rounds > 1 || self.is_first_left(id))) {
            self.go_direct(chunk);
            return Step::Again;
        }
        if !tracker_up {
            // A tree of those who are left.
            self.route_by_tree(now, id);
            return Step::Again;
        }
        let pause = HOLD * 2_u32.saturating_pow(rounds);
        let until = now + pause + self.jitter(pause);
        if let Some(stripe) = self.stripe_mut(id) {
            stripe.route = Route::Hold { until };
        }
        self.timers.insert((until, Timer::Hold(id)));
        Step::Park(Park::Route)
    }

    /// Starts a registry read at a chunk that needs a source, as long as the wanted chunks after it
    /// reach without a gap.
    fn start_read(&mut self, now: Duration, id: StripeId, first: ChunkId) -> Step {
        let Some(wanted) = self.wants.get(&first) else {
            return Step::Again;
        };
        let class = wanted.class;
        let direct = wanted.direct;
        if let Some(until) = self.rest_of(id).filter(|until| now < *until) {
            self.take_idle(first);
            if let Some(wanted) = self.wants.get_mut(&first) {
                wanted.not_before = until;
                wanted.progress_at = until;
            }
            self.timers.insert((until, Timer::Retry(first)));
            return Step::Again;
        }
        let slots = if class == Class::Demand {
            self.options.registry_demand_reads
        } else {
            self.options.registry_reads
        };
        let len = self.chunk_len(first);
        // What was asked of a peer, and got nowhere, has its credit already. To wait for more would be to
        // wait for the peer, which may be waiting for us.
        let is_counted = !wanted.attempts.is_empty();
        // One read at least goes on whatever is asked of peers: they may all be waiting for what only we may read.
        let is_first = self.reads.is_empty();
        if self.reads.len() >= slots || !(is_counted || is_first || self.has_credit(class, len)) {
            return Step::Park(Park::Credit);
        }
        let leased = self
            .stripe(id)
            .is_some_and(|stripe| matches!(stripe.route, Route::Lease(_) | Route::Direct));
        let mut chunks = vec![first];
        let mut run_len = len;
        let mut number = first.number;
        while let Some(next) = number.checked_add(1) {
            let chunk = ChunkId {
                blob: id.blob,
                number: next,
            };
            let next_len = self.chunk_len(chunk);
            let fits = self.stripe_of(chunk) == id
                && run_len + next_len <= self.options.registry_run_len
                && self.has_credit(class, run_len + next_len);
            let Some(other) = self.wants.get(&chunk).filter(|_| fits) else {
                break;
            };
            if !(other.direct || (leased && !direct)) || !self.is_idle(chunk) {
                break;
            }
            chunks.push(chunk);
            run_len += next_len;
            number = next;
        }
        self.begin_read(now, id, &chunks, run_len, class);
        Step::Again
    }

    /// Asks the stripe's entry among those that can start something to be right again.
    pub(super) fn refresh_ready(&mut self, id: StripeId) {
        let Some(stripe) = self.stripe_mut(id) else {
            return;
        };
        let first = stripe.idle.first().map(|&(class, order, _)| (class, order));
        let key = if stripe.parked.is_none() { first } else { None };
        let before = std::mem::replace(&mut stripe.ready, key);
        if before != key {
            if let Some((class, order)) = before {
                self.ready.remove(&(class, order, id));
            }
            if let Some((class, order)) = key {
                self.ready.insert((class, order, id));
            }
        }
    }

    fn park(&mut self, id: StripeId, why: Park) {
        if let Some(stripe) = self.stripe_mut(id) {
            stripe.parked = Some(why);
        }
        match why {
            Park::Credit => self.parked_for_credit.insert(id),
            Park::Window => self.parked_for_window.insert(id),
            Park::Route => true,
        };
        self.refresh_ready(id);
    }

    /// Lets a stripe try again if it is parked for one of these reasons.
    pub(super) fn unpark(&mut self, id: StripeId, whys: &[Park]) {
        if let Some(stripe) = self.stripe_mut(id)
            && stripe.parked.is_some_and(|why| whys.contains(&why))
        {
            stripe.parked = None;
        }
        self.refresh_ready(id);
    }

    pub(super) fn unpark_all(&mut self, why: Park) {
        let parked = match why {
            Park::Credit => std::mem::take(&mut self.parked_for_credit),
            Park::Window => std::mem::take(&mut self.parked_for_window),
            Park::Route => return,
        };
        for id in parked {
            self.unpark(id, &[why]);
        }
    }
}
