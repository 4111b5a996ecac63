//! Room for chunks: the quota, the floor of free space, and making room when either is reached.
//!
//! A chunk's length is reserved before it is written and given back when it goes, so that any number of writers together
//! stay under the quota. One thread evicts at a time, from the high water down to the low one; the others go on as long
//! as the quota lasts.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use rustix::fs::fstatvfs;
use tranship_format::ChunkHash;

use crate::StoreError;
use crate::blob::Blob;
use crate::chunk_store::StoreOptions;
use crate::evict::{Key, Policy};
use crate::file::failed;

/// The store's clock ticks this often while as many bytes as the quota go through it. Reads within one tick count once,
/// so a tick must be longer than one pass over a chunk and much shorter than the time a chunk stays.
const EPOCHS_PER_QUOTA: u64 = 64;
/// Shortest tick, in bytes: a few chunks, so that even in a tiny store one pass over a chunk is one read.
const MIN_EPOCH_LEN: u64 = 4 << 20;

/// How the store has fared since it was opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) corrupt: AtomicU64,
    pub(crate) evicted: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) copied: AtomicU64,
}

#[derive(Debug, Default)]
struct Ledger {
    policy: Policy,
    /// Bytes that are present or reserved.
    used: u64,
    /// Where a chunk of this hash is, or was lately: one of perhaps several places, so a miss may be wrong and costs a
    /// fetch.
    places: HashMap<ChunkHash, Key>,
}

impl Ledger {
    fn misplace(&mut self, key: Key, hash: ChunkHash) {
        if self.places.get(&hash) == Some(&key) {
            self.places.remove(&hash);
        }
    }
}

/// The account of one store.
///
/// Locks are taken in this order and released before any file is touched, but for `evicting`, which only orders threads
/// that make room: `evicting`, `ledger`, `blobs`.
#[derive(Debug)]
pub(crate) struct Space {
    options: StoreOptions,
    dir: File,
    evicting: Mutex<()>,
    ledger: Mutex<Ledger>,
    blobs: RwLock<BTreeMap<u32, Weak<Blob>>>,
    /// Bytes that went in or out since the start: the clock of [`Self::epoch`].
    moved: AtomicU64,
    pub(crate) counters: Counters,
}

impl Space {
    pub(crate) fn new(dir: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        Ok(Self {
            options,
            dir: File::open(dir).map_err(failed("open", dir))?,
            evicting: Mutex::default(),
            ledger: Mutex::default(),
            blobs: RwLock::default(),
            moved: AtomicU64::new(0),
            counters: Counters::default(),
        })
    }

    pub(crate) fn options(&self) -> &StoreOptions {
        &self.options
    }

    /// A blob came, with what is present of it.
    pub(crate) fn admit(&self, blob: &Arc<Blob>) {
        self.blobs
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(blob.number(), Arc::downgrade(blob));
        self.with_ledger(|ledger| {
            for (chunk, len) in blob.present_chunks() {
                let key = Key {
                    blob: blob.number(),
                    chunk,
                };
                ledger.used = ledger.used.saturating_add(len);
                ledger.policy.insert(key, len);
                if let Some(hash) = blob.hash(chunk) {
                    ledger.places.insert(hash, key);
                }
            }
        });
    }

    /// A blob went with all its chunks.
    pub(crate) fn dismiss(&self, blob: &Blob) {
        self.blobs
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&blob.number());
        self.with_ledger(|ledger| {
            ledger.policy.remove_blob(blob.number());
            ledger.places.retain(|_, key| key.blob != blob.number());
            ledger.used = ledger.used.saturating_sub(blob.presence().len());
        });
    }

    pub(crate) fn set_pinned(&self, blob: &Blob, pinned: bool) {
        self.with_ledger(|ledger| ledger.policy.set_pinned(blob.number(), pinned));
    }

    /// Bytes that are present or on their way in.
    pub(crate) fn used(&self) -> u64 {
        self.with_ledger(|ledger| ledger.used)
    }

    /// Bytes went in or out; returns the clock's tick after it.
    pub(crate) fn moved(&self, len: u64) -> u32 {
        let epoch_len = (self.options.quota_len / EPOCHS_PER_QUOTA).max(MIN_EPOCH_LEN);
        let moved = self.moved.fetch_add(len, Ordering::Relaxed);
        // Only equality of neighbouring ticks matters, so the clock may wrap.
        u32::try_from((moved / epoch_len) & 0x3FFF_FFFF).unwrap_or_default()
    }

    /// Sets `len` bytes aside, evicting when it must. [`StoreError::Full`] when that does not help.
    pub(crate) fn reserve(&self, len: u64) -> Result<(), StoreError> {
        if len > self.options.quota_len {
            return Err(self.refuse(len));
        }
        let high = self.options.high_water_len();
        let used = self.used();
        let over = if used.saturating_add(len) > high {
            used.saturating_add(len)
                .saturating_sub(self.options.low_water_len())
        } else {
            0
        };
        let wanted = over.max(self.short_of_floor(len)?);
        if wanted > 0 {
            self.evict(len, wanted)?;
        }
        let fits = self.with_ledger(|ledger| {
            let after = ledger.used.saturating_add(len);
            let fits = after <= self.options.quota_len;
            if fits {
                ledger.used = after;
            }
            fits
        });
        if !fits {
            return Err(self.refuse(len));
        }
        if self.short_of_floor(len)? > 0 {
            self.release(len);
            return Err(self.refuse(len));
        }
        Ok(())
    }

    /// Gives back what was reserved, or what a chunk that went had taken.
    pub(crate) fn release(&self, len: u64) {
        self.with_ledger(|ledger| ledger.used = ledger.used.saturating_sub(len));
    }

    /// A chunk is present now, under a reservation made before.
    pub(crate) fn keep(&self, key: Key, len: u64, hash: ChunkHash) {
        self.with_ledger(|ledger| {
            ledger.policy.insert(key, len);
            ledger.places.insert(hash, key);
        });
    }

    /// Where a chunk of this hash is, as far as is known.
    pub(crate) fn place(&self, hash: ChunkHash) -> Option<Key> {
        self.with_ledger(|ledger| ledger.places.get(&hash).copied())
    }

    /// A chunk went, though not by eviction.
    pub(crate) fn forget(&self, key: Key, hash: ChunkHash) {
        self.with_ledger(|ledger| {
            ledger.policy.remove(key);
            ledger.misplace(key, hash);
        });
    }

    /// Brings the store under its low water when it is above its high one.
    pub(crate) fn settle(&self) -> Result<(), StoreError> {
        let used = self.used();
        if used > self.options.high_water_len() {
            self.evict(0, used.saturating_sub(self.options.low_water_len()))?;
        }
        Ok(())
    }

    /// Evicts until `wanted` bytes are free again or nothing is left. Returns at once when another thread is at it and
    /// `len` bytes still fit.
    fn evict(&self, len: u64, wanted: u64) -> Result<(), StoreError> {
        let _turn = if let Ok(turn) = self.evicting.try_lock() {
            turn
        } else {
            if self.used().saturating_add(len) <= self.options.quota_len
                && self.short_of_floor(len)? == 0
            {
                return Ok(());
            }
            let turn = self.evicting.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever had the turn has made room; only if that was not enough is there more to do.
            if self.used().saturating_add(len) <= self.options.quota_len
                && self.short_of_floor(len)? == 0
            {
                return Ok(());
            }
            turn
        };
        let mut freed = 0_u64;
        while freed < wanted {
            let Some(key) = self.with_ledger(|ledger| ledger.policy.evict(|key| self.heat(key)))
            else {
                break;
            };
            if let Some(blob) = self.blob(key.blob) {
                let len = blob.evict(key.chunk, self)?;
                freed = freed.saturating_add(len);
                if len > 0 {
                    self.counters.evicted.fetch_add(1, Ordering::Relaxed);
                    if let Some(hash) = blob.hash(key.chunk) {
                        self.with_ledger(|ledger| ledger.misplace(key, hash));
                    }
                }
            }
        }
        Ok(())
    }

    fn heat(&self, key: Key) -> u8 {
        self.blob(key.blob)
            .map_or(0, |blob| blob.presence().cool(key.chunk))
    }

    pub(crate) fn blob(&self, number: u32) -> Option<Arc<Blob>> {
        let blobs = self.blobs.read().unwrap_or_else(PoisonError::into_inner);
        blobs.get(&number).and_then(Weak::upgrade)
    }

    /// By how many bytes the disk would fall short of its floor with `len` more on it.
    fn short_of_floor(&self, len: u64) -> Result<u64, StoreError> {
        if self.options.free_floor_len == 0 {
            return Ok(0);
        }
        let disk = fstatvfs(&self.dir).map_err(|errno| {
            failed("look at", Path::new("the store's filesystem"))(errno.into())
        })?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        Ok(self
            .options
            .free_floor_len
            .saturating_add(len)
            .saturating_sub(free))
    }

    fn refuse(&self, len: u64) -> StoreError {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        StoreError::Full { len }
    }

    fn with_ledger<T>(&self, work: impl FnOnce(&mut Ledger) -> T) -> T {
        // The ledger is changed by whole steps that cannot panic in between, so a poisoned one is still right.
        work(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
