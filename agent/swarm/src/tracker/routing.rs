//! Finds each stripe's route for each member, and finds it again when a parent or a lease is lost.

use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::{Route, StripeRoute, TrackerReply};

use super::outline::Outline;
use super::stripe::{Lease, MemberNo, Stripe, TREES};
use super::{Action, Tracker};
use crate::StripeId;

/// How long a node waits before it asks again, when nothing else says so.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// The same when as much is read of registries as may be.
const ASK_AGAIN_FULL: Duration = Duration::from_millis(250);
/// How long behind the grace nodes that another tracker led may still come and ask.
const RETURN: Duration = Duration::from_secs(10);

impl Tracker {
    /// The route of a stripe for a member, which becomes a joiner of it if there is room.
    pub(super) fn route(&mut self, now: Duration, id: StripeId, me: MemberNo) -> Route {
        let is_full = self.leases.reading_count() >= self.options.origin_reads;
        if is_full && self.blobs.stripe(id).is_none_or(Stripe::is_empty) {
            // Nobody is entered who would be taken for a parent, and the seed comes first when there is room.
            return Route::Wait {
                ms: millis(ASK_AGAIN_FULL),
            };
        }
        self.seed_first(now, id, me);
        if let Some(route) = self.take_up(now, id, me) {
            return route;
        }
        if !self.is_member_shunned(me) {
            self.register(id, me);
        }
        match self.find_route(now, id, me, true) {
            Some(route) => route,
            None => Route::Wait {
                ms: millis(ASK_AGAIN),
            },
        }
    }

    /// The route of a member that is at a stripe already, of which nobody has all, while this tracker has just begun anew: those at it go on in
    /// the order that the one before gave, and any of them, made its parent, might wait for it. Whoever read the registry for them asks, and is
    /// given the lease. Who asks while another holds it has lost its parents, and is sent to the holder alone, who waits for nobody. A tracker
    /// that was not there before has no grace and finds no such order: whoever asks again there, or has started anew, is led as at any time.
    fn take_up(&mut self, now: Duration, id: StripeId, me: MemberNo) -> Option<Route> {
        let stripe = self.blobs.stripe(id)?;
        let joiners = stripe.joiners();
        let may = !self.options.grace.is_zero()
            && now < self.grace_until + RETURN
            && stripe.get(me).is_some()
            && joiners.iter().all(|joiner| !joiner.complete);
        match stripe.lease {
            _ if !may => None,
            None => self.take_over(now, id, me),
            Some(lease) => {
                let is_asked = lease.holder != me
                    && !lease.overdue
                    && !self.members.are_apart(now, me, lease.holder);
                let holder = self.members.told(lease.holder).filter(|_| is_asked)?;
                Some(Route::Parents(vec![holder]))
            }
        }
    }

    fn register(&mut self, id: StripeId, me: MemberNo) {
        let Some(stripe) = self.blobs.stripe_mut(id) else {
            return;
        };
        match stripe.get(me) {
            Some(joiner) if joiner.complete => {
                let orphans = stripe.send_to_end(me);
                self.orphans
                    .extend(orphans.into_iter().map(|orphan| (id, orphan)));
            }
            Some(_) => {}
            None => self.enter(id, me, false),
        }
    }

    /// Enters a member into a stripe it is not in, as far as there is room.
    pub(super) fn enter(&mut self, id: StripeId, me: MemberNo, complete: bool) {
        let Some(stripe) = self.blobs.stripe_mut(id) else {
            return;
        };
        let full = stripe.joiners().len() >= self.options.stripe_members
            || self.registrations >= self.options.registrations;
        let place = self.members.outline(me).map(Outline::place);
        if let Some(place) = place.filter(|_| !full)
            && let Some(standing) = self.members.get_mut(me)
        {
            stripe.join(me, complete, place);
            standing.stripes.insert(id);
            self.registrations += 1;
        }
    }

    /// `asks` is false when the member is told without having asked.
    fn find_route(
        &mut self,
        now: Duration,
        id: StripeId,
        me: MemberNo,
        asks: bool,
    ) -> Option<Route> {
        let stripe = self.blobs.stripe(id)?;
        if let Some(lease) = stripe.lease.filter(|lease| lease.holder == me) {
            return Some(self.origin(now, lease, stripe.handovers));
        }
        let lost = |lease: &Lease| lease.overdue || self.is_too_slow_for(now, lease.holder, me);
        if stripe.lease.as_ref().is_some_and(lost) {
            return self.take_over(now, id, me);
        }
        if let Some(route) = self.attach(now, id, me, asks) {
            return Some(route);
        }
        let stripe = self.blobs.stripe(id)?;
        let Some(lease) = stripe.lease else {
            let unknown = stripe.joiners().iter().all(|joiner| joiner.member == me);
            return if unknown && now < self.grace_until {
                None
            } else {
                self.take_over(now, id, me)
            };
        };
        if self.members.are_apart(now, me, lease.holder) {
            // An accuser need not wait for the accused; but two who accuse each other would take the
            // lease from each other for ever, and one who was not asking has no need of it yet.
            let may = asks && !self.members.accuses(now, lease.holder, me);
            return if may {
                self.take_over(now, id, me)
            } else {
                None
            };
        }
        // The holder joined later than this one, which once had the lease or a parent that is lost.
        let stripe = self.blobs.stripe_mut(id)?;
        if stripe.get(me).is_some() {
            let orphans = stripe.send_to_end(me);
            self.orphans
                .extend(orphans.into_iter().map(|orphan| (id, orphan)));
        }
        self.attach(now, id, me, asks)
    }

    /// Whether a holder of a lease is slow and another that asks is not.
    fn is_too_slow_for(&self, now: Duration, holder: MemberNo, me: MemberNo) -> bool {
        let is_slow = |number| self.members.is_slow(now, number) && !self.members.is_seed(number);
        is_slow(holder) && !is_slow(me)
    }

    /// Makes `me` the holder of the lease, if another may be given. Whoever had it goes to the end of the line.
    pub(super) fn take_over(&mut self, now: Duration, id: StripeId, me: MemberNo) -> Option<Route> {
        let stripe = self.blobs.stripe(id)?;
        stripe.get(me)?;
        let before = stripe.lease.map(|lease| lease.id);
        if self.is_draining || self.leases.reading_besides(before) >= self.options.origin_reads {
            return None;
        }
        let stripe = self.blobs.stripe_mut(id)?;
        if let Some(before) = stripe.lease.take() {
            self.leases.end(before.id);
            stripe.handovers = (stripe.handovers + 1).min(4);
            if before.holder != me && stripe.get(before.holder).is_some() {
                let orphans = stripe.send_to_end(before.holder);
                self.orphans.push_back((id, before.holder));
                self.orphans
                    .extend(orphans.into_iter().map(|orphan| (id, orphan)));
            }
        }
        stripe.set_parents(me, [None; TREES]);
        let handovers = stripe.handovers;
        let expires_at = Some(now + self.term(handovers));
        let lease = Lease {
            id: self.leases.give(id),
            holder: me,
            expires_at,
            done_len: 0,
            counted_len: 0,
            overdue: false,
        };
        self.blobs.stripe_mut(id)?.lease = Some(lease);
        self.expiries.extend(expires_at.map(|at| (at, lease.id)));
        Some(self.origin(now, lease, handovers))
    }

    pub(super) fn term(&self, handovers: u32) -> Duration {
        self.options.lease * 2_u32.saturating_pow(handovers.min(4))
    }

    fn origin(&self, now: Duration, lease: Lease, handovers: u32) -> Route {
        let left = lease
            .expires_at
            .map_or(self.term(handovers), |at| at.saturating_sub(now));
        Route::Origin {
            lease: lease.id,
            expires_ms: millis(left).max(1),
        }
    }

    /// The lease is free: the first in line gets it and is told so.
    pub(super) fn pass_on(&mut self, now: Duration, id: StripeId, except: Option<MemberNo>) {
        let next = self
            .blobs
            .stripe(id)
            .and_then(|stripe| stripe.first_in_flight(except));
        if let Some(next) = next
            && let Some(route) = self.take_over(now, id, next)
        {
            self.push(id, next, route);
        }
    }

    /// Leases whose time is over go to the next in line; without one they stay, overdue.
    pub(super) fn expire_leases(&mut self, now: Duration) {
        while let Some(&(at, lease)) = self.expiries.first()
            && at <= now
        {
            self.expiries.pop_first();
            let Some(id) = self.leases.stripe(lease) else {
                continue;
            };
            let Some(stripe) = self.blobs.stripe_mut(id) else {
                continue;
            };
            let Some(held) = stripe.lease.as_mut().filter(|held| held.id == lease) else {
                continue;
            };
            match held.expires_at {
                Some(expires_at) if expires_at <= now => {
                    held.overdue = true;
                    self.leases.rests(lease);
                    let holder = held.holder;
                    if stripe.first_in_flight(Some(holder)).is_some() {
                        self.pass_on(now, id, Some(holder));
                    }
                }
                Some(expires_at) => {
                    self.expiries.insert((expires_at, lease));
                }
                None => {}
            }
        }
    }

    /// Takes a member out of a stripe; its lease and its children go to others.
    pub(super) fn take_out(&mut self, now: Duration, id: StripeId, member: MemberNo) {
        let Some(stripe) = self.blobs.stripe_mut(id) else {
            return;
        };
        if stripe.get(member).is_none() {
            return;
        }
        let orphans = stripe.leave(member);
        self.registrations = self.registrations.saturating_sub(1);
        if let Some(standing) = self.members.get_mut(member) {
            standing.stripes.remove(&id);
        }
        let held = stripe.is_holder(member);
        if held && let Some(lease) = stripe.lease.take() {
            self.leases.end(lease.id);
        }
        self.orphans
            .extend(orphans.into_iter().map(|orphan| (id, orphan)));
        if held {
            self.pass_on(now, id, None);
        }
        self.blobs.forget_if_empty(id);
    }

    /// A member that was found to be slow has no children any more: they are told of other parents, and it comes last.
    pub(super) fn step_down(&mut self, now: Duration, number: MemberNo) {
        let standing = self.members.get(number);
        let Some(standing) = standing.filter(|_| !self.members.is_seed(number)) else {
            return;
        };
        let stripes: Vec<StripeId> = standing.stripes.iter().copied().collect();
        for id in stripes {
            let Some(stripe) = self.blobs.stripe_mut(id) else {
                continue;
            };
            let Some(mine) = stripe.get(number) else {
                continue;
            };
            let (is_complete, has_children) = (mine.complete, mine.all_children() > 0);
            let place = mine.place;
            let lease = stripe.lease.filter(|lease| lease.holder == number);
            let may_go = if lease.is_some() {
                stripe.first_in_flight(Some(number)).is_some()
            } else {
                has_children
            };
            if !may_go {
                continue;
            }
            let orphans = stripe.leave(number);
            stripe.join(number, is_complete, place);
            self.orphans
                .extend(orphans.into_iter().map(|orphan| (id, orphan)));
            if let Some(lease) = lease {
                // What it has read is sent once more by the registry: all others would wait for its link.
                if let Some(stripe) = self.blobs.stripe_mut(id) {
                    stripe.lease = None;
                }
                self.leases.end(lease.id);
                self.pass_on(now, id, Some(number));
            }
            self.orphans.push_back((id, number));
        }
        self.settle_orphans(now);
    }

    /// Tells those who lost their parent of their new route, before they find out.
    pub(super) fn settle_orphans(&mut self, now: Duration) {
        while let Some((id, orphan)) = self.orphans.pop_front() {
            let settled = self.blobs.stripe(id).is_none_or(|stripe: &Stripe| {
                stripe.get(orphan).is_none_or(|joiner| joiner.complete)
                    || stripe.parents(orphan).iter().all(Option::is_some)
                    || stripe.is_holder(orphan)
            });
            if !settled && let Some(route) = self.find_route(now, id, orphan, false) {
                self.push(id, orphan, route);
            }
        }
    }

    pub(super) fn push(&mut self, id: StripeId, to: MemberNo, route: Route) {
        let (Some(standing), Some(blob)) = (self.members.get(to), self.blobs.get(&id.blob)) else {
            return;
        };
        let routes = vec![StripeRoute {
            stripe: id.number,
            route,
        }];
        let reply = TrackerReply::Routes {
            blob: blob.digest,
            routes,
        };
        self.actions.push_back(Action::Reply {
            to: standing.member.peer,
            request: 0,
            reply,
        });
    }

    /// LOOKUP of the blob with this key.
    pub(super) fn lookup(
        &mut self,
        now: Duration,
        me: MemberNo,
        (blob, key): (Digest, Digest),
        stripes: Vec<u32>,
    ) -> TrackerReply {
        let count = self.blobs.stripe_count(&key, self.options.stripe_chunks);
        let known = stripes.into_iter().filter(|&number| number < count);
        let routes = known
            .map(|number| {
                let route = self.route(now, StripeId { blob: key, number }, me);
                StripeRoute {
                    stripe: number,
                    route,
                }
            })
            .collect();
        TrackerReply::Routes { blob, routes }
    }
}

pub(super) fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
