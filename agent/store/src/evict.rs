//! Which chunk makes room for others: S3-FIFO, in bytes.
//!
//! A scan (a backup, `grep -r`, a copy of the whole image) touches every chunk once, and must not push out what
//! containers read every day. So a new chunk enters a **small** queue, a tenth of the whole, and only one that was read
//! again by the time it reaches the end goes on to the **main** queue; the rest leaves, remembered as a **ghost** for a
//! while, and a ghost that returns enters the main queue at once. The main queue gives second chances.
//!
//! Pinned blobs' chunks wait in a queue of their own and leave only when nothing else is left.
//!
//! The policy is pure: it holds names and lengths, is told of what comes and goes, and asks for a chunk's heat.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::mem;

/// A chunk of a blob, by the blob's number in this run and the chunk's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) blob: u32,
    pub(crate) chunk: u32,
}

/// The small queue's share of all bytes, as its inverse: a tenth, as measured best over thousands of traces by the
/// authors of S3-FIFO.
const SMALL_SHARE: u64 = 10;

/// Ghosts remembered at least, so that a small store has a memory too.
const MIN_GHOSTS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Small,
    Main,
    Pinned,
}

#[derive(Clone, Copy, Debug)]
struct Resident {
    /// Tells a live queue entry from one left behind by a chunk that went and came again.
    ticket: u64,
    len: u64,
    place: Place,
}

#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<(Key, u64)>,
    len: u64,
}

/// The queues. See the module's words.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    small: Queue,
    main: Queue,
    pinned: Queue,
    residents: HashMap<Key, Resident>,
    ghosts: VecDeque<Key>,
    ghost_set: HashSet<Key>,
    pins: BTreeSet<u32>,
    next_ticket: u64,
}

impl Policy {
    /// A chunk came.
    pub(crate) fn insert(&mut self, key: Key, len: u64) {
        if self.residents.contains_key(&key) {
            return;
        }
        let place = if self.pins.contains(&key.blob) {
            Place::Pinned
        } else if self.ghost_set.remove(&key) {
            Place::Main
        } else {
            Place::Small
        };
        self.enqueue(key, len, place);
    }

    /// A chunk went, though not by [`Self::evict`].
    pub(crate) fn remove(&mut self, key: Key) {
        if let Some(resident) = self.residents.remove(&key) {
            let queue = self.queue(resident.place);
            queue.len = queue.len.saturating_sub(resident.len);
        }
    }

    /// A blob went with all its chunks.
    pub(crate) fn remove_blob(&mut self, blob: u32) {
        let keys: Vec<Key> = self
            .residents
            .keys()
            .filter(|key| key.blob == blob)
            .copied()
            .collect();
        for key in keys {
            self.remove(key);
        }
        self.pins.remove(&blob);
    }

    /// From now on the blob's chunks leave last, or no longer so.
    pub(crate) fn set_pinned(&mut self, blob: u32, pinned: bool) {
        if pinned {
            self.pins.insert(blob);
            return;
        }
        if !self.pins.remove(&blob) {
            return;
        }
        let freed: Vec<(Key, u64)> = self
            .pinned
            .entries
            .iter()
            .filter(|(key, ticket)| key.blob == blob && self.is_live(*key, *ticket, Place::Pinned))
            .filter_map(|(key, _)| Some((*key, self.residents.get(key)?.len)))
            .collect();
        for (key, len) in freed {
            self.remove(key);
            // Whether anyone still reads them must show anew.
            self.enqueue(key, len, Place::Small);
        }
    }

    /// Names the chunk that goes, and forgets it. `heat` says how often a chunk was read since it was last asked about,
    /// and takes one away.
    pub(crate) fn evict(&mut self, mut heat: impl FnMut(Key) -> u8) -> Option<Key> {
        loop {
            let unpinned = self.small.len.saturating_add(self.main.len);
            let place = if unpinned == 0 {
                Place::Pinned
            } else if self.main.len == 0 || self.small.len.saturating_mul(SMALL_SHARE) >= unpinned {
                Place::Small
            } else {
                Place::Main
            };
            let (key, ticket) = match self.queue(place).entries.pop_front() {
                Some(entry) => entry,
                None if place == Place::Pinned => return None,
                None => {
                    // Lengths are kept with the entries, so an empty queue has no length; this keeps the loop finite
                    // should that ever be wrong.
                    self.queue(place).len = 0;
                    continue;
                }
            };
            if !self.is_live(key, ticket, place) {
                continue;
            }
            let Some(resident) = self.residents.remove(&key) else {
                continue;
            };
            let queue = self.queue(place);
            queue.len = queue.len.saturating_sub(resident.len);
            if place != Place::Pinned && self.pins.contains(&key.blob) {
                self.enqueue(key, resident.len, Place::Pinned);
                continue;
            }
            if heat(key) > 0 {
                let next = if place == Place::Small {
                    Place::Main
                } else {
                    place
                };
                self.enqueue(key, resident.len, next);
                continue;
            }
            if place == Place::Small {
                self.remember(key);
            }
            return Some(key);
        }
    }

    fn enqueue(&mut self, key: Key, len: u64, place: Place) {
        let ticket = self.next_ticket;
        self.next_ticket = self.next_ticket.wrapping_add(1);
        self.residents.insert(key, Resident { ticket, len, place });
        let queue = self.queue(place);
        queue.entries.push_back((key, ticket));
        queue.len = queue.len.saturating_add(len);
        if queue.entries.len()
            > self
                .residents
                .len()
                .saturating_mul(2)
                .saturating_add(MIN_GHOSTS)
        {
            self.sweep(place);
        }
    }

    /// Drops the entries of chunks that went by another way, which would else pile up in a queue that nobody empties.
    fn sweep(&mut self, place: Place) {
        let mut entries = mem::take(&mut self.queue(place).entries);
        entries.retain(|(key, ticket)| self.is_live(*key, *ticket, place));
        self.queue(place).entries = entries;
    }

    fn remember(&mut self, key: Key) {
        let limit = self.residents.len().max(MIN_GHOSTS);
        while self.ghosts.len() >= limit {
            if let Some(oldest) = self.ghosts.pop_front() {
                self.ghost_set.remove(&oldest);
            }
        }
        if self.ghost_set.insert(key) {
            self.ghosts.push_back(key);
        }
    }

    fn is_live(&self, key: Key, ticket: u64, place: Place) -> bool {
        self.residents
            .get(&key)
            .is_some_and(|resident| resident.ticket == ticket && resident.place == place)
    }

    fn queue(&mut self, place: Place) -> &mut Queue {
        match place {
            Place::Small => &mut self.small,
            Place::Main => &mut self.main,
            Place::Pinned => &mut self.pinned,
        }
    }
}

#[cfg(test)]
mod tests;
