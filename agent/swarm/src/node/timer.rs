//! What time brings: hedges, repetitions, and questions asked again. What comes of lost patience is `patience`'s.
//!
//! Timers are never taken back: each checks, when it fires, whether it still means anything.

use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::ChunkId;

use super::action::FailReason;
use super::blob::{Park, Route};
use super::choose::Choice;
use super::patience::MISSED_WAITS;
use super::wanted::{Attempt, Wanted};
use super::{Node, StripeId};

/// What a moment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A request of ours (by number) has been silent for long.
    Hedge(ChunkId, u32),
    /// A chunk may have made no progress for too long.
    Patience(ChunkId),
    /// A chunk may look for a source again.
    Retry(ChunkId),
    /// A chunk's reader goes.
    GiveUp(ChunkId),
    /// Peers that wait for a chunk are told so again.
    WaitRepeat(ChunkId),
    /// Peers whose chunks are queued or being sent are told so again.
    UploadWait,
    /// The tracker should have answered about a stripe.
    Lookup(StripeId),
    /// The tracker may be asked about a stripe again.
    Hold(StripeId),
    /// The tracker is to be told of a lease.
    Progress(StripeId),
    /// The tracker is to be told what is held of a blob.
    Announce(Digest),
    /// The members of all blobs are to be asked for.
    Members,
}

impl Node {
    pub(super) fn fire(&mut self, now: Duration, timer: Timer) {
        match timer {
            Timer::Hedge(chunk, request) => self.hedge(now, chunk, request),
            Timer::Patience(chunk) => self.patience_over(now, chunk),
            Timer::Retry(chunk) => {
                let waits = |w: &Wanted| w.attempts.is_empty() && w.read.is_none();
                if self.wants.get(&chunk).is_some_and(waits) {
                    self.make_idle(chunk);
                }
            }
            Timer::GiveUp(chunk) => {
                let is_over = |wanted: &Wanted| wanted.local.is_some_and(|until| until <= now);
                if self.wants.get(&chunk).is_some_and(is_over) {
                    self.fail(now, chunk, FailReason::TimedOut);
                }
            }
            Timer::WaitRepeat(chunk) => self.repeat_wait(now, chunk),
            Timer::UploadWait => self.repeat_upload_wait(now),
            Timer::Lookup(id) => self.lookup_late(now, id),
            Timer::Hold(id) => {
                if let Some(stripe) = self.stripe_mut(id)
                    && matches!(stripe.route, Route::Hold { until } if until <= now)
                {
                    stripe.route = Route::Unknown;
                    self.unpark(id, &[Park::Route]);
                }
            }
            Timer::Progress(id) => self.tell_progress(now, id),
            Timer::Announce(blob) => self.announce(now, blob),
            Timer::Members => self.refresh_members(now),
        }
    }

    /// A request has been open for a while: if nothing was heard of it, a second source is asked.
    fn hedge(&mut self, now: Duration, chunk: ChunkId, request: u32) {
        let Some(wanted) = self.wants.get(&chunk) else {
            return;
        };
        let Some(&attempt) = wanted
            .attempts
            .iter()
            .find(|attempt| attempt.request == request)
        else {
            return;
        };
        if wanted.read.is_some() {
            return;
        }
        if wanted.is_asked_of_another(&attempt.peer) {
            return self.look_after_both(now, chunk, attempt);
        }
        if attempt.alive_at.is_some() {
            return self.watch(now, chunk, attempt);
        }
        let is_silent = self.is_silent(now, &attempt.peer);
        if wanted.hedged {
            // Whoever was asked beside it had no time.
            return if is_silent {
                self.needs_source(now, chunk);
            } else {
                self.hedge_soon(now, chunk, attempt);
            };
        }
        if is_silent {
            // What waits for its credit need not.
            self.unpark_all(Park::Credit);
        }
        match self.choose(now, chunk) {
            Choice::Ask(member) if self.pace.may_hedge() => {
                self.pace.spend_hedge();
                self.counters.hedges += 1;
                if let Some(wanted) = self.wants.get_mut(&chunk) {
                    wanted.hedged = true;
                }
                self.send_want(now, chunk, member, true);
            }
            Choice::Nobody | Choice::OnlySlow if is_silent => {
                self.ask_for_others(now, chunk, attempt.peer);
                self.hedge_soon(now, chunk, attempt);
            }
            _ => self.hedge_soon(now, chunk, attempt),
        }
    }

    /// A second source was asked beside this one. If nothing is heard of either, both are taken for gone.
    fn look_after_both(&mut self, now: Duration, chunk: ChunkId, attempt: Attempt) {
        if attempt.alive_at.is_some() {
            return;
        }
        if self.is_silent(now, &attempt.peer) {
            self.needs_source(now, chunk);
        }
        let wanted = self.wants.get(&chunk);
        let mut attempts = wanted.into_iter().flat_map(|wanted| &wanted.attempts);
        if attempts.any(|open| open.request == attempt.request) {
            self.hedge_soon(now, chunk, attempt);
        }
    }

    pub(super) fn hedge_soon(&mut self, now: Duration, chunk: ChunkId, attempt: Attempt) {
        let at = now + self.options.wait_repeat / 2;
        self.timers
            .insert((at, Timer::Hedge(chunk, attempt.request)));
    }

    /// Looks after a peer that said WAIT. One that then says nothing at all, though WAIT is to be
    /// repeated, is as good as gone; one whose source gives nothing, or whose queue does not move, may
    /// be out of luck. Another peer is asked just before the reader would turn to the registry, which is
    /// for all the last.
    fn watch(&mut self, now: Duration, chunk: ChunkId, attempt: Attempt) {
        let Some(patience) = self.patience(chunk) else {
            return;
        };
        let Some(wanted) = self.wants.get(&chunk) else {
            return;
        };
        let repeat = self.options.wait_repeat;
        let silent_at = self.peers.heard_at(&attempt.peer) + repeat * MISSED_WAITS;
        let stale_at = wanted.progress_at + patience.saturating_sub(repeat / 2);
        // What the peer has and does not get sent is the peer's own slowness.
        let slow_at = attempt
            .here_at
            .map_or(Duration::MAX, |at| at + self.pace.slow_delay());
        let at = silent_at.min(stale_at).min(slow_at);
        if at > now {
            self.timers
                .insert((at, Timer::Hedge(chunk, attempt.request)));
            return;
        }
        if silent_at <= now {
            self.peers.mark_slow(now, attempt.peer, self.options.avoid);
        } else if wanted.hedged || !self.pace.may_hedge() {
            return;
        }
        match self.choose(now, chunk) {
            Choice::Ask(member) => {
                self.counters.hedges += 1;
                if silent_at > now {
                    self.pace.spend_hedge();
                } else {
                    self.counters.silent += 1;
                }
                if let Some(wanted) = self.wants.get_mut(&chunk) {
                    wanted.hedged = true;
                }
                self.send_want(now, chunk, member, true);
            }
            Choice::Nobody | Choice::OnlySlow => self.find_others(now, chunk, attempt),
            Choice::NoCredit | Choice::Later(_) => self.hedge_later(now, chunk, attempt),
        }
    }

    fn hedge_later(&mut self, now: Duration, chunk: ChunkId, attempt: Attempt) {
        let at = now + self.pace.slow_delay();
        self.timers
            .insert((at, Timer::Hedge(chunk, attempt.request)));
    }

    /// Nobody is left to ask beside a peer that does not get on: the tracker may know others.
    fn find_others(&mut self, now: Duration, chunk: ChunkId, attempt: Attempt) {
        self.hedge_later(now, chunk, attempt);
        if let Some(here_at) = attempt.here_at {
            let stood = attempt.alive_at.map(|at| now.saturating_sub(at));
            if stood.is_some_and(|stood| stood >= self.pace.slow_delay() / 2) {
                // It has the chunk, and hardly anything leaves it.
                self.strike(now, attempt, chunk);
            }
            if now.saturating_sub(here_at) < self.options.bulk_patience {
                // A queue that moves; and every question moves whole branches of the tree.
                return;
            }
        }
        self.ask_for_others(now, chunk, attempt.peer);
    }
}
