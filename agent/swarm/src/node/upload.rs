//! Chunks on their way to peers: so many at once, the most urgent first, and a bounded queue behind.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tranship_format::wire::{ChunkId, Class, MAX_PARENTS, PeerId};

use super::Node;
use super::action::Action;
use super::timer::Timer;
use super::uplink::{SLOW_LINK, Uplink};
use super::wanted::{Child, Order};

/// Chunks of which is remembered who got them from here.
const MAX_RECENT: usize = 4_096;
/// A link that takes a chunk in less carries more of them at once.
const QUICK: Duration = Duration::from_millis(25);
/// One that needs longer is shared by too many: each would be there later and none sooner.
const LONG: Duration = Duration::from_millis(100);

/// A queue that takes longer than this is too long for another, however few are in it: who is told BUSY looks elsewhere.
const LONGEST_QUEUE: Duration = Duration::from_secs(1);
/// Chunks sent at once while it is not known how fast the link is.
const FIRST_SLOTS: usize = 2;

/// A chunk on its way to a peer.
#[derive(Clone, Copy, Debug)]
struct Upload {
    child: Child,
    chunk: ChunkId,
    /// When it was asked for, or came, or began to be sent.
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
    pub(super) recent: BTreeMap<ChunkId, Vec<(PeerId, Duration)>>,
    recent_order: VecDeque<ChunkId>,
    /// Whether a timer repeats WAIT to those queued and being sent to.
    repeats: bool,
    /// When a chunk last was on its way entirely.
    moved_at: Duration,
    uplink: Uplink,
    /// When the tracker was told last that it is slow.
    pub(super) told_slow_at: Option<Duration>,
    /// Slots beyond the least, as many as the link was found to carry.
    more_slots: usize,
}

impl Uploads {
    pub(super) fn knows(&self, key: (PeerId, u32)) -> bool {
        self.active.contains_key(&key)
            || self
                .queue
                .values()
                .any(|of| (of.child.peer, of.child.request) == key)
    }

    /// Whether a chunk is being sent to a peer.
    pub(super) fn is_sending(&self, peer: PeerId, chunk: ChunkId) -> bool {
        let all = (peer, 0)..=(peer, u32::MAX);
        self.active.range(all).any(|(_, of)| of.chunk == chunk)
    }

    /// Takes a peer's request for a chunk out of the queue.
    pub(super) fn take_queued(&mut self, peer: PeerId, chunk: ChunkId) -> Option<u32> {
        let is_it = |of: &Upload| of.child.peer == peer && of.chunk == chunk;
        let (&key, _) = self.queue.iter().find(|(_, of)| is_it(of))?;
        self.queue.remove(&key).map(|of| of.child.request)
    }

    /// Takes a request out of the queue; one being sent is sent to its end.
    pub(super) fn cancel(&mut self, peer: PeerId, request: u32) {
        self.queue
            .retain(|_, of| of.child.peer != peer || of.child.request != request);
    }

    /// Forgets all requests of a peer that is gone.
    pub(super) fn forget(&mut self, peer: PeerId) {
        self.queue.retain(|_, of| of.child.peer != peer);
        self.active.retain(|&(to, _), _| to != peer);
        // What was on its way to it is lost, and nobody is to be sent to it.
        for known in self.recent.values_mut() {
            known.retain(|(to, _)| *to != peer);
        }
    }

    /// Whether a chunk went to a peer so lately that it may not be there yet.
    pub(super) fn has_just_sent(&self, since: Duration, peer: PeerId, chunk: ChunkId) -> bool {
        let known = self.recent.get(&chunk).into_iter().flatten();
        let mut known = known.filter(|(_, at)| *at >= since);
        known.any(|(to, _)| *to == peer)
    }

    /// A chunk of `len` bytes is on its way entirely, which was given to the connection at `since`.
    fn moved(&mut self, now: Duration, peer: PeerId, since: Duration, len: u64) {
        self.moved_at = now;
        let took = now.saturating_sub(since);
        self.uplink.carried(now, peer, len, took, self.active.len());
    }

    /// By how many receivers the link is known, and how long it takes for a chunk of the usual length.
    fn pace(&self, now: Duration) -> (usize, Duration) {
        let active = self.active.iter();
        self.uplink
            .pace(now, active.map(|(&(peer, _), of)| (peer, of.since)))
    }

    /// Whether the link is slow to all. Of one receiver alone nobody knows whether it is its link or ours.
    pub(super) fn is_slow(&self, now: Duration) -> bool {
        let (count, pace) = self.pace(now);
        count > 1 && pace > SLOW_LINK
    }

    /// Whether the link is slow and in use.
    pub(super) fn is_full(&self, now: Duration) -> bool {
        !self.active.is_empty() && self.is_slow(now)
    }

    /// Whether one more in the queue would wait too long.
    fn is_long(&self, now: Duration) -> bool {
        let waiting = u32::try_from(self.queue.len()).unwrap_or(u32::MAX);
        let (_, pace) = self.pace(now);
        pace > SLOW_LINK || pace.saturating_mul(waiting.saturating_add(1)) > LONGEST_QUEUE
    }

    fn remember(&mut self, now: Duration, peer: PeerId, chunk: ChunkId) {
        if !self.recent.contains_key(&chunk) {
            self.recent_order.push_back(chunk);
            if self.recent_order.len() > MAX_RECENT
                && let Some(oldest) = self.recent_order.pop_front()
            {
                self.recent.remove(&oldest);
            }
        }
        let known = self.recent.entry(chunk).or_default();
        known.retain(|(other, _)| *other != peer);
        known.push((peer, now));
        if known.len() > MAX_PARENTS {
            known.remove(0);
        }
    }
}

impl Node {
    /// A chunk that waited for its arrival: it was promised, so no bound of the queue counts. One that
    /// the store has no room for must go now.
    pub(super) fn deliver(&mut self, now: Duration, child: Child, chunk: ChunkId, kept: bool) {
        if self.spares_link(now, child.peer, chunk) {
            return self.refuse_upload(now, child, chunk);
        }
        if kept && !self.has_slot(now, child) {
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

    pub(super) fn upload(&mut self, now: Duration, child: Child, chunk: ChunkId) {
        if self.spares_link(now, child.peer, chunk) {
            return self.refuse_upload(now, child, chunk);
        }
        if self.has_slot(now, child) {
            return self.send_data(
                now,
                Upload {
                    child,
                    chunk,
                    since: now,
                },
            );
        }
        let is_long = self.uploads.is_long(now) && self.is_elsewhere(now, child.peer, chunk);
        if self.uploads.queue.len() < self.options.upload_queue && !is_long {
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
        let named: Vec<PeerId> = recent.rev().map(|&(peer, _)| peer).collect();
        self.send_busy(now, child.peer, child.request, &chunk.blob, &named);
    }

    /// Whether a chunk may go to a peer now. Over a slow link one at a time: each is there sooner. Of one receiver alone nobody knows
    /// whose link is slow, so that another need not wait for it.
    fn has_slot(&self, now: Duration, child: Child) -> bool {
        let active = &self.uploads.active;
        let (receivers, pace) = self.uploads.pace(now);
        if pace > SLOW_LINK {
            let is_another = active.keys().all(|&(peer, _)| peer != child.peer);
            return active.is_empty() || (receivers < 2 && active.len() < 2 && is_another);
        }
        let slots = if receivers == 0 {
            self.options.upload_slots.min(FIRST_SLOTS)
        } else {
            self.options.upload_slots + self.uploads.more_slots
        };
        let slots = if child.class == Class::Demand {
            slots + slots.div_ceil(2)
        } else {
            slots
        };
        active.len() < slots
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
        let begun = Upload {
            since: now,
            ..upload
        };
        self.uploads.active.insert((peer, request), begun);
        if !std::mem::replace(&mut self.uploads.repeats, true) {
            self.timers
                .insert((now + self.options.wait_repeat, Timer::UploadWait));
        }
        self.uploads.remember(now, peer, chunk);
        self.actions.push_back(Action::SendData {
            peer,
            request,
            chunk,
            class,
        });
    }

    pub(super) fn sent(&mut self, now: Duration, peer: PeerId, request: u32) {
        if let Some(Upload { chunk, since, .. }) = self.uploads.active.remove(&(peer, request)) {
            self.adapt_slots(now.saturating_sub(since));
            self.counters.chunks_sent += 1;
            let len = self.chunk_len(chunk);
            self.counters.bytes_sent += len;
            self.uploads.moved(now, peer, since, len);
            self.tell_slow(now, chunk);
            self.fill_slots(now);
        }
    }

    /// As many chunks at once as the link carries quickly: a seed may have a hundred times a node's link, or the same.
    fn adapt_slots(&mut self, took: Duration) {
        let most = self.options.upload_slots_most;
        let most = most.saturating_sub(self.options.upload_slots);
        let more = &mut self.uploads.more_slots;
        if took > LONG {
            *more = more.saturating_sub(1);
        } else if took < QUICK && !self.uploads.queue.is_empty() {
            *more = (*more + 1).min(most);
        }
    }

    pub(super) fn send_failed(&mut self, now: Duration, peer: PeerId, request: u32) {
        if let Some(Upload { chunk, .. }) = self.uploads.active.remove(&(peer, request)) {
            self.evicted(now, chunk);
            self.send_miss(peer, request);
            self.fill_slots(now);
        }
    }

    pub(super) fn fill_slots(&mut self, now: Duration) {
        while let Some((&(class, order), next)) = self.uploads.queue.first_key_value() {
            let (child, chunk) = (next.child, next.chunk);
            if self.spares_link(now, child.peer, chunk) {
                self.uploads.queue.remove(&(class, order));
                self.refuse_upload(now, child, chunk);
                continue;
            }
            if !self.has_slot(now, child) {
                return;
            }
            if let Some(upload) = self.uploads.queue.remove(&(class, order)) {
                self.send_data(now, upload);
            }
        }
    }

    /// Peers whose chunk is queued here or on its way through a slow link are told for how long.
    pub(super) fn repeat_upload_wait(&mut self, now: Duration) {
        let active = self.uploads.active.values();
        if let Some(chunk) = active.map(|of| of.chunk).next() {
            self.tell_slow(now, chunk);
        }
        self.fill_slots(now);
        let all = self
            .uploads
            .active
            .values()
            .chain(self.uploads.queue.values());
        let told: Vec<Upload> = all.copied().collect();
        self.uploads.repeats = !told.is_empty();
        // A queue that moves is alive, however long it is.
        for Upload { child, since, .. } in told {
            let idle = now.saturating_sub(since.max(self.uploads.moved_at));
            self.send_wait(child.peer, child.request, idle, 0);
        }
        if self.uploads.repeats {
            self.timers
                .insert((now + self.options.wait_repeat, Timer::UploadWait));
        }
    }

    /// How full the upload side is, 0 to 1,000, for HEARTBEAT.
    pub fn load_permille(&self) -> u16 {
        let room = self.options.upload_slots + self.uploads.more_slots + self.options.upload_queue;
        let used = self.uploads.active.len() + self.uploads.queue.len();
        let permille = used.saturating_mul(1_000) / room.max(1);
        u16::try_from(permille).unwrap_or(u16::MAX).min(1_000)
    }
}
