//! Chunks: the unit of transfer, storage and verification, and the table that cuts a blob into them.
//!
//! A chunk is a run of *stored* bytes of a blob. The table's own digest stands in the layer's descriptor, so whoever trusts
//! the manifest can check any chunk from anyone. Types carry the law: a [`ChunkIndex`] comes only out of a [`ChunkTable`],
//! and [`Verified`] bytes come only out of [`ChunkTable::verify`].

mod build;
mod encoding;
mod proof;
mod write;

use core::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::address::ByteRange;
use crate::digest::{ChunkHash, HASH_LEN, HashAlgorithm};

pub use build::ChunkTableBuilder;
pub use encoding::{MAX_TABLE_LEN, TABLE_HEADER_LEN};
pub use proof::{PROOF_CHUNK_LEN, PROOF_OF, PROOF_OF_SIZE, PROOF_TYPE, ProofBuilder};

pub(crate) use encoding::encoded_len;
pub(crate) use write::ChunkWriter;

/// Bytes in the largest chunk that a table may hold: what a node must be ready to keep in memory for one answer.
pub const MAX_CHUNK_LEN: u32 = 4 << 20;

/// The number of a chunk within its blob, counted from 0. Only a [`ChunkTable`] makes one, so it is always in bounds there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkIndex(u32);

impl ChunkIndex {
    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for ChunkIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chunk {}", self.0)
    }
}

/// Where the chunks of one blob lie, and their hashes. Cheap to clone.
///
/// Chunks cover `[0, covered_len)` of the blob without a gap; none is empty or longer than [`MAX_CHUNK_LEN`].
#[derive(Clone, PartialEq, Eq)]
pub struct ChunkTable(Arc<Table>);

#[derive(PartialEq, Eq)]
struct Table {
    algorithm: HashAlgorithm,
    /// Where each chunk ends. As many as there are hashes, rising.
    ends: Vec<u64>,
    hashes: Vec<ChunkHash>,
}

impl ChunkTable {
    /// How the chunks are hashed.
    pub fn algorithm(&self) -> HashAlgorithm {
        self.0.algorithm
    }

    /// Number of chunks.
    pub fn count(&self) -> u32 {
        u32::try_from(self.0.hashes.len()).unwrap_or(u32::MAX)
    }

    /// Length in bytes of the part of the blob that is cut into chunks. What follows in the blob is the table itself, which
    /// its digest checks, and padding.
    pub fn covered_len(&self) -> u64 {
        self.0.ends.last().copied().unwrap_or(0)
    }

    /// The chunk with this number, if there is one.
    pub fn index(&self, number: u32) -> Option<ChunkIndex> {
        (number < self.count()).then_some(ChunkIndex(number))
    }

    /// The chunk that holds the byte at `offset` of the blob, if it is covered.
    pub fn at(&self, offset: u64) -> Option<ChunkIndex> {
        let number = self.0.ends.partition_point(|end| *end <= offset);
        self.index(u32::try_from(number).ok()?)
    }

    /// The chunks that hold any byte of `range`, in order. Bytes beyond the covered part have none.
    pub fn over(&self, range: ByteRange) -> impl Iterator<Item = ChunkIndex> + use<> {
        let covered = range.intersection(ByteRange::new(0, self.covered_len()));
        let numbers = if covered.is_empty() {
            0..0
        } else {
            let first = self.at(covered.start).map_or(0, ChunkIndex::get);
            let last = self
                .at(covered.end.saturating_sub(1))
                .map_or(0, ChunkIndex::get);
            first..last.saturating_add(1)
        };
        numbers.map(ChunkIndex)
    }

    /// Every chunk, in order.
    pub fn all(&self) -> impl Iterator<Item = ChunkIndex> + use<> {
        (0..self.count()).map(ChunkIndex)
    }

    /// Which bytes of the blob the chunk is. Empty for an index that a larger table made.
    pub fn range(&self, index: ChunkIndex) -> ByteRange {
        let number = index.0 as usize;
        let end = self.0.ends.get(number).copied();
        let start = match number.checked_sub(1) {
            Some(before) => self.0.ends.get(before).copied(),
            None => Some(0),
        };
        ByteRange::new(start.unwrap_or(0), end.or(start).unwrap_or(0))
    }

    /// The chunk's hash. All zeros, which no bytes are known to have, for an index that a larger table made.
    pub fn hash(&self, index: ChunkIndex) -> ChunkHash {
        self.0
            .hashes
            .get(index.0 as usize)
            .copied()
            .unwrap_or(ChunkHash::from_bytes([0; HASH_LEN]))
    }

    /// Checks that `bytes` are this chunk.
    ///
    /// # Errors
    /// [`WrongChunk`] if the length or the hash is another: whoever sent them erred or lied.
    pub fn verify(&self, index: ChunkIndex, bytes: Bytes) -> Result<Verified, WrongChunk> {
        let expected_len = self.range(index).len();
        let hash = self.hash(index);
        if expected_len == 0 || bytes.len() as u64 != expected_len {
            return Err(WrongChunk {
                index,
                expected_len,
                len: bytes.len() as u64,
                hash: None,
            });
        }
        let found = self.0.algorithm.hash(&bytes);
        if found != hash {
            return Err(WrongChunk {
                index,
                expected_len,
                len: expected_len,
                hash: Some(found),
            });
        }
        Ok(Verified { bytes, hash })
    }
}

impl fmt::Debug for ChunkTable {
    /// Tables hold tens of thousands of hashes; a log line wants none of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkTable")
            .field("algorithm", &self.algorithm())
            .field("count", &self.count())
            .field("covered_len", &self.covered_len())
            .finish()
    }
}

/// The bytes of one chunk, checked against its table. Only [`ChunkTable::verify`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    bytes: Bytes,
    hash: ChunkHash,
}

impl Verified {
    /// The chunk's bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The hash that they were found to have.
    pub fn hash(&self) -> ChunkHash {
        self.hash
    }

    /// The chunk's bytes, without the proof.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

/// Bytes that were given for a chunk and are not it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes given for {index} of {expected_len} bytes are not it")]
pub struct WrongChunk {
    /// The chunk they were given for.
    pub index: ChunkIndex,
    /// Its length in bytes.
    pub expected_len: u64,
    /// The length of what was given.
    pub len: u64,
    /// The hash of what was given, if its length was right.
    pub hash: Option<ChunkHash>,
}

#[cfg(test)]
mod tests;
