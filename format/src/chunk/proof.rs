//! The proof of a blob that somebody else wrote: a chunk table that travels beside it.
//!
//! There is exactly one right proof for a blob, equal chunks by one algorithm over all of its bytes, so whoever has the
//! blob can make it anew and compare, and nodes that learnt it in different ways hold the same chunks.

use std::io::{self, Read};

use super::{ChunkTable, ChunkTableBuilder};
use crate::digest::HashAlgorithm;
use crate::error::{DecodeError, Fault};

/// Bytes in each chunk of a proof but the last.
pub const PROOF_CHUNK_LEN: u32 = 256 << 10;

/// The artifact type of a manifest that carries proofs, and the media type of each.
pub const PROOF_TYPE: &str = "application/vnd.tranship.chunks.v1";

/// On the descriptor of a proof: the digest of the blob that it is about.
pub const PROOF_OF: &str = "io.tranship.chunks.blob-digest";

/// On the descriptor of a proof: the length of that blob in bytes, decimal.
pub const PROOF_OF_SIZE: &str = "io.tranship.chunks.blob-size";

/// Makes the proof of a blob while its bytes go by.
#[derive(Debug)]
pub struct ProofBuilder(ChunkTableBuilder);

impl ProofBuilder {
    /// Begins at byte 0 of a blob.
    pub fn new() -> Self {
        Self(ChunkTableBuilder::new(HashAlgorithm::Blake3))
    }

    /// Takes the blob's next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = PROOF_CHUNK_LEN.saturating_sub(self.0.open_len()).max(1) as usize;
            let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            self.0.update(now);
            if self.0.open_len() >= PROOF_CHUNK_LEN {
                self.0.cut();
            }
            bytes = later;
        }
    }

    /// The proof of all bytes taken. It is worth nothing before they were found to have the blob's digest.
    pub fn finish(self) -> ChunkTable {
        self.0.finish()
    }
}

impl Default for ProofBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ChunkTable {
    /// The proof of a blob: the table of equal chunks over all its bytes.
    ///
    /// # Errors
    /// The reader's own.
    pub fn proof(blob: impl Read) -> io::Result<Self> {
        Self::uniform(blob, HashAlgorithm::Blake3, PROOF_CHUNK_LEN)
    }

    /// A proof from outside, for a blob of `blob_len` bytes. Nothing but its form is checked: trust it as far as whoever
    /// gave it.
    ///
    /// # Errors
    /// If `bytes` are no table, or one that cannot be the proof of such a blob.
    pub fn decode_proof(bytes: &[u8], blob_len: u64) -> Result<Self, DecodeError> {
        let table = Self::decode(bytes)?;
        let refused = |why| Err(DecodeError::new("proof", 0, Fault::Rule(why)));
        if table.covered_len() != blob_len {
            return refused("its chunks do not cover the blob");
        }
        if table.algorithm() != HashAlgorithm::Blake3 {
            return refused("its chunks are not hashed by BLAKE3");
        }
        let last = table.count().saturating_sub(1);
        let uneven = |index: &super::ChunkIndex| {
            let len = table.range(*index).len();
            let whole = u64::from(PROOF_CHUNK_LEN);
            len > whole || (len < whole && index.get() != last)
        };
        if table.all().any(|index| uneven(&index)) {
            return refused("its chunks are not of one length");
        }
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob() -> Vec<u8> {
        (0..PROOF_CHUNK_LEN * 2 + 77)
            .map(|at| u8::try_from(at / 1000 % 251).unwrap())
            .collect()
    }

    #[test]
    fn a_blob_has_one_proof_however_its_bytes_come() {
        let whole = ChunkTable::proof(blob().as_slice()).unwrap();
        for piece_len in [1000, 300_000, 10_000_000] {
            let mut builder = ProofBuilder::new();
            for piece in blob().chunks(piece_len) {
                builder.update(piece);
            }
            assert_eq!(builder.finish(), whole, "{piece_len}");
        }
        assert_eq!(whole.count(), 3);
        let len = blob().len() as u64;
        assert_eq!(ChunkTable::decode_proof(&whole.encode(), len), Ok(whole));
        let empty = ProofBuilder::new().finish();
        assert_eq!(ChunkTable::decode_proof(&empty.encode(), 0), Ok(empty));
    }

    #[test]
    fn a_table_of_another_form_is_no_proof() {
        let len = blob().len() as u64;
        let refused = |algorithm, chunk_len, len| {
            let table = ChunkTable::uniform(blob().as_slice(), algorithm, chunk_len).unwrap();
            ChunkTable::decode_proof(&table.encode(), len).is_err()
        };
        assert!(refused(HashAlgorithm::Blake3, PROOF_CHUNK_LEN, len - 1));
        assert!(refused(HashAlgorithm::Sha256, PROOF_CHUNK_LEN, len));
        assert!(refused(HashAlgorithm::Blake3, PROOF_CHUNK_LEN - 1, len));
        assert!(refused(HashAlgorithm::Blake3, PROOF_CHUNK_LEN * 2, len));
        assert!(!refused(HashAlgorithm::Blake3, PROOF_CHUNK_LEN, len));
    }

    #[test]
    fn a_flipped_bit_is_refused_or_says_something_else() {
        let proof = ChunkTable::proof(blob().as_slice()).unwrap();
        let (bytes, len) = (proof.encode(), blob().len() as u64);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = ChunkTable::decode_proof(&flipped, len) {
                assert_ne!(other, proof, "bit {bit}");
            }
        }
    }
}
