//! Answers what members ask and tell, except for LOOKUP, which is routing.

use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::{
    Fault, Goodput, LeaseState, MAX_BANS, StripeRun, StripeState, TrackerReply,
};

use super::Tracker;
use super::routing::millis;
use super::stripe::MemberNo;
use crate::StripeId;

/// Who says of a member that it is dead so soon after it joined speaks of what ran there before.
const FORMER_LIFE: Duration = Duration::from_secs(2);

impl Tracker {
    pub(super) fn progress(
        &mut self,
        now: Duration,
        me: MemberNo,
        lease: u64,
        done_len: u64,
        state: LeaseState,
    ) -> TrackerReply {
        let lost = TrackerReply::ProgressAck {
            lease,
            expires_ms: None,
        };
        let Some(id) = self.leases.stripe(lease) else {
            return lost;
        };
        self.blobs.count_origin(id, me, done_len);
        let term = self
            .blobs
            .stripe(id)
            .map_or(Duration::ZERO, |known| self.term(known.handovers));
        let Some(stripe) = self.blobs.stripe_mut(id) else {
            return lost;
        };
        let Some(held) = stripe.lease.as_mut().filter(|held| held.holder == me) else {
            return lost;
        };
        let expires_at = now + term;
        match state {
            LeaseState::Released => {
                stripe.lease = None;
                self.leases.end(lease);
                let orphans = stripe.send_to_end(me);
                self.orphans
                    .extend(orphans.into_iter().map(|orphan| (id, orphan)));
                self.pass_on(now, id, Some(me));
                return lost;
            }
            LeaseState::Resting => {
                held.expires_at = None;
                held.overdue = false;
                self.leases.rests(lease);
            }
            LeaseState::Reading | LeaseState::Queued => {
                let moved = done_len > held.done_len;
                if moved || held.expires_at.is_none() || state == LeaseState::Queued {
                    held.done_len = done_len;
                    held.overdue = false;
                    held.expires_at = Some(expires_at);
                    self.leases.reads(lease);
                    self.expiries.insert((expires_at, lease));
                    if moved {
                        stripe.handovers = 0;
                    }
                }
            }
        }
        TrackerReply::ProgressAck {
            lease,
            expires_ms: Some(millis(term)),
        }
    }

    /// ANNOUNCE of the blob with this key.
    pub(super) fn announce(
        &mut self,
        now: Duration,
        me: MemberNo,
        blob: Digest,
        runs: &[StripeRun],
    ) {
        if self.is_member_shunned(me) {
            return;
        }
        let count = self.blobs.stripe_count(&blob, self.options.stripe_chunks);
        let states = runs
            .iter()
            .flat_map(|run| std::iter::repeat_n(run.state, run.count as usize))
            .chain(std::iter::repeat(StripeState::None));
        for (number, state) in (0..count).zip(states) {
            let id = StripeId { blob, number };
            let complete = self
                .blobs
                .stripe(id)
                .and_then(|s| s.get(me))
                .map(|mine| mine.complete);
            match (state, complete) {
                (StripeState::None, None)
                | (StripeState::InFlight, Some(false))
                | (StripeState::Complete, Some(true)) => {}
                // Said before the lease was there: whoever takes leave for good says nothing at all.
                (StripeState::None, Some(_))
                    if !runs.is_empty() && self.is_new_holder(now, id, me) => {}
                (StripeState::None, Some(_)) => self.take_out(now, id, me),
                (StripeState::InFlight, Some(true)) => {
                    self.take_out(now, id, me);
                    self.enter(id, me, false);
                }
                (StripeState::Complete, Some(false)) => {
                    if let Some(stripe) = self.blobs.stripe_mut(id) {
                        let lease = stripe.lease.filter(|lease| lease.holder == me);
                        stripe.complete(me);
                        if let Some(lease) = lease {
                            self.leases.end(lease.id);
                        }
                    }
                }
                (StripeState::InFlight, None) => self.enter(id, me, false),
                (StripeState::Complete, None) => self.enter(id, me, true),
            }
        }
    }

    /// Whether a member was just given a stripe's lease, perhaps unasked, and has not yet used it.
    fn is_new_holder(&self, now: Duration, id: StripeId, me: MemberNo) -> bool {
        let lease = self.blobs.stripe(id).and_then(|stripe| stripe.lease);
        lease.is_some_and(|lease| {
            lease.holder == me && lease.done_len == 0 && lease.expires_at.is_some_and(|at| at > now)
        })
    }

    pub(super) fn heartbeat(
        &mut self,
        me: MemberNo,
        load_permille: u16,
        goodputs: &[Goodput],
    ) -> TrackerReply {
        if let Some(outline) = self.members.outline_mut(me) {
            outline.load_permille = load_permille.min(1_000);
        }
        for goodput in goodputs {
            if let Some(of) = self.members.number(&goodput.peer) {
                self.members.note_goodput(of, me, goodput.bytes_per_second);
            }
        }
        let bans = self.bans.iter().rev().take(MAX_BANS).copied().collect();
        TrackerReply::HeartbeatAck {
            epoch: self.epoch,
            bans,
        }
    }

    /// REPORT: what one member says of another. One alone only keeps the two apart, but for its word that it is slow itself.
    pub(super) fn report(&mut self, now: Duration, by: MemberNo, fault: Fault, of: MemberNo) {
        match fault {
            Fault::WrongChunk => {
                self.members.keep_apart(by, of, now + self.options.apart);
                let accusers = self.accusations.add(now, by, of, self.options.accusation);
                if accusers >= 2 {
                    self.shun(now, of);
                }
            }
            Fault::Slow => {
                let is_enough = if by == of {
                    true
                } else {
                    self.members.note_goodput(of, by, 0);
                    self.slowness.add(now, by, of, self.options.slow) >= 2
                };
                if is_enough && self.members.find_slow(now, of, self.options.slow) {
                    self.step_down(now, of);
                }
            }
            Fault::Dead => {
                self.members
                    .keep_apart(by, of, now + self.options.apart_dead);
                let joined_at = self.members.get(of).map(|standing| standing.joined_at);
                if joined_at.is_some_and(|at| now < at + FORMER_LIFE) {
                    // It was restarted, and that is what they tell of.
                    return;
                }
                let heartbeat = self.options.heartbeat;
                let silent = self
                    .members
                    .get(of)
                    .is_some_and(|standing| standing.seen_at + heartbeat + heartbeat / 2 < now);
                if self.obituaries.add(now, by, of, self.options.apart_dead) >= 2 || silent {
                    self.remove_member(now, of);
                }
            }
        }
    }
}
