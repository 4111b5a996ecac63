//! Making a chunk table while a blob's bytes go by.

use std::io::{self, Read};
use std::sync::Arc;

use super::{ChunkTable, MAX_CHUNK_LEN, Table};
use crate::digest::{ChunkHash, ChunkHasher, HashAlgorithm};

/// Hashes a blob's bytes in order and cuts where it is told to.
///
/// ```
/// use tranship_format::{ChunkTableBuilder, HashAlgorithm};
/// let mut builder = ChunkTableBuilder::new(HashAlgorithm::Blake3);
/// builder.update(b"one");
/// builder.cut();
/// builder.update(b"three");
/// let table = builder.finish();
/// assert_eq!((table.count(), table.covered_len()), (2, 8));
/// ```
#[derive(Debug)]
pub struct ChunkTableBuilder {
    algorithm: HashAlgorithm,
    hasher: ChunkHasher,
    /// Bytes since the last cut.
    open_len: u32,
    /// Where the last cut is.
    end: u64,
    ends: Vec<u64>,
    hashes: Vec<ChunkHash>,
}

impl ChunkTableBuilder {
    /// Begins at byte 0 of a blob.
    pub fn new(algorithm: HashAlgorithm) -> Self {
        let hasher = ChunkHasher::new(algorithm);
        Self {
            algorithm,
            hasher,
            open_len: 0,
            end: 0,
            ends: Vec::new(),
            hashes: Vec::new(),
        }
    }

    /// Takes the blob's next bytes. A chunk that would grow beyond [`MAX_CHUNK_LEN`] is cut there.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = MAX_CHUNK_LEN.saturating_sub(self.open_len) as usize;
            let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            self.hasher.update(now);
            self.open_len = self
                .open_len
                .saturating_add(u32::try_from(now.len()).unwrap_or(u32::MAX));
            if self.open_len >= MAX_CHUNK_LEN {
                self.cut();
            }
            bytes = later;
        }
    }

    /// Ends the chunk here. Two cuts at one place are one cut.
    pub fn cut(&mut self) {
        if self.open_len == 0 {
            return;
        }
        let hash = self.hasher.take();
        self.end = self.end.saturating_add(u64::from(self.open_len));
        self.open_len = 0;
        self.ends.push(self.end);
        self.hashes.push(hash);
    }

    /// Bytes since the last cut.
    pub fn open_len(&self) -> u32 {
        self.open_len
    }

    /// Chunks so far, the open one included if it has bytes.
    pub fn count(&self) -> u32 {
        u32::try_from(self.ends.len())
            .unwrap_or(u32::MAX)
            .saturating_add(u32::from(self.open_len > 0))
    }

    /// Corrects the hash of the first chunk, for a writer that goes back to write its header.
    pub(crate) fn replace_first(&mut self, hash: ChunkHash) {
        if let Some(first) = self.hashes.first_mut() {
            *first = hash;
        }
    }

    /// The table of all bytes taken.
    pub fn finish(mut self) -> ChunkTable {
        self.cut();
        ChunkTable(Arc::new(Table {
            algorithm: self.algorithm,
            ends: self.ends,
            hashes: self.hashes,
        }))
    }
}

impl ChunkTable {
    /// The table of a blob that nobody cut: chunks of `chunk_len` bytes (1 to [`MAX_CHUNK_LEN`]), the last one shorter.
    ///
    /// # Errors
    /// The reader's own.
    pub fn uniform(
        mut blob: impl Read,
        algorithm: HashAlgorithm,
        chunk_len: u32,
    ) -> io::Result<Self> {
        let mut builder = ChunkTableBuilder::new(algorithm);
        let mut buf = vec![0; chunk_len.clamp(1, MAX_CHUNK_LEN) as usize];
        loop {
            let mut filled = 0;
            while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
                match blob.read(rest) {
                    Ok(0) => break,
                    Ok(count) => filled = filled.saturating_add(count),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            builder.update(buf.get(..filled).unwrap_or(&buf));
            builder.cut();
            if filled < buf.len() {
                return Ok(builder.finish());
            }
        }
    }
}
