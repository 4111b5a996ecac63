//! A chunk that is wanted, by local readers or by peers, until it is here or given up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tranship_format::wire::{ChunkId, Class, Member, PeerId};

use super::action::{Action, FailReason};
use super::blob::Park;
use super::timer::Timer;
use super::{Node, StripeId};

/// In which order things of one class came.
pub(super) type Order = u64;

/// A time that does not come.
const NEVER: Duration = Duration::MAX;

/// One WANT of ours, not finally answered yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    pub(super) peer: PeerId,
    pub(super) request: u32,
    pub(super) class: Class,
    pub(super) sent_at: Duration,
    /// When the source it ends at last gave something, once the peer has said WAIT.
    pub(super) alive_at: Option<Duration>,
    /// Since when the peer has the chunk and only its link is in the way, as it says.
    pub(super) here_at: Option<Duration>,
    /// Nodes between that peer and the source, as it says.
    pub(super) hops: u8,
    pub(super) is_hedge: bool,
}

/// A peer that waits for the chunk from us.
#[derive(Clone, Copy, Debug)]
pub(super) struct Child {
    pub(super) peer: PeerId,
    pub(super) request: u32,
    pub(super) class: Class,
}

/// A chunk that is wanted.
#[derive(Debug)]
pub(super) struct Wanted {
    /// The most urgent of all who want it.
    pub(super) class: Class,
    pub(super) order: Order,
    /// Until when a local reader wants it, if one does.
    pub(super) local: Option<Duration>,
    pub(super) children: Vec<Child>,
    /// At most two: the first, and its hedge.
    pub(super) attempts: Vec<Attempt>,
    /// The registry read that it is part of.
    pub(super) read: Option<u64>,
    /// Who refused, and until when not to ask it again.
    pub(super) refused: Vec<(PeerId, Duration)>,
    /// Whom BUSY named, not tried yet.
    pub(super) alternatives: VecDeque<Arc<Member>>,
    pub(super) hedged: bool,
    /// To be read from the registry without a lease.
    pub(super) direct: bool,
    /// When anything last came nearer.
    pub(super) progress_at: Duration,
    /// When somebody next looks whether it did.
    pub(super) patience_at: Option<Duration>,
    /// Whether a timer repeats WAIT to the children.
    pub(super) repeats: bool,
    /// The registry is not to be asked before this.
    pub(super) not_before: Duration,
    /// Times all sources were exhausted.
    pub(super) rounds: u32,
    /// Times it was answered BUSY.
    pub(super) busy: u32,
    pub(super) registry_failures: u32,
}

impl Wanted {
    fn new(now: Duration, class: Class, order: Order) -> Self {
        Self {
            class,
            order,
            local: None,
            children: Vec::new(),
            attempts: Vec::new(),
            read: None,
            refused: Vec::new(),
            alternatives: VecDeque::new(),
            hedged: false,
            direct: false,
            progress_at: now,
            patience_at: None,
            repeats: false,
            not_before: Duration::ZERO,
            rounds: 0,
            busy: 0,
            registry_failures: 0,
        }
    }

    /// Until when a peer is not to be asked for this chunk; zero if it did not refuse.
    pub(super) fn refused_until(&self, peer: &PeerId) -> Duration {
        let refusals = self.refused.iter().filter(|(refuser, _)| refuser == peer);
        refusals
            .map(|&(_, until)| until)
            .max()
            .unwrap_or(Duration::ZERO)
    }

    pub(super) fn refuse(&mut self, peer: PeerId, until: Option<Duration>) {
        self.refused.retain(|(refuser, _)| *refuser != peer);
        self.refused.push((peer, until.unwrap_or(NEVER)));
    }

    pub(super) fn is_asked_of(&self, peer: &PeerId) -> bool {
        self.attempts.iter().any(|attempt| attempt.peer == *peer)
    }

    /// Nodes between this one and the one that reads it from its source: our peer and those behind it.
    pub(super) fn hops(&self) -> u8 {
        let hops = self
            .attempts
            .iter()
            .map(|attempt| attempt.hops.saturating_add(1));
        hops.max().unwrap_or(1)
    }

    /// Since when to be impatient: a peer that was only just asked must be given its time.
    pub(super) fn patient_since(&self) -> Duration {
        let silent = self
            .attempts
            .iter()
            .filter(|attempt| attempt.alive_at.is_none() && !attempt.is_hedge)
            .map(|attempt| attempt.sent_at);
        silent.max().unwrap_or_default().max(self.progress_at)
    }

    /// Whether peers other than this one are asked for it.
    pub(super) fn is_asked_of_another(&self, peer: &PeerId) -> bool {
        self.attempts.iter().any(|attempt| attempt.peer != *peer)
    }

    /// Time since whoever reads it from its source last got anything, as far as is known here.
    pub(super) fn idle(&self, now: Duration) -> Duration {
        let alive = self
            .attempts
            .iter()
            .map(|attempt| attempt.alive_at.unwrap_or(attempt.sent_at));
        now.saturating_sub(alive.max().unwrap_or(self.progress_at))
    }
}

impl Node {
    pub(super) fn stripe_of(&self, chunk: ChunkId) -> StripeId {
        StripeId::of(chunk, self.options.stripe_chunks)
    }

    /// A local reader wants a chunk.
    pub(super) fn wanted(
        &mut self,
        now: Duration,
        chunk: ChunkId,
        class: Class,
        give_up_at: Option<Duration>,
    ) {
        let Some(blob) = self.blobs.get_mut(&chunk.blob) else {
            self.actions.push_back(Action::Fail {
                chunk,
                why: FailReason::Unknown,
            });
            return;
        };
        if blob.chunk_len(chunk.number).is_none() {
            self.actions.push_back(Action::Fail {
                chunk,
                why: FailReason::Unknown,
            });
            return;
        }
        // The reader looked, and it is not there: what we believed is out of date.
        if blob.clear(chunk.number) {
            self.announce_soon(now, chunk.blob);
        }
        if !self.want(now, chunk, class) {
            self.actions.push_back(Action::Fail {
                chunk,
                why: FailReason::Overloaded,
            });
            return;
        }
        if let Some(wanted) = self.wants.get_mut(&chunk) {
            let until = give_up_at
                .unwrap_or(NEVER)
                .max(wanted.local.unwrap_or(Duration::ZERO));
            wanted.local = Some(until);
            if until < NEVER {
                self.timers.insert((until, Timer::GiveUp(chunk)));
            }
        }
        self.arm_patience(now, chunk);
    }

    /// Makes a chunk wanted, or more urgent if it is already. False if there is no room.
    pub(super) fn want(&mut self, now: Duration, chunk: ChunkId, class: Class) -> bool {
        let id = self.stripe_of(chunk);
        if let Some(wanted) = self.wants.get_mut(&chunk) {
            if class < wanted.class {
                let before = (wanted.class, wanted.order, chunk.number);
                let after = (class, wanted.order, chunk.number);
                wanted.class = class;
                // Its patience begins now: nobody was in a hurry before.
                wanted.progress_at = now;
                if let Some(stripe) = self.stripe_mut(id)
                    && stripe.idle.remove(&before)
                {
                    stripe.idle.insert(after);
                }
                self.unpark(id, &[Park::Credit, Park::Window]);
                self.upgrade(now, chunk);
            }
            return true;
        }
        if self.wants.len() >= self.options.wants {
            return false;
        }
        self.last_order += 1;
        let order = self.last_order;
        self.wants.insert(chunk, Wanted::new(now, class, order));
        if let Some(stripe) = self.stripe_mut(id) {
            stripe.wanted.insert(chunk.number);
        }
        self.make_idle(chunk);
        true
    }

    /// Puts a wanted chunk among those that need a source.
    pub(super) fn make_idle(&mut self, chunk: ChunkId) {
        let id = self.stripe_of(chunk);
        let Some(wanted) = self.wants.get(&chunk) else {
            return;
        };
        let key = (wanted.class, wanted.order, chunk.number);
        let Some(stripe) = self.stripe_mut(id) else {
            return;
        };
        let first = stripe.idle.first().is_none_or(|first| key < *first);
        stripe.idle.insert(key);
        if first {
            self.unpark(id, &[Park::Credit, Park::Window]);
        }
    }

    /// Takes a wanted chunk out of those that need a source; false if it was not one.
    pub(super) fn take_idle(&mut self, chunk: ChunkId) -> bool {
        let id = self.stripe_of(chunk);
        let Some(wanted) = self.wants.get(&chunk) else {
            return false;
        };
        let key = (wanted.class, wanted.order, chunk.number);
        let taken = self
            .stripe_mut(id)
            .is_some_and(|stripe| stripe.idle.remove(&key));
        self.refresh_ready(id);
        taken
    }

    pub(super) fn is_idle(&self, chunk: ChunkId) -> bool {
        let Some(wanted) = self.wants.get(&chunk) else {
            return false;
        };
        let key = (wanted.class, wanted.order, chunk.number);
        self.stripe(self.stripe_of(chunk))
            .is_some_and(|stripe| stripe.idle.contains(&key))
    }

    /// No local reader wants the chunk any more.
    pub(super) fn unwanted(&mut self, now: Duration, chunk: ChunkId) {
        if let Some(wanted) = self.wants.get_mut(&chunk) {
            wanted.local = None;
        }
        self.drop_if_nobody_wants(now, chunk);
    }

    pub(super) fn drop_if_nobody_wants(&mut self, now: Duration, chunk: ChunkId) {
        let nobody = |wanted: &Wanted| wanted.local.is_none() && wanted.children.is_empty();
        if self.wants.get(&chunk).is_some_and(nobody) {
            self.finish(now, chunk);
        }
    }

    /// A wanted chunk will not come: everybody who wants it is told.
    pub(super) fn fail(&mut self, now: Duration, chunk: ChunkId, why: FailReason) {
        let Some(wanted) = self.finish(now, chunk) else {
            return;
        };
        self.counters.failed += 1;
        if wanted.local.is_some() {
            self.actions.push_back(Action::Fail { chunk, why });
        }
        for child in wanted.children {
            self.waiters.remove(&(child.peer, child.request));
            self.send_miss(child.peer, child.request);
        }
    }

    /// Ends a want: what is still asked of peers for it is cancelled.
    pub(super) fn finish(&mut self, now: Duration, chunk: ChunkId) -> Option<Wanted> {
        self.take_idle(chunk);
        let wanted = self.wants.remove(&chunk)?;
        self.direct_count -= usize::from(wanted.direct);
        for attempt in &wanted.attempts {
            self.forget_request(attempt.peer, attempt.request, chunk);
            let cancel = Action::SendCancel {
                peer: attempt.peer,
                request: attempt.request,
            };
            self.actions.push_back(cancel);
        }
        let id = self.stripe_of(chunk);
        let mut done = false;
        if let Some(stripe) = self.stripe_mut(id) {
            stripe.wanted.remove(&chunk.number);
            done = stripe.wanted.is_empty();
        }
        if done {
            self.engaged.remove(&id);
            self.unpark_all(Park::Window);
            self.lease_changed(now, id);
        }
        Some(wanted)
    }
}
