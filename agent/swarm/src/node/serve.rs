//! The serving side: what to answer when a peer wants a chunk.
//!
//! Whatever the answer is, it is given at once. A chunk on its way is answered WAIT, again and again
//! with how alive its source is; too much is answered BUSY with the names of those just served.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tranship_format::wire::{ChunkId, Class, MAX_PARENTS, Member, PeerId, Want};

use super::action::Action;
use super::blob::Route;
use super::timer::Timer;
use super::wanted::{Child, Order, Wanted};
use super::{Node, StripeId};

/// What BUSY says of when to come back.
const RETRY: Duration = Duration::from_millis(20);

/// Chunks of which is remembered who got them from here.
const MAX_RECENT: usize = 4_096;

/// A chunk on its way to a peer.
#[derive(Clone, Copy, Debug)]
struct Upload {
    child: Child,
    chunk: ChunkId,
    /// When it was asked for, or came.
    since: Duration,
}

/// Chunks on their way to peers.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    /// Given to the connection and not yet gone.
    active: BTreeMap<(PeerId, u32), Upload>,
    /// Waiting for a slot, most urgent first.
    queue: BTreeMap<(Class, Order), Upload>,
    last_order: Order,
    /// Who got which chunk from here: those BUSY names, because they surely have it. Naming peers that
    /// only have other chunks of the stripe closes rings of nodes that all wait for each other.
    recent: BTreeMap<ChunkId, Vec<PeerId>>,
    recent_order: VecDeque<ChunkId>,
    /// Whether a timer repeats WAIT to those queued and being sent to.
    repeats: bool,
}

impl Uploads {
    fn remember(&mut self, peer: PeerId, chunk: ChunkId) {
        if !self.recent.contains_key(&chunk) {
            self.recent_order.push_back(chunk);
            if self.recent_order.len() > MAX_RECENT
                && let Some(oldest) = self.recent_order.pop_front()
            {
                self.recent.remove(&oldest);
            }
        }
        let known = self.recent.entry(chunk).or_default();
        known.retain(|other| *other != peer);
        known.push(peer);
        if known.len() > MAX_PARENTS {
            known.remove(0);
        }
    }
}

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
        self.peers.mark_here(peer);
        let Some(blob) = self.blobs.get(&chunk.blob) else {
            return self.send_miss(peer, request);
        };
        if blob.chunk_len(chunk.number).is_none() {
            return self.send_miss(peer, request);
        }
        if blob.has(chunk.number) {
            return self.upload(now, child, chunk);
        }
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
        if full || self.waiters.len() >= self.options.waiters {
            let named: Vec<PeerId> = wanted.children.iter().map(|child| child.peer).collect();
            return self.send_busy(now, peer, request, &named);
        }
        self.let_wait(now, child, chunk);
    }

    fn knows_request(&self, peer: PeerId, request: u32) -> bool {
        let key = (peer, request);
        self.uploads.active.contains_key(&key)
            || self.waiters.contains_key(&key)
            || self
                .uploads
                .queue
                .values()
                .any(|of| (of.child.peer, of.child.request) == key)
    }

    /// Whether a chunk that nobody here wants is ours to get for others: we take part in its stripe.
    fn can_get(&self, chunk: ChunkId) -> bool {
        let id = self.stripe_of(chunk);
        let takes_part = self.stripe(id).is_some_and(|stripe| {
            !stripe.wanted.is_empty() || !matches!(stripe.route, Route::Unknown)
        });
        let holds_some = |blob: &super::blob::Blob| blob.present_in(id.number) > 0;
        takes_part || self.tracker.is_none() || self.blobs.get(&id.blob).is_some_and(holds_some)
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

    /// Peers whose chunk is queued here or on its way through a slow link are told for how long.
    pub(super) fn repeat_upload_wait(&mut self, now: Duration) {
        let all = self
            .uploads
            .active
            .values()
            .chain(self.uploads.queue.values());
        let told: Vec<Upload> = all.copied().collect();
        self.uploads.repeats = !told.is_empty();
        for Upload { child, since, .. } in told {
            self.send_wait(child.peer, child.request, now.saturating_sub(since), 0);
        }
        if self.uploads.repeats {
            self.timers
                .insert((now + self.options.wait_repeat, Timer::UploadWait));
        }
    }

    fn hops_of(&self, chunk: ChunkId) -> u8 {
        let wanted = self
            .wants
            .get(&chunk)
            .filter(|wanted| wanted.read.is_none());
        wanted.map_or(0, Wanted::hops)
    }

    fn send_wait(&mut self, peer: PeerId, request: u32, idle: Duration, hops: u8) {
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

    fn send_busy(&mut self, now: Duration, peer: PeerId, request: u32, named: &[PeerId]) {
        self.counters.busy_sent += 1;
        let alternatives: Vec<Arc<Member>> = named
            .iter()
            .filter(|other| **other != peer && self.peers.is_usable(now, other))
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

    /// A chunk that waited for its arrival: it was promised, so no bound of the queue counts. One that
    /// the store has no room for must go now.
    pub(super) fn deliver(&mut self, now: Duration, child: Child, chunk: ChunkId, kept: bool) {
        if kept && !self.has_slot(child.class) {
            self.enqueue(now, child, chunk);
        } else {
            self.send_data(
                now,
                Upload {
                    child,
                    chunk,
                    since: now,
                },
            );
        }
    }

    fn upload(&mut self, now: Duration, child: Child, chunk: ChunkId) {
        if self.has_slot(child.class) {
            return self.send_data(
                now,
                Upload {
                    child,
                    chunk,
                    since: now,
                },
            );
        }
        if self.uploads.queue.len() < self.options.upload_queue {
            self.enqueue(now, child, chunk);
            return self.send_wait(child.peer, child.request, Duration::ZERO, 0);
        }
        let last = self.uploads.queue.last_key_value().map(|(&key, _)| key);
        match last.filter(|&(class, _)| class > child.class) {
            Some(last) => {
                if let Some(bumped) = self.uploads.queue.remove(&last) {
                    self.refuse_upload(now, bumped.child, bumped.chunk);
                }
                self.enqueue(now, child, chunk);
                self.send_wait(child.peer, child.request, Duration::ZERO, 0);
            }
            None => self.refuse_upload(now, child, chunk),
        }
    }

    fn refuse_upload(&mut self, now: Duration, child: Child, chunk: ChunkId) {
        let recent = self.uploads.recent.get(&chunk).into_iter().flatten();
        let named: Vec<PeerId> = recent.rev().copied().collect();
        self.send_busy(now, child.peer, child.request, &named);
    }

    fn has_slot(&self, class: Class) -> bool {
        let slots = self.options.upload_slots;
        let slots = if class == Class::Demand {
            slots + slots.div_ceil(2)
        } else {
            slots
        };
        self.uploads.active.len() < slots
    }

    fn enqueue(&mut self, now: Duration, child: Child, chunk: ChunkId) {
        self.uploads.last_order += 1;
        let key = (child.class, self.uploads.last_order);
        self.uploads.queue.insert(
            key,
            Upload {
                child,
                chunk,
                since: now,
            },
        );
    }

    fn send_data(&mut self, now: Duration, upload: Upload) {
        let Upload {
            child:
                Child {
                    peer,
                    request,
                    class,
                },
            chunk,
            ..
        } = upload;
        self.uploads.active.insert((peer, request), upload);
        if !std::mem::replace(&mut self.uploads.repeats, true) {
            self.timers
                .insert((now + self.options.wait_repeat, Timer::UploadWait));
        }
        self.uploads.remember(peer, chunk);
        self.actions.push_back(Action::SendData {
            peer,
            request,
            chunk,
            class,
        });
    }

    pub(super) fn sent(&mut self, now: Duration, peer: PeerId, request: u32) {
        if let Some(Upload { chunk, .. }) = self.uploads.active.remove(&(peer, request)) {
            self.counters.chunks_sent += 1;
            self.counters.bytes_sent += self.chunk_len(chunk);
            self.fill_slots(now);
        }
    }

    pub(super) fn send_failed(&mut self, now: Duration, peer: PeerId, request: u32) {
        if let Some(Upload { chunk, .. }) = self.uploads.active.remove(&(peer, request)) {
            self.evicted(now, chunk);
            self.send_miss(peer, request);
            self.fill_slots(now);
        }
    }

    fn fill_slots(&mut self, now: Duration) {
        while let Some((&(class, order), _)) = self.uploads.queue.first_key_value() {
            if !self.has_slot(class) {
                return;
            }
            if let Some(upload) = self.uploads.queue.remove(&(class, order)) {
                self.send_data(now, upload);
            }
        }
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
        self.uploads
            .queue
            .retain(|_, of| of.child.peer != peer || of.child.request != request);
        if let Some(chunk) = self.waiters.remove(&(peer, request)) {
            self.forget_waiter(now, chunk, peer, request);
        }
    }

    /// Forgets everything that a peer asked.
    pub(super) fn forget_child(&mut self, now: Duration, peer: PeerId) {
        self.uploads.queue.retain(|_, of| of.child.peer != peer);
        self.uploads.active.retain(|&(to, _), _| to != peer);
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

    /// How full the upload side is, 0 to 1,000, for HEARTBEAT.
    pub fn load_permille(&self) -> u16 {
        let room = self.options.upload_slots + self.options.upload_queue;
        let used = self.uploads.active.len() + self.uploads.queue.len();
        let permille = used.saturating_mul(1_000) / room.max(1);
        u16::try_from(permille).unwrap_or(u16::MAX).min(1_000)
    }

    pub(super) fn stripe(&self, id: StripeId) -> Option<&super::blob::Stripe> {
        self.blobs.get(&id.blob)?.stripes.get(&id.number)
    }

    /// The stripe, made if its blob is open and has it.
    pub(super) fn stripe_mut(&mut self, id: StripeId) -> Option<&mut super::blob::Stripe> {
        Some(
            self.blobs
                .get_mut(&id.blob)?
                .stripes
                .entry(id.number)
                .or_default(),
        )
    }
}
