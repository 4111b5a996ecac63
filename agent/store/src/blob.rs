//! One blob's files and presence map, and the order in which they change.
//!
//! A chunk comes: bytes written, then the map, then the word in memory. A chunk goes: the word, then the map, then the
//! hole. Whoever crashes in between leaves a map that claims too little, never too much, as far as the page cache
//! survives; where it does not, the first read after the start finds out.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use tranship_format::{ChunkHash, ChunkIndex, Digest, Verified};

use crate::StoreError;
use crate::file::{Medium, StoreFile, failed};
use crate::layout::About;
use crate::presence::{ENTRY_LEN, Presence, Word};
use crate::space::Space;

/// Bytes in a block of stat(2)'s count, whatever the filesystem's own are.
const STAT_BLOCK_LEN: u64 = 512;
/// Locks that writers of one blob share out among its chunks.
const LOCK_COUNT: usize = 16;

/// A blob, its files and its presence map.
#[derive(Debug)]
pub(crate) struct Blob {
    /// The blob's name in the eviction policy of this run.
    number: u32,
    digest: Digest,
    about: About,
    dir: PathBuf,
    medium: Medium,
    presence: Presence,
    /// Opened on first use: a store knows many blobs of which few are read.
    files: OnceLock<Files>,
    opening: Mutex<()>,
    /// One guards the coming and going of every sixteenth chunk. Readers take none.
    locks: [Mutex<()>; LOCK_COUNT],
}

#[derive(Debug)]
struct Files {
    data: StoreFile,
    map: StoreFile,
}

impl Blob {
    /// Reads the presence map of a blob in `dir`, whose `about` file is there already.
    pub(crate) fn load(
        number: u32,
        digest: Digest,
        about: About,
        dir: PathBuf,
        medium: Medium,
    ) -> Result<Self, StoreError> {
        let data_len = optional(fs::metadata(dir.join("data")).map(|metadata| metadata.len()))
            .map_err(failed("look at", &dir.join("data")))?;
        let map_path = dir.join("present");
        let map = if data_len == Some(about.len) {
            optional(fs::read(&map_path))
                .map_err(failed("read", &map_path))?
                .unwrap_or_default()
        } else {
            // The data is gone or is not this blob's: what the map says is of something else.
            optional(fs::remove_file(&map_path)).map_err(failed("remove", &map_path))?;
            Vec::new()
        };
        let table = about.table.clone();
        let presence = Presence::decode(&map, table.count(), |number| {
            table
                .index(number)
                .map_or(0, |index| table.range(index).len())
        });
        Ok(Self {
            number,
            digest,
            about,
            dir,
            medium,
            presence,
            files: OnceLock::new(),
            opening: Mutex::default(),
            locks: Default::default(),
        })
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    pub(crate) fn about(&self) -> &About {
        &self.about
    }

    pub(crate) fn presence(&self) -> &Presence {
        &self.presence
    }

    /// Bytes of disk, and files; what is not there takes nothing.
    pub(crate) fn disk_usage(&self) -> (u64, u64) {
        let files = ["about", "data", "present"].map(|name| self.dir.join(name));
        let found = files.iter().chain([&self.dir]).flat_map(fs::metadata);
        found.fold((0, 0), |(len, count), found| {
            let blocks = found.blocks().saturating_mul(STAT_BLOCK_LEN);
            (blocks.saturating_add(len), count.saturating_add(1))
        })
    }

    /// What a chunk hashes to.
    pub(crate) fn hash(&self, number: u32) -> Option<ChunkHash> {
        let index = self.about.table.index(number)?;
        Some(self.about.table.hash(index))
    }

    /// Index and length of each chunk that is here.
    pub(crate) fn present_chunks(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.about
            .table
            .all()
            .filter(|index| self.presence.word(index.get()).is_present())
            .map(|index| (index.get(), self.about.table.range(index).len()))
    }

    /// Lets a chunk go because others need its room. Returns how many bytes that freed.
    pub(crate) fn evict(&self, number: u32, space: &Space) -> Result<u64, StoreError> {
        let Some(index) = self.about.table.index(number) else {
            return Ok(0);
        };
        let before = self.presence.word(number);
        self.let_go(index, before, space)
    }

    /// Waits until all that was written is on the disk: data before the map that speaks of it.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        if let Some(files) = self.files.get() {
            files.data.sync()?;
            files.map.sync()?;
        }
        Ok(())
    }

    /// Fills `buf` from the data file, whatever lies there.
    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), StoreError> {
        self.files()?.data.read(offset, buf)
    }

    /// Writes a chunk for which room is reserved. `false` when another thread was first.
    pub(crate) fn take_in(
        &self,
        index: ChunkIndex,
        chunk: &Verified,
        space: &Space,
    ) -> Result<bool, StoreError> {
        let (number, range) = (index.get(), self.about.table.range(index));
        let _guard = self.lock(index);
        let word = self.presence.word(number);
        if word.is_present() {
            return Ok(false);
        }
        let files = self.files()?;
        let come = word.come();
        let written = files
            .data
            .write(range.start, chunk.bytes())
            .and_then(|()| files.map.write(entry_offset(index), &come.entry()));
        if let Err(error) = written {
            // What was written of it is of no use; the disk is full or worse, and a failure to give it back changes
            // nothing for the caller.
            let cleared = files
                .map
                .write(entry_offset(index), &word.entry())
                .and_then(|()| files.data.punch(range.start, range.len()));
            if let Err(failure) = cleared {
                tracing::debug!(error = %failure, "a part of a chunk stays behind in the store");
            }
            return Err(error);
        }
        self.presence.chill(number, space.moved(range.len()));
        self.presence.set(number, come, range.len());
        Ok(true)
    }

    /// Lets a chunk go, if it is still the one that `before` told of. Returns how many bytes that freed.
    pub(crate) fn let_go(
        &self,
        index: ChunkIndex,
        before: Word,
        space: &Space,
    ) -> Result<u64, StoreError> {
        let range = self.about.table.range(index);
        let _guard = self.lock(index);
        let word = self.presence.word(index.get());
        if !word.is_present() || !self.presence.is_unchanged(index.get(), before) {
            return Ok(0);
        }
        let files = self.files()?;
        let gone = word.gone();
        self.presence.set(index.get(), gone, range.len());
        space.release(range.len());
        files.map.write(entry_offset(index), &gone.entry())?;
        files.data.punch(range.start, range.len())?;
        Ok(range.len())
    }

    /// Makes the files where there are none yet.
    pub(crate) fn make_files(&self) -> Result<(), StoreError> {
        self.files().map(drop)
    }

    fn files(&self) -> Result<&Files, StoreError> {
        if let Some(files) = self.files.get() {
            return Ok(files);
        }
        let _turn = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(files) = self.files.get() {
            return Ok(files);
        }
        let map_len = ENTRY_LEN.saturating_mul(u64::from(self.about.table.count()));
        let files = Files {
            data: StoreFile::open(self.dir.join("data"), self.about.len, &self.medium)?,
            map: StoreFile::open(self.dir.join("present"), map_len, &self.medium)?,
        };
        Ok(self.files.get_or_init(|| files))
    }

    fn lock(&self, index: ChunkIndex) -> MutexGuard<'_, ()> {
        let which = usize::try_from(index.get()).unwrap_or_default() % LOCK_COUNT;
        let [first, ..] = &self.locks;
        let lock = self.locks.get(which).unwrap_or(first);
        lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entry_offset(index: ChunkIndex) -> u64 {
    ENTRY_LEN.saturating_mul(u64::from(index.get()))
}

/// Absence as a value.
fn optional<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
