//! The serving side: what to answer when a peer wants a chunk.
//!
//! Whatever the answer is, it is given at once. A chunk on its way is answered WAIT, again and again
//! with how alive its source is; too much is answered BUSY with the names of those just served.

use std::sync::Arc;
use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::{ChunkId, MAX_PARENTS, Member, PeerId, Role, Want};

use super::Node;
use super::action::Action;
use super::blob::Route;
use super::timer::Timer;
use super::wanted::{Child, Wanted};

/// What BUSY says of when to come back.
const RETRY: Duration = Duration::from_millis(20);

impl Node {
    pub(super) fn peer_wants(&mut self, now: Duration, peer: PeerId, request: u32, want: Want) {
        let Want {
            class,
            chunk,
            hash: _,
        } = want;
        let child = Child {
            peer,
            request,
            class,
        };
        if self.knows_request(peer, request) {
            return;
        }
        if self.peers.is_banned(now, &peer) {
            return self.send_miss(peer, request);
        }
        self.peers.mark_here(now, peer);
        if !self.may_have(now, &peer, &chunk.blob) {
            // The same words as for a blob that is not here.
            return self.send_miss(peer, request);
        }
        let Some(blob) = self.blobs.get(&chunk.blob) else {
            return self.send_miss(peer, request);
        };
        if blob.chunk_len(chunk.number).is_none() {
            return self.send_miss(peer, request);
        }
        let has = blob.has(chunk.number);
        if let Some(member) = self.peers.member(&peer).cloned() {
            self.learn_member(chunk.blob, member);
        }
        if !self.replaces(now, child, chunk) {
            return self.send_miss(peer, request);
        }
        if has {
            return self.upload(now, child, chunk);
        }
        let spares = self.spares_link(now, peer, chunk);
        let Some(wanted) = self.wants.get(&chunk) else {
            // Nobody here wants it, but we take part in its stripe and get it for others.
            if self.waiters.len() < self.options.waiters
                && self.can_get(chunk)
                && self.want(now, chunk, class)
            {
                self.counters.relayed += 1;
                return self.let_wait(now, child, chunk);
            }
            return self.send_miss(peer, request);
        };
        if wanted.read.is_none() && wanted.is_asked_of(&peer) {
            // It waits for us and we for it: one of both must look elsewhere.
            return self.send_miss(peer, request);
        }
        let full = wanted.children.len() >= self.options.waiters_per_chunk;
        if full || spares || self.waiters.len() >= self.options.waiters {
            let named: Vec<PeerId> = wanted.children.iter().map(|child| child.peer).collect();
            return self.send_busy(now, peer, request, &chunk.blob, &named);
        }
        self.let_wait(now, child, chunk);
    }

    /// Puts a request in the place of an earlier one of that peer for the same chunk, which is told so.
    /// False if the earlier one is being answered, or was so lately that the two passed each other.
    fn replaces(&mut self, now: Duration, child: Child, chunk: ChunkId) -> bool {
        let lately = now.saturating_sub(self.options.bulk_patience);
        if self.uploads.is_sending(child.peer, chunk)
            || self.uploads.has_just_sent(lately, child.peer, chunk)
        {
            return false;
        }
        let mut before = self.uploads.take_queued(child.peer, chunk);
        if let Some(wanted) = self.wants.get_mut(&chunk)
            && let Some(place) = wanted
                .children
                .iter()
                .position(|other| other.peer == child.peer)
        {
            before = Some(wanted.children.remove(place).request);
        }
        if let Some(before) = before {
            self.waiters.remove(&(child.peer, before));
            self.send_miss(child.peer, before);
        }
        true
    }

    fn knows_request(&self, peer: PeerId, request: u32) -> bool {
        let key = (peer, request);
        self.waiters.contains_key(&key) || self.uploads.knows(key)
    }

    /// Whether a chunk that nobody here wants is ours to get for others: we take part in its stripe. The
    /// seed takes part in all: who is sent to it may be here before the news that it was made the first.
    fn can_get(&self, chunk: ChunkId) -> bool {
        let id = self.stripe_of(chunk);
        let takes_part = self.stripe(id).is_some_and(|stripe| {
            !stripe.wanted.is_empty() || !matches!(stripe.route, Route::Unknown)
        });
        let holds_some = |blob: &super::blob::Blob| blob.present_in(id.number) > 0;
        takes_part
            || self.me.role == Role::Seed
            || self.tracker.is_none()
            || self.blobs.get(&id.blob).is_some_and(holds_some)
    }

    fn let_wait(&mut self, now: Duration, child: Child, chunk: ChunkId) {
        self.want(now, chunk, child.class);
        let Some(wanted) = self.wants.get_mut(&chunk) else {
            return;
        };
        wanted.children.push(child);
        if !std::mem::replace(&mut wanted.repeats, true) {
            self.timers
                .insert((now + self.options.wait_repeat, Timer::WaitRepeat(chunk)));
        }
        self.waiters.insert((child.peer, child.request), chunk);
        self.send_wait(
            child.peer,
            child.request,
            self.idle_of(now, chunk),
            self.hops_of(chunk),
        );
        self.arm_patience(now, chunk);
    }

    pub(super) fn repeat_wait(&mut self, now: Duration, chunk: ChunkId) {
        let Some(wanted) = self.wants.get_mut(&chunk) else {
            return;
        };
        wanted.repeats = !wanted.children.is_empty();
        if wanted.repeats {
            self.timers
                .insert((now + self.options.wait_repeat, Timer::WaitRepeat(chunk)));
            self.tell_waiters(now, chunk);
        }
    }

    /// Tells all who wait for a chunk that they still do, and how alive its source is.
    pub(super) fn tell_waiters(&mut self, now: Duration, chunk: ChunkId) {
        let (idle, hops) = (self.idle_of(now, chunk), self.hops_of(chunk));
        let Some(wanted) = self.wants.get(&chunk) else {
            return;
        };
        for child in wanted.children.clone() {
            self.send_wait(child.peer, child.request, idle, hops);
        }
    }

    /// What is being read from the registry here is one hop away, what comes from a peer one more than
    /// that peer says; only what is here and waits for the link is none.
    fn hops_of(&self, chunk: ChunkId) -> u8 {
        let wanted = self
            .wants
            .get(&chunk)
            .filter(|wanted| wanted.read.is_none());
        wanted.map_or(1, Wanted::hops)
    }

    pub(super) fn send_wait(&mut self, peer: PeerId, request: u32, idle: Duration, hops: u8) {
        self.counters.waits_sent += 1;
        self.actions.push_back(Action::SendWait {
            peer,
            request,
            idle,
            hops,
        });
    }

    pub(super) fn send_miss(&mut self, peer: PeerId, request: u32) {
        self.counters.misses_sent += 1;
        self.actions.push_back(Action::SendMiss { peer, request });
    }

    pub(super) fn send_busy(
        &mut self,
        now: Duration,
        peer: PeerId,
        request: u32,
        blob: &Digest,
        named: &[PeerId],
    ) {
        self.counters.busy_sent += 1;
        let alternatives: Vec<Arc<Member>> = named
            .iter()
            .filter(|other| **other != peer && self.peers.is_usable(now, other))
            .filter(|other| self.may_have(now, other, blob))
            .filter_map(|other| self.peers.member(other).cloned())
            .take(MAX_PARENTS)
            .collect();
        self.actions.push_back(Action::SendBusy {
            peer,
            request,
            retry: RETRY,
            alternatives,
        });
    }

    pub(super) fn evicted(&mut self, now: Duration, chunk: ChunkId) {
        if self
            .blobs
            .get_mut(&chunk.blob)
            .is_some_and(|blob| blob.clear(chunk.number))
        {
            self.announce_soon(now, chunk.blob);
        }
    }

    /// A peer takes a request back: what only it wanted is not fetched any more.
    pub(super) fn peer_cancels(&mut self, now: Duration, peer: PeerId, request: u32) {
        self.uploads.cancel(peer, request);
        if let Some(chunk) = self.waiters.remove(&(peer, request)) {
            self.forget_waiter(now, chunk, peer, request);
        }
    }

    /// Forgets everything that a peer asked.
    pub(super) fn forget_child(&mut self, now: Duration, peer: PeerId) {
        self.uploads.forget(peer);
        self.fill_slots(now);
        let all = (peer, 0)..=(peer, u32::MAX);
        let waits: Vec<(u32, ChunkId)> = self
            .waiters
            .range(all)
            .map(|(&(_, request), &chunk)| (request, chunk))
            .collect();
        for (request, chunk) in waits {
            self.waiters.remove(&(peer, request));
            self.forget_waiter(now, chunk, peer, request);
        }
    }

    fn forget_waiter(&mut self, now: Duration, chunk: ChunkId, peer: PeerId, request: u32) {
        let Some(wanted) = self.wants.get_mut(&chunk) else {
            return;
        };
        wanted
            .children
            .retain(|child| child.peer != peer || child.request != request);
        // What is being read from the registry is read to its end: it is paid for.
        if wanted.read.is_none() {
            self.drop_if_nobody_wants(now, chunk);
        }
    }
}
