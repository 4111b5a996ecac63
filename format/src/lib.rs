//! Bytes at rest and on the wire.
//!
//! Pure: bytes in, values out. Nothing here opens a file or a socket, reads a clock or starts a thread, so that every
//! decoder can be tested with any input and used from any kind of caller. The normative text follows.
//!
//! ---
#![doc = include_str!("../../docs/format.md")]
#![forbid(unsafe_code)]

pub mod address;
pub mod annotation;
pub mod block;
pub mod chunk;
pub mod convert;
pub mod digest;
pub mod disk;
pub mod erofs;
pub mod error;
pub mod index;
pub mod layer;
pub mod layer_tar;
pub mod read_at;
pub mod segment;
pub mod stack;
pub mod wire;

mod envelope;
mod field;
mod tree;

pub use address::{ByteRange, SECTOR_LEN, Sector};
pub use annotation::{AnnotationError, ChunkTableRef, LayerAnnotations};
pub use block::{Codec, Workers};
pub use chunk::{ChunkIndex, ChunkTable, ChunkTableBuilder, Verified, WrongChunk};
pub use digest::{ChunkHash, Digest, DigestWriter, HashAlgorithm};
pub use disk::Disk;
pub use error::{DecodeError, Fault};
pub use layer::{
    Layer, LayerOptions, LayerSummary, LayerWriter, OpenLayerError, Uuid, WriteLayerError,
};
pub use read_at::{ReadAt, Window};
