//! The chunk table as bytes.
//!
//! Lengths instead of offsets, so that gaps and overlaps cannot be written down; one table has one encoding, so that its
//! digest is the digest of what it says.

use std::sync::Arc;

use super::{ChunkTable, MAX_CHUNK_LEN, Table};
use crate::digest::{ChunkHash, HASH_LEN, HashAlgorithm};
use crate::error::{DecodeError, Fault};
use crate::field::{array_at, u8_at, u16_at, u32_at, u64_at};

/// First bytes of a table. The last is not text, so that a table is not taken for a document.
const MAGIC: [u8; 8] = *b"trchunk\0";

/// The one version there is.
const VERSION: u16 = 1;

/// Bytes before the lengths.
pub const TABLE_HEADER_LEN: usize = 32;

/// Bytes of the length of one chunk.
const LEN_LEN: usize = 4;

/// Bytes that one chunk adds to the table.
const ENTRY_LEN: usize = LEN_LEN + HASH_LEN;

/// Bytes in the largest table that is read: 1.8 million chunks, a blob of 450 GiB in chunks of 256 KiB.
pub const MAX_TABLE_LEN: u64 = 64 << 20;

/// The name of the structure in errors.
const WHAT: &str = "chunk table";

impl ChunkTable {
    /// The table's bytes, as they lie in the blob and as its digest covers them.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(encoded_len(self.count()));
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.push(self.algorithm().number());
        bytes.push(0);
        bytes.extend_from_slice(&self.count().to_le_bytes());
        bytes.extend_from_slice(&self.covered_len().to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        for index in self.all() {
            // A chunk is never longer than MAX_CHUNK_LEN, so its length fits.
            let len = u32::try_from(self.range(index).len()).unwrap_or(u32::MAX);
            bytes.extend_from_slice(&len.to_le_bytes());
        }
        for hash in &self.0.hashes {
            bytes.extend_from_slice(hash.bytes());
        }
        bytes
    }

    /// The table that `bytes` encode. Trust it only as far as the digest of `bytes` is trusted.
    ///
    /// # Errors
    /// If `bytes` are not exactly one table by the rules of the format document.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (algorithm, count, covered_len) = decode_header(bytes)?;
        let need = encoded_len(count);
        if bytes.len() < need {
            return Err(fault(
                0,
                Fault::Truncated {
                    need: need as u64,
                    have: bytes.len() as u64,
                },
            ));
        }
        if bytes.len() > need {
            return Err(fault(
                need,
                Fault::Trailing {
                    excess: bytes.len().saturating_sub(need) as u64,
                },
            ));
        }
        let (lens, hashes) = bytes
            .get(TABLE_HEADER_LEN..)
            .and_then(|rest| rest.split_at_checked((count as usize).saturating_mul(LEN_LEN)))
            .ok_or_else(|| {
                fault(
                    0,
                    Fault::Truncated {
                        need: need as u64,
                        have: bytes.len() as u64,
                    },
                )
            })?;
        let ends = decode_ends(lens)?;
        let total = ends.last().copied().unwrap_or(0);
        if total != covered_len {
            let must = "the sum of the chunks' lengths";
            return Err(fault(
                16,
                Fault::Field {
                    name: "covered length",
                    value: covered_len,
                    must,
                },
            ));
        }
        let hashes = hashes
            .chunks_exact(HASH_LEN)
            .filter_map(|hash| array_at(hash, 0))
            .map(ChunkHash::from_bytes)
            .collect();
        Ok(Self(Arc::new(Table {
            algorithm,
            ends,
            hashes,
        })))
    }
}

/// Bytes of a table with `count` chunks.
pub(crate) fn encoded_len(count: u32) -> usize {
    (count as usize)
        .saturating_mul(ENTRY_LEN)
        .saturating_add(TABLE_HEADER_LEN)
}

fn decode_header(bytes: &[u8]) -> Result<(HashAlgorithm, u32, u64), DecodeError> {
    let have = bytes.len() as u64;
    let truncated = || {
        fault(
            0,
            Fault::Truncated {
                need: TABLE_HEADER_LEN as u64,
                have,
            },
        )
    };
    if array_at(bytes, 0).ok_or_else(truncated)? != MAGIC {
        return Err(fault(0, Fault::Magic));
    }
    if have > MAX_TABLE_LEN {
        return Err(fault(
            0,
            Fault::Field {
                name: "length",
                value: have,
                must: "at most 64 MiB",
            },
        ));
    }
    let version = u16_at(bytes, 8).ok_or_else(truncated)?;
    if version != VERSION {
        return Err(fault(
            8,
            Fault::Field {
                name: "version",
                value: u64::from(version),
                must: "1",
            },
        ));
    }
    let number = u8_at(bytes, 10).ok_or_else(truncated)?;
    let algorithm = HashAlgorithm::from_number(number).ok_or_else(|| {
        fault(
            10,
            Fault::Field {
                name: "hash algorithm",
                value: u64::from(number),
                must: "1 (BLAKE3) or 2 (SHA-256)",
            },
        )
    })?;
    let reserved = u8_at(bytes, 11).ok_or_else(truncated)?;
    if reserved != 0 {
        return Err(fault(
            11,
            Fault::Field {
                name: "reserved",
                value: u64::from(reserved),
                must: "0",
            },
        ));
    }
    let count = u32_at(bytes, 12).ok_or_else(truncated)?;
    let covered_len = u64_at(bytes, 16).ok_or_else(truncated)?;
    let reserved = u64_at(bytes, 24).ok_or_else(truncated)?;
    if reserved != 0 {
        return Err(fault(
            24,
            Fault::Field {
                name: "reserved",
                value: reserved,
                must: "0",
            },
        ));
    }
    Ok((algorithm, count, covered_len))
}

/// Where chunks of these lengths end.
fn decode_ends(lens: &[u8]) -> Result<Vec<u64>, DecodeError> {
    let mut ends = Vec::with_capacity(lens.len() / LEN_LEN);
    let mut end = 0_u64;
    for (number, len) in lens
        .chunks_exact(LEN_LEN)
        .filter_map(|len| u32_at(len, 0))
        .enumerate()
    {
        if len == 0 || len > MAX_CHUNK_LEN {
            let at = number
                .saturating_mul(LEN_LEN)
                .saturating_add(TABLE_HEADER_LEN);
            return Err(fault(
                at,
                Fault::Field {
                    name: "chunk length",
                    value: u64::from(len),
                    must: "1 to 4 MiB",
                },
            ));
        }
        // At most 2^32 chunks of at most 2^22 bytes: far below 2^64.
        end = end.saturating_add(u64::from(len));
        ends.push(end);
    }
    Ok(ends)
}

fn fault(offset: usize, why: Fault) -> DecodeError {
    DecodeError::new(WHAT, offset as u64, why)
}
