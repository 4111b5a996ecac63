//! Blocks: the unit of compression inside a blob, in overlaybd's ZFile format.
//!
//! Every block is compressed alone and checked by a CRC, so any of them can be read without its neighbours; a table of
//! their lengths says where each one lies.

mod batch;
mod checksum;
mod codec;
mod header;
mod read;
mod table;
mod workers;
mod write;

pub use codec::Codec;
pub use table::BlockTable;
pub use workers::{Work, Workers};

pub(crate) use codec::{BlockDecoder, ZSTD_LEVEL, ZSTD_LEVELS};
pub(crate) use header::HEADER_LEN;
pub(crate) use read::{ReadBlockError, Span, decode_span, decode_span_alone, read_span, spans};
pub(crate) use table::OpenBlocksError;
pub(crate) use write::{BlockSettings, BlockWriter};

/// Bytes in the smallest block.
pub const MIN_BLOCK_LEN: u32 = 4 << 10;

/// Bytes in the largest block that is read.
pub const MAX_BLOCK_LEN: u32 = 64 << 10;

/// Bytes in the largest block that is written. Stock readers have a buffer of exactly 64 KiB for a stored block, in which
/// an incompressible block of that size does not fit, as it is stored with its overhead.
pub const MAX_WRITTEN_BLOCK_LEN: u32 = 32 << 10;

/// Bytes of the CRC behind a stored block.
const CRC_LEN: usize = 4;
