//! The store as a whole: which blobs it knows, and the numbers that bound it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tranship_format::{ChunkTable, Digest};

use crate::StoreError;
use crate::blob::Blob;
use crate::blob_store::BlobStore;
use crate::file::{Medium, failed, probe_holes};
use crate::layout::{About, Layout};
use crate::space::Space;

/// The numbers that bound a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Stored bytes at most.
    pub quota_len: u64,
    /// Eviction begins when this share of the quota is passed, in percent.
    pub high_water_percent: u8,
    /// Eviction goes on until this share of the quota is left, in percent.
    pub low_water_percent: u8,
    /// Bytes that stay free on the filesystem whatever the quota says.
    pub free_floor_len: u64,
}

impl StoreOptions {
    /// A quota, with eviction from 95 % of it down to 90 % and no floor of free space.
    pub fn with_quota(quota_len: u64) -> Self {
        Self {
            quota_len,
            high_water_percent: 95,
            low_water_percent: 90,
            free_floor_len: 0,
        }
    }

    pub(crate) fn high_water_len(&self) -> u64 {
        percent(self.quota_len, self.high_water_percent)
    }

    pub(crate) fn low_water_len(&self) -> u64 {
        percent(
            self.quota_len,
            self.low_water_percent.min(self.high_water_percent),
        )
    }
}

fn percent(len: u64, percent: u8) -> u64 {
    let share = u128::from(len) * u128::from(percent.min(100)) / 100;
    u64::try_from(share).unwrap_or(len)
}

/// What has happened in the store since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreCounters {
    /// Chunks that the disk no longer held as they were written, and that were dropped.
    pub corrupt_count: u64,
    /// Chunks that made room for others.
    pub evicted_count: u64,
    /// Chunks that were not kept for want of room.
    pub refused_count: u64,
    /// Chunks that were copied from another blob instead of being fetched.
    pub copied_count: u64,
}

/// The chunks on this node's disk. Clones share it; the last one to go gives up the directory.
#[derive(Clone, Debug)]
pub struct ChunkStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    layout: Layout,
    medium: Medium,
    space: Arc<Space>,
    /// Held while a blob's directory is made or read; those are small.
    blobs: RwLock<BTreeMap<Digest, Arc<Blob>>>,
    next_number: AtomicU32,
}

impl ChunkStore {
    /// Opens the store in `dir`, making the directory when it is not there. A directory with anything else in it, or of
    /// another layout, is refused and left as it is.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        Self::open_on(dir, options, Medium::default())
    }

    pub(crate) fn open_on(
        dir: &Path,
        options: StoreOptions,
        medium: Medium,
    ) -> Result<Self, StoreError> {
        let layout = Layout::open(dir)?;
        probe_holes(layout.dir())?;
        let store = Self {
            inner: Arc::new(Inner {
                space: Arc::new(Space::new(layout.dir(), options)?),
                layout,
                medium,
                blobs: RwLock::default(),
                next_number: AtomicU32::new(0),
            }),
        };
        for digest in store.inner.layout.blobs()? {
            store.recall(digest)?;
        }
        store.inner.space.settle()?;
        Ok(store)
    }

    /// Opens a blob, or begins it. Its table is kept beside it, so that [`Self::known`] needs nobody to tell it again.
    ///
    /// A blob that is here under another table and not in use is begun anew: chunks are only worth as much as the table
    /// that they were verified by.
    pub fn blob(
        &self,
        digest: Digest,
        len: u64,
        table: ChunkTable,
    ) -> Result<BlobStore, StoreError> {
        let covered_len = table.covered_len();
        if covered_len > len {
            return Err(StoreError::WrongTable {
                digest,
                len,
                covered_len,
            });
        }
        let inner = &*self.inner;
        let mut blobs = inner.blobs.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(blob) = blobs.get(&digest) {
            if blob.about().len == len && blob.about().table == table {
                return Ok(self.shared(blob));
            }
            if Arc::strong_count(blob) > 1 {
                return Err(StoreError::OtherTable { digest });
            }
            tracing::warn!(blob = %digest, "a blob is begun anew under another chunk table");
            inner.space.dismiss(blob);
            blobs.remove(&digest);
        }
        let dir = inner.layout.blob_dir(&digest);
        if dir.exists() {
            fs::remove_dir_all(&dir).map_err(failed("remove", &dir))?;
        }
        let about = About { len, table };
        about.save(&dir)?;
        let blob = Arc::new(Blob::load(
            self.number(),
            digest,
            about,
            dir,
            inner.medium.clone(),
        )?);
        inner.space.admit(&blob);
        let shared = self.shared(&blob);
        blobs.insert(digest, blob);
        Ok(shared)
    }

    /// A blob that is here already, whole or in part.
    pub fn known(&self, digest: &Digest) -> Option<BlobStore> {
        let blobs = self
            .inner
            .blobs
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        blobs.get(digest).map(|blob| self.shared(blob))
    }

    /// The blobs of which something is known, in the order of their digests.
    pub fn blobs(&self) -> Vec<Digest> {
        let blobs = self
            .inner
            .blobs
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        blobs.keys().copied().collect()
    }

    /// Forgets a blob and all its chunks. `false` when it is in use, or not known.
    pub fn remove(&self, digest: &Digest) -> Result<bool, StoreError> {
        let mut blobs = self
            .inner
            .blobs
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match blobs.get(digest) {
            Some(blob) if Arc::strong_count(blob) == 1 => {
                self.inner.space.dismiss(blob);
                blobs.remove(digest);
            }
            Some(_) | None => return Ok(false),
        }
        let dir = self.inner.layout.blob_dir(digest);
        fs::remove_dir_all(&dir).map_err(failed("remove", &dir))?;
        Ok(true)
    }

    /// Where it is; [`BlobReader`](crate::BlobReader) reads there.
    pub fn dir(&self) -> &Path {
        self.inner.layout.dir()
    }

    /// Stored bytes that are here or being written.
    pub fn used_len(&self) -> u64 {
        self.inner.space.used()
    }

    /// The numbers that bound the store.
    pub fn options(&self) -> &StoreOptions {
        self.inner.space.options()
    }

    /// What has happened since the store was opened.
    pub fn counters(&self) -> StoreCounters {
        let counters = &self.inner.space.counters;
        StoreCounters {
            corrupt_count: counters.corrupt.load(Ordering::Relaxed),
            evicted_count: counters.evicted.load(Ordering::Relaxed),
            refused_count: counters.refused.load(Ordering::Relaxed),
            copied_count: counters.copied.load(Ordering::Relaxed),
        }
    }

    /// From now on the blob's chunks are evicted only when no others are left, or no longer so. Pins end with the process.
    pub fn set_pinned(&self, digest: &Digest, pinned: bool) {
        if let Some(blob) = self.known(digest) {
            self.inner.space.set_pinned(&blob.blob, pinned);
        }
    }

    /// Waits until all that was written is on the disk, so that not even loss of power costs a chunk.
    pub fn sync(&self) -> Result<(), StoreError> {
        let blobs: Vec<Arc<Blob>> = {
            let blobs = self
                .inner
                .blobs
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            blobs.values().cloned().collect()
        };
        blobs.iter().try_for_each(|blob| blob.sync())
    }

    /// Takes in a blob that an earlier run left behind.
    fn recall(&self, digest: Digest) -> Result<(), StoreError> {
        let dir = self.inner.layout.blob_dir(&digest);
        let Some(about) = About::load(&dir)? else {
            // Without its table nothing in it can be verified, and so nothing in it can ever be read.
            tracing::warn!(blob = %digest, "a blob whose table is gone or damaged is dropped from the store");
            return fs::remove_dir_all(&dir).map_err(failed("remove", &dir));
        };
        let blob = Arc::new(Blob::load(
            self.number(),
            digest,
            about,
            dir,
            self.inner.medium.clone(),
        )?);
        self.inner.space.admit(&blob);
        let mut blobs = self
            .inner
            .blobs
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        blobs.insert(digest, blob);
        Ok(())
    }

    fn shared(&self, blob: &Arc<Blob>) -> BlobStore {
        BlobStore {
            blob: Arc::clone(blob),
            space: Arc::clone(&self.inner.space),
        }
    }

    fn number(&self) -> u32 {
        self.inner.next_number.fetch_add(1, Ordering::Relaxed)
    }
}
