//! How a layer is written.

use super::uuid::Uuid;
use crate::digest::HashAlgorithm;

/// How the blocks of a blob are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Codec {
    /// LZ4's block format: the fastest to read, a third larger.
    Lz4,
    /// One zstd frame a block.
    #[default]
    Zstd,
}

/// How a layer is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerOptions {
    /// Bytes in a block before compression: a power of two, 4 KiB to 32 KiB. Stock readers cannot read an incompressible
    /// block of 64 KiB.
    pub block_len: u32,
    /// How blocks are compressed.
    pub codec: Codec,
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
            chunk_len: 256 << 10,
            hash: HashAlgorithm::Blake3,
            uuid: Uuid::NIL,
            parent: None,
        }
    }
}
