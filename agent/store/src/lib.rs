//! This node's chunks on disk.
//!
//! A blob is a sparse file in which each chunk lies at its own offset, beside a map of the chunks that are present and
//! the chunk table that says what each must hash to. Three rules hold everything together:
//!
//! * **Present means verified.** Only [`tranship_format::Verified`] bytes are taken, they are written before the map
//!   says so, and what an earlier run left behind is hashed again on its first read. So neither `kill -9` nor loss of
//!   power, a torn write or a flipped bit reaches a reader: a chunk that is wrong is dropped, counted and read as absent.
//! * **A full disk is a slow disk.** Quota and a floor of free space are kept by eviction; when that is not enough,
//!   [`StoreError::Full`] tells the caller to hand the bytes on without keeping them.
//! * **Reads do not lock.** Each chunk has a generation that changes when it comes and when it goes; a read is good only
//!   if the generation is the same after it.
//!
//! Everything is synchronous and may be called from any number of threads.

#![forbid(unsafe_code)]

mod blob;
mod blob_store;
mod chunk_store;
mod error;
mod evict;
mod file;
mod layout;
mod presence;
mod reader;
mod space;

#[cfg(test)]
mod crash;

pub use blob_store::BlobStore;
pub use chunk_store::{ChunkStore, StoreCounters, StoreOptions};
pub use error::StoreError;
pub use reader::BlobReader;
