//! How a layer is written.

use super::error::WriteLayerError;
use super::uuid::Uuid;
use crate::block::{Codec, MAX_WRITTEN_BLOCK_LEN, MIN_BLOCK_LEN, ZSTD_LEVEL, ZSTD_LEVELS};
use crate::digest::HashAlgorithm;

/// How a layer is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerOptions {
    /// Bytes in a block before compression: a power of two, 4 KiB to 32 KiB. Stock readers cannot read an incompressible
    /// block of 64 KiB.
    pub block_len: u32,
    /// How blocks are compressed.
    pub codec: Codec,
    /// zstd's level, 1 to 19: higher ones take longer and store less. LZ4 has none.
    pub level: i32,
    /// Bytes that a chunk aims at, as stored: 4 KiB to 2 MiB.
    pub chunk_len: u32,
    /// How chunks are hashed.
    pub hash: HashAlgorithm,
    /// The layer's name in its header. Nothing checks it; overlaybd's converter derives it from the chain of layers.
    pub uuid: Uuid,
    /// The name of the layer below; `None` for the bottom one.
    pub parent: Option<Uuid>,
}

impl Default for LayerOptions {
    /// zstd in blocks of 32 KiB, the largest that stock readers can read; chunks of 256 KiB hashed with BLAKE3.
    fn default() -> Self {
        Self {
            block_len: 32 << 10,
            codec: Codec::Zstd,
            level: ZSTD_LEVEL,
            chunk_len: 256 << 10,
            hash: HashAlgorithm::Blake3,
            uuid: Uuid::NIL,
            parent: None,
        }
    }
}

/// Bytes that a chunk may aim at. Smaller ones cost more in hashes and requests than they hold; larger ones could outgrow
/// what a chunk table allows, since a chunk ends at a block's end.
const CHUNK_LENS: core::ops::RangeInclusive<u32> = 4 << 10..=2 << 20;

impl LayerOptions {
    /// Refuses what stock readers cannot read and what no chunk table can hold.
    pub(super) fn check(&self) -> Result<(), WriteLayerError> {
        let block_len = self.block_len;
        if !block_len.is_power_of_two()
            || !(MIN_BLOCK_LEN..=MAX_WRITTEN_BLOCK_LEN).contains(&block_len)
        {
            let must = "a power of two, 4 KiB to 32 KiB";
            return Err(WriteLayerError::Option {
                name: "block_len",
                value: u64::from(block_len),
                must,
            });
        }
        if !ZSTD_LEVELS.contains(&self.level) {
            return Err(WriteLayerError::Option {
                name: "level",
                value: u64::from(self.level.unsigned_abs()),
                must: "1 to 19",
            });
        }
        if !CHUNK_LENS.contains(&self.chunk_len) {
            let must = "4 KiB to 2 MiB";
            return Err(WriteLayerError::Option {
                name: "chunk_len",
                value: u64::from(self.chunk_len),
                must,
            });
        }
        Ok(())
    }
}
