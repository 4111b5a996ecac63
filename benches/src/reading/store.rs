//! The opening of an image whose chunk tables and indexes are in an agent's store, as the agent does it.
//!
//! The store is opened anew each time, as after a start of the agent: the tables are read from the disk, and what the
//! opening reads of the blobs is hashed once more, since nothing that an earlier run left is believed unseen.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;
use tranship_format::{ChunkTable, ChunkTableRef, Digest, Disk, ReadAt};
use tranship_store::{BlobStore, ChunkStore, StoreOptions};

use super::image::Image;

/// A store that holds all of an image's blobs.
#[derive(Debug)]
pub(super) struct Stored {
    dir: TempDir,
    /// Each layer's blob and the table that its manifest would name, the bottom one first.
    layers: Vec<(Digest, Digest)>,
}

impl Stored {
    /// Puts every chunk of the image into a new store.
    pub(super) fn make(image: &Image) -> Result<Self> {
        let dir = tempfile::tempdir().context("making a directory for the store")?;
        let store = open(&dir.path().join("store"))?;
        let mut layers = Vec::new();
        for (path, chunks) in image.layers() {
            layers.push((fill(&store, path, chunks)?, chunks.digest));
        }
        store.sync().context("writing the store")?;
        Ok(Self { dir, layers })
    }

    /// Opens the store and the image in it.
    pub(super) fn open(&self, kept_len: u64) -> Result<Disk> {
        let store = open(&self.dir.path().join("store"))?;
        self.open_in(&store, kept_len)
    }

    /// The store alone, for those who open the image in it again and again.
    pub(super) fn store(&self) -> Result<ChunkStore> {
        open(&self.dir.path().join("store"))
    }

    /// Opens the image in an open store.
    pub(super) fn open_in(&self, store: &ChunkStore, kept_len: u64) -> Result<Disk> {
        let mut blobs: Vec<Arc<dyn ReadAt>> = Vec::new();
        for (digest, table) in &self.layers {
            let blob = store.known(digest).context("a blob left the store")?;
            ensure!(
                Digest::of(&blob.table().encode()) == *table,
                "the store has another table"
            );
            blobs.push(Arc::new(Blob(blob)));
        }
        Disk::open(blobs, kept_len).context("opening the image")
    }
}

fn open(dir: &Path) -> Result<ChunkStore> {
    let options = StoreOptions {
        free_floor_len: 0,
        ..StoreOptions::with_quota(1 << 40)
    };
    ChunkStore::open(dir, options).context("opening the store")
}

fn fill(store: &ChunkStore, path: &PathBuf, chunks: ChunkTableRef) -> Result<Digest> {
    let bytes = Bytes::from(std::fs::read(path).context("reading a blob")?);
    let part = |start: u64, end: u64| -> Result<Bytes> {
        let (start, end) = (usize::try_from(start)?, usize::try_from(end)?);
        ensure!(end <= bytes.len(), "a blob is shorter than its table says");
        Ok(bytes.slice(start..end))
    };
    let range = chunks.range();
    let table = ChunkTable::decode(&part(range.start, range.end)?).context("a chunk table")?;
    let digest = Digest::of(&bytes);
    let blob = store.blob(digest, bytes.len() as u64, table.clone())?;
    for index in table.all() {
        let range = table.range(index);
        let chunk = table.verify(index, part(range.start, range.end)?)?;
        blob.put(index, &chunk)?;
    }
    Ok(digest)
}

struct Blob(BlobStore);

impl ReadAt for Blob {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match self.0.read_at(offset, buf) {
            Ok(true) => Ok(()),
            Ok(false) => Err(io::Error::other("a chunk left the store")),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}
