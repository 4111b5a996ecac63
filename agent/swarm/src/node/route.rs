//! Learns where stripes come from: from the tracker, or without it.

use std::sync::Arc;
use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::{
    ChunkId, MAX_MEMBERS, Member, PeerId, Role, Route as Told, StripeRoute,
};

use super::action::Action;
use super::blob::{Blob, Lease, Park, Route};
use super::input::TrackerChange;
use super::timer::Timer;
use super::{Node, StripeId, tree};

/// First pause before a blob's members are asked for again; doubled each time.
const REFRESH_FIRST: Duration = Duration::from_secs(1);
/// Longest such pause.
const REFRESH_LAST: Duration = Duration::from_mins(10);
/// Times in a row that the tracker may say "later" about a stripe.
const MAX_UNDECIDED: u32 = 20;

impl Node {
    pub(super) fn tracker_up(&mut self, now: Duration, epoch: u64, seed: Option<Member>) {
        let forgot = self.last_epoch != Some(epoch);
        self.tracker = Some(epoch);
        self.last_epoch = Some(epoch);
        if let Some(seed) = seed {
            self.peers.meet(&seed);
        }
        self.to_open.clear();
        self.tell_tracker(now, self.blobs.keys().copied().collect());
        for id in self.stripe_ids() {
            let has_parents = self.has_parents(now, id);
            let Some(stripe) = self.stripe_mut(id) else {
                continue;
            };
            stripe.unanswered = 0;
            match &mut stripe.route {
                // All go on in the order that they have: of a new one beside it, in which whoever was asked before may come behind, rings
                // would come. Who read the registry for them asks, and is given the lease again.
                Route::Parents { .. } if forgot && has_parents => {}
                Route::Lease(lease) if !forgot => {
                    lease.told = None;
                    self.tell_progress(now, id);
                }
                Route::Parents {
                    by_tracker: true, ..
                } if !forgot => {}
                route => {
                    *route = Route::Unknown;
                    self.unpark(id, &[Park::Route, Park::Credit]);
                }
            }
        }
    }

    /// Another tracker answers for some blobs, or is told of them too.
    pub(super) fn tracker_changed(
        &mut self,
        now: Duration,
        blobs: Vec<Digest>,
        change: TrackerChange,
    ) {
        if self.tracker.is_none() {
            return;
        }
        let mut blobs = blobs;
        blobs.retain(|blob| self.blobs.contains_key(blob));
        self.tell_tracker(now, blobs.clone());
        if change == TrackerChange::StandIn {
            return;
        }
        for id in self.stripe_ids() {
            let Some(stripe) = self.stripe_mut(id).filter(|_| blobs.contains(&id.blob)) else {
                continue;
            };
            stripe.unanswered = 0;
            if change == TrackerChange::Forgot && matches!(stripe.route, Route::Parents { .. }) {
                // As when the only tracker has forgotten.
                continue;
            }
            let was_given = matches!(
                stripe.route,
                Route::Lease(_)
                    | Route::Parents {
                        by_tracker: true,
                        ..
                    }
            );
            // Whoever reads under a lease goes on: the tracker that is asked now knows who is at it, and sends
            // nobody else to the registry as long as somebody is.
            if !was_given || change == TrackerChange::Forgot {
                stripe.route = Route::Unknown;
                self.unpark(id, &[Park::Route, Park::Credit]);
            }
        }
    }

    /// Before any question: the tracker must know who has what when it answers the first.
    fn tell_tracker(&mut self, now: Duration, blobs: Vec<Digest>) {
        if blobs.is_empty() {
            return;
        }
        let opened = blobs.clone();
        self.actions.push_back(Action::OpenBlobs { blobs: opened });
        for blob in blobs {
            self.tell_all(now, blob);
        }
    }

    pub(super) fn tracker_down(&mut self) {
        self.tracker = None;
        self.await_no_right();
        for id in self.stripe_ids() {
            if let Some(stripe) = self.stripe_mut(id)
                && matches!(
                    stripe.route,
                    Route::Asked { .. } | Route::Hold { .. } | Route::Unknown
                )
            {
                stripe.route = Route::Unknown;
                self.unpark(id, &[Park::Route, Park::Window]);
            }
        }
    }

    /// Whether the parents of a stripe, for even chunks and for odd ones, can be asked, and the tracker's seed is not among them, which went with it.
    fn has_parents(&self, now: Duration, id: StripeId) -> bool {
        let Some(Route::Parents { parents, .. }) = self.stripe(id).map(|stripe| &stripe.route)
        else {
            return false;
        };
        parents
            .iter()
            .take(2)
            .all(|parent| parent.role != Role::Seed && self.peers.is_usable(now, &parent.peer))
    }

    pub(super) fn stripes_of(&self, blob: Digest) -> Vec<StripeId> {
        let known = self.blobs.get(&blob);
        let numbers = known
            .into_iter()
            .flat_map(|known| known.stripes.keys().copied());
        numbers.map(|number| StripeId { blob, number }).collect()
    }

    fn stripe_ids(&self) -> Vec<StripeId> {
        let stripes = self.blobs.iter().flat_map(|(&blob, known)| {
            known
                .stripes
                .keys()
                .map(move |&number| StripeId { blob, number })
        });
        stripes.collect()
    }

    /// Works a stripe's route out from the members known.
    pub(super) fn route_by_tree(&mut self, now: Duration, id: StripeId) {
        let Some(blob) = self.blobs.get(&id.blob) else {
            return;
        };
        // Without a right of its own nobody gives it anything.
        let may_ask = blob.right.holds(now);
        let others: Vec<Arc<Member>> = blob
            .members
            .values()
            .filter(|other| may_ask && self.peers.is_usable(now, &other.peer))
            .cloned()
            .collect();
        let parents = tree::parents(id, &self.me, blob.is_left_out, others.iter());
        self.introduce(id, &others);
        let route = if parents.is_empty() {
            Route::Direct
        } else {
            Route::Parents {
                parents,
                by_tracker: false,
            }
        };
        if let Some(stripe) = self.stripe_mut(id) {
            stripe.route = route;
        }
    }

    pub(super) fn members(&mut self, blob: Digest, members: &[Arc<Member>]) {
        let me = self.me.peer;
        let met: Vec<(PeerId, Arc<Member>)> = members
            .iter()
            .filter(|member| member.peer != me)
            .map(|member| (member.peer, self.peers.meet(member)))
            .collect();
        if let Some(known) = self.blobs.get_mut(&blob) {
            let is_told = members.iter().any(|member| member.peer == me);
            known.is_full = members.len() >= MAX_MEMBERS;
            known.is_left_out = known.is_full && !is_told;
            known.members = met.into_iter().collect();
        }
    }

    /// Asks for the members of all blobs again: soon after one is opened, for then others open it as
    /// well, and less and less often.
    pub(super) fn refresh_members(&mut self, now: Duration) {
        if now < self.refresh_at {
            return;
        }
        self.refresh_every = (self.refresh_every * 2).min(REFRESH_LAST);
        if self.tracker.is_some() && !self.blobs.is_empty() {
            let blobs = self.blobs.keys().copied().collect();
            self.actions.push_back(Action::OpenBlobs { blobs });
        }
        self.plan_refresh(now);
    }

    fn plan_refresh(&mut self, now: Duration) {
        let jitter = self.jitter(self.refresh_every / 4);
        self.refresh_at = now + self.refresh_every + jitter;
        self.timers.insert((self.refresh_at, Timer::Members));
    }

    /// Tells the tracker of all blobs opened since the last time, in one message.
    pub(super) fn open_at_tracker(&mut self, now: Duration) {
        let opened = std::mem::take(&mut self.to_open);
        if self.tracker.is_some() {
            self.actions.push_back(Action::OpenBlobs {
                blobs: opened.iter().copied().collect(),
            });
            for blob in opened {
                // That there is nothing yet is what the tracker believes anyway.
                if self
                    .blobs
                    .get(&blob)
                    .is_some_and(|known| !known.is_untouched())
                {
                    self.tell_all(now, blob);
                } else if let Some(known) = self.blobs.get_mut(&blob) {
                    known.unannounced = false;
                }
            }
        }
        self.refresh_every = REFRESH_FIRST;
        self.plan_refresh(now);
    }

    pub(super) fn routes(&mut self, now: Duration, blob: Digest, routes: Vec<StripeRoute>) {
        let count = self.blobs.get(&blob).map_or(0, Blob::stripe_count);
        for StripeRoute {
            stripe: number,
            route,
        } in routes
        {
            if number >= count {
                continue;
            }
            let id = StripeId { blob, number };
            let known = self.stripe(id).is_some_and(|stripe| {
                !stripe.wanted.is_empty() || !matches!(stripe.route, Route::Unknown)
            });
            match route {
                Told::Origin { lease, .. } => self.take_lease(now, id, lease),
                Told::Parents(parents) if known => {
                    let parents: Vec<Arc<Member>> = parents
                        .iter()
                        .map(|parent| self.peers.meet(parent))
                        .collect();
                    for parent in &parents {
                        self.learn_member(blob, Arc::clone(parent));
                    }
                    self.set_route(
                        id,
                        Route::Parents {
                            parents,
                            by_tracker: true,
                        },
                    );
                }
                Told::Wait { ms } if known => self.hold(now, id, ms),
                Told::Parents(_) | Told::Wait { .. } => {}
            }
        }
    }

    /// The tracker cannot decide yet. One that never does is as good as away.
    fn hold(&mut self, now: Duration, id: StripeId, ms: u32) {
        let wait = Duration::from_millis(u64::from(ms)).min(self.options.bulk_patience);
        let until = now + wait;
        let undecided = self.stripe(id).map_or(0, |stripe| stripe.undecided) + 1;
        self.set_route(id, Route::Hold { until });
        if undecided > MAX_UNDECIDED {
            self.route_by_tree(now, id);
            return;
        }
        if let Some(stripe) = self.stripe_mut(id) {
            stripe.undecided = undecided;
        }
        self.timers.insert((until, Timer::Hold(id)));
    }

    fn set_route(&mut self, id: StripeId, route: Route) {
        if let Some(stripe) = self.stripe_mut(id) {
            stripe.route = route;
            stripe.unanswered = 0;
            stripe.undecided = 0;
        }
        self.unpark(id, &[Park::Route, Park::Credit]);
    }

    /// The lease of a stripe is ours. What peers were to bring is read here now: they got it from
    /// whoever lost the lease.
    fn take_lease(&mut self, now: Duration, id: StripeId, lease: u64) {
        let Some(stripe) = self.stripe_mut(id) else {
            return;
        };
        if matches!(stripe.route, Route::Lease(held) if held.id == lease) {
            return;
        }
        let waiting: Vec<ChunkId> = stripe
            .wanted
            .iter()
            .map(|&number| ChunkId {
                blob: id.blob,
                number,
            })
            .collect();
        let lease = Lease {
            id: lease,
            streamed_len: 0,
            whole_len: 0,
            told: None,
            told_at: now,
        };
        self.set_route(id, Route::Lease(lease));
        for chunk in waiting {
            let Some(wanted) = self.wants.get_mut(&chunk) else {
                continue;
            };
            let attempts = std::mem::take(&mut wanted.attempts);
            let needs_source = wanted.read.is_none();
            wanted.progress_at = now;
            for attempt in attempts {
                self.forget_request(attempt.peer, attempt.request, chunk);
                let cancel = Action::SendCancel {
                    peer: attempt.peer,
                    request: attempt.request,
                };
                self.actions.push_back(cancel);
            }
            if needs_source {
                self.make_idle(chunk);
            }
        }
        self.lease_changed(now, id);
    }
}
