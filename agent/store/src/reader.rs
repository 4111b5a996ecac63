//! A blob of a store that another process has open: read from its files, without its lock and without asking it.
//!
//! The map file is written before a hole is punched and after bytes are there, and its entry holds a generation: a read between two
//! looks at the same entry has read that chunk. What a read finds is hashed once, like everything that an earlier run left, so neither
//! the other process nor the disk is trusted with it.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::BytesMut;
use tranship_format::{ByteRange, ChunkIndex, ChunkTable, Digest};

use crate::StoreError;
use crate::file::failed;
use crate::layout::{About, blob_dir};
use crate::presence::{ENTRY_LEN, Word};

/// How often a read that met a chunk's coming or going is tried again before the chunk is called absent.
const READ_TRIES: u32 = 4;
/// In the place of an entry that was never found good: no entry of a chunk that is present is zero.
const NEVER: u32 = 0;

/// See the module's words.
#[derive(Debug)]
pub struct BlobReader {
    about: About,
    dir: PathBuf,
    files: RwLock<Arc<Files>>,
}

/// The files of the blob as they were opened.
#[derive(Debug)]
struct Files {
    dir: PathBuf,
    data: File,
    map: File,
    /// For each chunk, the entry under which it was hashed and found right.
    trusted: Box<[AtomicU32]>,
}

impl BlobReader {
    /// Opens a blob of the store in `store_dir`; `None` when it has none of its chunks.
    pub fn open(store_dir: &Path, digest: &Digest) -> Result<Option<Self>, StoreError> {
        let dir = blob_dir(store_dir, digest);
        let Some(about) = About::load(&dir)? else {
            return Ok(None);
        };
        let files = Files::open(&dir, about.table.count())?;
        Ok(files.map(|files| Self {
            about,
            dir,
            files: RwLock::new(Arc::new(files)),
        }))
    }

    /// Looks whether the files are still those of the store; `true` if others are there now, which are read from here on. Files that somebody
    /// deleted live on here alone: the process that has the store has made others since, and keeps what comes in those.
    pub fn refresh(&self) -> Result<bool, StoreError> {
        let Some(there) = Files::open(&self.dir, self.table().count())? else {
            return Ok(false);
        };
        if self.files().is_same(&there)? {
            return Ok(false);
        }
        *self.files.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(there);
        Ok(true)
    }

    fn files(&self) -> Arc<Files> {
        // They are changed as a whole.
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&files)
    }

    /// The blob's length in bytes, present or not.
    pub fn len(&self) -> u64 {
        self.about.len
    }

    /// Whether the blob has no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where its chunks lie and what they hash to.
    pub fn table(&self) -> &ChunkTable {
        &self.about.table
    }

    /// Whether the chunk is here now.
    pub fn has(&self, index: ChunkIndex) -> Result<bool, StoreError> {
        Ok(self.files().word(index)?.is_present())
    }

    /// Fills `buf` from `offset`, all of which lies in the chunk `index`. `true` only if every byte is of a chunk that is here, is
    /// right, and neither came nor went during the read; else `buf` holds nothing of use. A chunk that is here and wrong is for the
    /// process that has the store to drop.
    pub fn read_in(
        &self,
        index: ChunkIndex,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<bool, StoreError> {
        let (chunk, len) = (self.table().range(index), buf.len() as u64);
        let end = offset.checked_add(len).filter(|end| *end <= chunk.end);
        if end.is_none() || offset < chunk.start {
            return Ok(false);
        }
        let files = self.files();
        for _ in 0..READ_TRIES {
            let word = files.word(index)?;
            if !word.is_present() {
                return Ok(false);
            }
            if files.is_trusted(index, word) {
                files.read(offset, buf)?;
            } else {
                let Some(whole) = self.checked(&files, index, chunk)? else {
                    if files.word(index)? == word {
                        return Ok(false);
                    }
                    continue;
                };
                let part = usize::try_from(offset.saturating_sub(chunk.start))
                    .ok()
                    .and_then(|start| whole.get(start..start.checked_add(buf.len())?));
                let Some(part) = part else {
                    return Ok(false);
                };
                buf.copy_from_slice(part);
                files.trust(index, word.number());
            }
            if files.word(index)? == word {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The whole chunk, if it hashes to what it should.
    fn checked(
        &self,
        files: &Files,
        index: ChunkIndex,
        chunk: ByteRange,
    ) -> Result<Option<bytes::Bytes>, StoreError> {
        let Ok(len) = usize::try_from(chunk.len()) else {
            return Ok(None);
        };
        let mut bytes = BytesMut::zeroed(len);
        files.read(chunk.start, &mut bytes)?;
        let verified = self.table().verify(index, bytes.freeze());
        Ok(verified.ok().map(tranship_format::Verified::into_bytes))
    }

    /// Has the chunk hashed again at its next read: something about its bytes was not right.
    pub fn distrust(&self, index: ChunkIndex) {
        self.files().trust(index, NEVER);
    }
}

impl Files {
    /// Opens the files in a blob's folder; `None` where one is missing.
    fn open(dir: &Path, chunk_count: u32) -> Result<Option<Self>, StoreError> {
        let (Some(data), Some(map)) = (opened(&dir.join("data"))?, opened(&dir.join("present"))?)
        else {
            return Ok(None);
        };
        let trusted = (0..chunk_count).map(|_| AtomicU32::new(NEVER)).collect();
        Ok(Some(Self {
            dir: dir.to_owned(),
            data,
            map,
            trusted,
        }))
    }

    fn is_same(&self, other: &Self) -> Result<bool, StoreError> {
        let place = |file: &File| {
            let found = file.metadata().map_err(failed("look at", &self.dir))?;
            Ok((found.dev(), found.ino()))
        };
        Ok(place(&self.data)? == place(&other.data)? && place(&self.map)? == place(&other.map)?)
    }

    fn is_trusted(&self, index: ChunkIndex, word: Word) -> bool {
        let trusted = self
            .trusted(index)
            .map(|entry| entry.load(Ordering::Acquire));
        trusted == Some(word.number())
    }

    fn trust(&self, index: ChunkIndex, number: u32) {
        if let Some(entry) = self.trusted(index) {
            entry.store(number, Ordering::Release);
        }
    }

    fn trusted(&self, index: ChunkIndex) -> Option<&AtomicU32> {
        self.trusted.get(usize::try_from(index.get()).ok()?)
    }

    /// The chunk's entry in the map file now. What lies behind the file's end says "absent".
    fn word(&self, index: ChunkIndex) -> Result<Word, StoreError> {
        let mut entry = [0; 4];
        let offset = ENTRY_LEN.saturating_mul(index.get().into());
        match self.map.read_exact_at(&mut entry, offset) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                Err(failed("read", &self.dir.join("present"))(error))
            }
            Ok(()) | Err(_) => Ok(Word::from_entry(entry)),
        }
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), StoreError> {
        let read = self.data.read_exact_at(buf, offset);
        read.map_err(failed("read", &self.dir.join("data")))
    }
}

fn opened(path: &Path) -> Result<Option<File>, StoreError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("open", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{ChunkStore, StoreOptions};
    use bytes::Bytes;
    use tranship_format::{ChunkTableBuilder, HashAlgorithm};

    #[test]
    fn files_that_took_the_place_of_deleted_ones_are_found() {
        // A device process that had outlived its agent gave errors for what the next agent kept.
        let dir = tempfile::tempdir().unwrap();
        let content = [[1; 5_000], [2; 5_000]].concat();
        let mut builder = ChunkTableBuilder::new(HashAlgorithm::Blake3);
        for chunk in content.chunks(5_000) {
            builder.update(chunk);
            builder.cut();
        }
        let (digest, table) = (Digest::of(&content), builder.finish());
        let keep = |number: u32| {
            let store = ChunkStore::open(dir.path(), StoreOptions::with_quota(1 << 20)).unwrap();
            let blob = store.blob(digest, 10_000, table.clone()).unwrap();
            let index = blob.table().index(number).unwrap();
            let bytes = Bytes::copy_from_slice(&content[number as usize * 5_000..][..5_000]);
            let chunk = blob.table().verify(index, bytes).unwrap();
            blob.put(index, &chunk).unwrap();
        };
        keep(0);
        let reader = BlobReader::open(dir.path(), &digest).unwrap().unwrap();
        assert!(!reader.refresh().unwrap());
        fs::remove_file(reader.dir.join("data")).unwrap();
        assert!(!reader.refresh().unwrap(), "nobody has made others yet");
        keep(1);
        let second = reader.table().index(1).unwrap();
        let mut buf = [0; 100];
        assert!(!reader.read_in(second, 6_000, &mut buf).unwrap());
        assert!(reader.refresh().unwrap());
        assert!(reader.read_in(second, 6_000, &mut buf).unwrap());
        assert_eq!(buf, [2; 100]);
        assert!(!reader.refresh().unwrap());
    }
}
