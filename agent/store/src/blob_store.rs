//! A blob as callers have it: put a chunk, get it back whole, or read any part that is here.
//!
//! Reads take no lock; see [`crate::presence`] for how a read knows that no chunk came or went under it.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;
use tranship_format::{ByteRange, ChunkIndex, ChunkTable, Digest, Verified};

use crate::StoreError;
use crate::blob::Blob;
use crate::evict::Key;
use crate::presence::Word;
use crate::space::Space;

/// How often a read that met a chunk's coming or going is tried again before the chunk is called absent.
const READ_TRIES: u32 = 4;

/// One blob in the store. Clones share it.
#[derive(Clone, Debug)]
pub struct BlobStore {
    pub(crate) blob: Arc<Blob>,
    pub(crate) space: Arc<Space>,
}

impl BlobStore {
    /// The blob's name.
    pub fn digest(&self) -> Digest {
        self.blob.digest()
    }

    /// The blob's length in bytes, present or not.
    pub fn len(&self) -> u64 {
        self.blob.about().len
    }

    /// Whether the blob has no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where its chunks lie and what they hash to.
    pub fn table(&self) -> &ChunkTable {
        &self.blob.about().table
    }

    /// Whether the chunk is here. What an earlier run left counts, though its first read may yet find it wrong.
    pub fn has(&self, index: ChunkIndex) -> bool {
        self.blob.presence().word(index.get()).is_present()
    }

    /// A bit a chunk, set when it is here: bit `i % 8`, counted from the lowest, of byte `i / 8`.
    pub fn present(&self) -> Vec<u8> {
        self.blob.presence().bitmap()
    }

    /// How many chunks are here.
    pub fn present_count(&self) -> u32 {
        self.blob.presence().count()
    }

    /// Makes the blob's files where it has none yet, so that another process can open them by a [`BlobReader`](crate::BlobReader). They
    /// take no room.
    pub fn make_files(&self) -> Result<(), StoreError> {
        self.blob.make_files()
    }

    /// How many stored bytes are here.
    pub fn present_len(&self) -> u64 {
        self.blob.presence().len()
    }

    /// Bytes of disk and files that the blob takes, its directory among them: what the filesystem says, since chunks share
    /// blocks with their neighbours and with holes.
    pub fn disk_usage(&self) -> (u64, u64) {
        self.blob.disk_usage()
    }

    /// Keeps a chunk. One that is here already is left as it is.
    ///
    /// [`StoreError::Full`] means that the caller hands the bytes on without their being kept.
    pub fn put(&self, index: ChunkIndex, chunk: &Verified) -> Result<(), StoreError> {
        let (blob, number) = (&*self.blob, index.get());
        let range = blob.about().table.range(index);
        if chunk.hash() != blob.about().table.hash(index)
            || Ok(range.len()) != u64::try_from(chunk.bytes().len())
        {
            return Err(StoreError::OtherChunk { index: number });
        }
        if self.has(index) {
            return Ok(());
        }
        self.space.reserve(range.len())?;
        let outcome = blob.take_in(index, chunk, &self.space);
        match outcome {
            Ok(true) => {
                let key = Key {
                    blob: blob.number(),
                    chunk: number,
                };
                self.space.keep(key, range.len(), chunk.hash());
                Ok(())
            }
            Ok(false) => {
                self.space.release(range.len());
                Ok(())
            }
            Err(error) => {
                self.space.release(range.len());
                if error.is_full() {
                    self.space.counters.refused.fetch_add(1, Ordering::Relaxed);
                }
                Err(error)
            }
        }
    }

    /// Lets every chunk go, for a table that was found to prove other bytes than the blob's. Chunks that come in meanwhile
    /// may stay.
    pub fn clear(&self) -> Result<(), StoreError> {
        let blob = &*self.blob;
        for index in self.table().all() {
            let word = blob.presence().word(index.get());
            if word.is_present() && blob.let_go(index, word, &self.space)? > 0 {
                self.forget(index);
            }
        }
        Ok(())
    }

    /// Reads a whole chunk and hashes it. `None` when it is not here, or was and is corrupt: then it is dropped and
    /// counted, and the caller gets it elsewhere.
    pub fn get(&self, index: ChunkIndex) -> Result<Option<Verified>, StoreError> {
        let (blob, number) = (&*self.blob, index.get());
        let range = blob.about().table.range(index);
        let Ok(len) = usize::try_from(range.len()) else {
            return Ok(None);
        };
        for _ in 0..READ_TRIES {
            let word = blob.presence().word(number);
            if !word.is_present() {
                return Ok(None);
            }
            let mut buf = BytesMut::zeroed(len);
            let outcome = blob.read(range.start, &mut buf);
            if !blob.presence().is_unchanged(number, word) {
                continue;
            }
            if let Err(error) = outcome {
                self.drop_corrupt(index, word, &error);
                return Ok(None);
            }
            return match blob.about().table.verify(index, buf.freeze()) {
                Ok(chunk) => {
                    blob.presence().trust(number, word);
                    blob.presence().warm(number, self.space.moved(range.len()));
                    Ok(Some(chunk))
                }
                Err(error) => {
                    self.drop_corrupt(index, word, &error);
                    Ok(None)
                }
            };
        }
        Ok(None)
    }

    /// Counts a read of the chunk that another process made by a [`BlobReader`](crate::BlobReader).
    pub fn touch(&self, index: ChunkIndex) {
        let len = self.table().range(index).len();
        self.blob
            .presence()
            .warm(index.get(), self.space.moved(len));
    }

    /// Whether a chunk with the same content is elsewhere in the store, as far as is known. Layers of different images
    /// hold the same large files, and those are the same chunks.
    pub fn has_equal(&self, index: ChunkIndex) -> bool {
        self.space
            .place(self.table().hash(index))
            .is_some_and(|place| place.blob != self.blob.number() || place.chunk != index.get())
    }

    /// Copies a chunk from another place in the store that holds the same. `None` when there is none after all; a full
    /// store hands the bytes on without keeping them twice.
    pub fn copy_equal(&self, index: ChunkIndex) -> Result<Option<Verified>, StoreError> {
        let Some(place) = self.space.place(self.table().hash(index)) else {
            return Ok(None);
        };
        let Some(blob) = self.space.blob(place.blob) else {
            return Ok(None);
        };
        let other = Self {
            blob,
            space: Arc::clone(&self.space),
        };
        // Hashes are compared, so both must mean the same function of the bytes.
        let same_algorithm = other.table().algorithm() == self.table().algorithm();
        let Some(there) = other.table().index(place.chunk).filter(|_| same_algorithm) else {
            return Ok(None);
        };
        let Some(chunk) = other.get(there)? else {
            return Ok(None);
        };
        match self.put(index, &chunk) {
            Ok(()) => {
                self.space.counters.copied.fetch_add(1, Ordering::Relaxed);
                Ok(Some(chunk))
            }
            Err(StoreError::Full { .. }) => Ok(Some(chunk)),
            Err(StoreError::OtherChunk { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Fills `buf` from `offset` of the blob. `true` only if every byte came from chunks that are here, were hashed
    /// since the start, and neither came nor went during the read; else `buf` holds nothing of use.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool, StoreError> {
        let blob = &*self.blob;
        let Some(end) = u64::try_from(buf.len())
            .ok()
            .and_then(|len| offset.checked_add(len))
        else {
            return Ok(false);
        };
        if end > blob.about().table.covered_len() {
            return Ok(false);
        }
        let mut rest = buf;
        for index in blob.about().table.over(ByteRange::new(offset, end)) {
            let chunk = blob.about().table.range(index);
            let part = ByteRange::new(chunk.start.max(offset), chunk.end.min(end));
            let Some((head, tail)) = usize::try_from(part.len())
                .ok()
                .and_then(|len| rest.split_at_mut_checked(len))
            else {
                return Ok(false);
            };
            if !self.read_part(index, part, head)? {
                return Ok(false);
            }
            rest = tail;
        }
        Ok(true)
    }

    fn read_part(
        &self,
        index: ChunkIndex,
        part: ByteRange,
        buf: &mut [u8],
    ) -> Result<bool, StoreError> {
        let (blob, number) = (&*self.blob, index.get());
        for _ in 0..READ_TRIES {
            let word = blob.presence().word(number);
            if !word.is_present() {
                return Ok(false);
            }
            if !word.is_trusted() {
                if self.get(index)?.is_none() {
                    return Ok(false);
                }
                continue;
            }
            let outcome = blob.read(part.start, buf);
            if !blob.presence().is_unchanged(number, word) {
                continue;
            }
            if let Err(error) = outcome {
                self.drop_corrupt(index, word, &error);
                return Ok(false);
            }
            blob.presence().warm(number, self.space.moved(part.len()));
            return Ok(true);
        }
        Ok(false)
    }

    /// The disk does not hold what was written: from now on the chunk is absent.
    fn drop_corrupt(&self, index: ChunkIndex, word: Word, why: &dyn Error) {
        let (blob, number) = (&*self.blob, index.get());
        match blob.let_go(index, word, &self.space) {
            // Another reader found it first, or it went and came again meanwhile.
            Ok(0) => return,
            Ok(_) => {}
            // The word says "absent" already, which is what counts; the map is wrong until the next start reads it.
            Err(error) => {
                tracing::warn!(blob = %blob.digest(), %error, "a corrupt chunk could not be cleared");
            }
        }
        self.forget(index);
        self.space.counters.corrupt.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(blob = %blob.digest(), chunk = number, reason = %why, "a corrupt chunk was dropped from the store");
    }

    /// Eviction and copying no longer count on the chunk.
    fn forget(&self, index: ChunkIndex) {
        let blob = &*self.blob;
        let key = Key {
            blob: blob.number(),
            chunk: index.get(),
        };
        self.space.forget(key, blob.about().table.hash(index));
    }
}
