//! What can go wrong with the store, so that a caller can tell "hand it through" from "stop".

use std::io;
use std::path::PathBuf;

use tranship_format::Digest;

/// Why the store did not do what it was asked.
///
/// Corrupt local data is not among these: such a chunk is dropped and read as absent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no room: the quota or the disk is full and nothing may be evicted. The caller hands the bytes on without
    /// keeping them.
    #[error("the store has no room for {len} more bytes")]
    Full {
        /// How many bytes did not fit.
        len: u64,
    },
    /// The directory holds other files and none of ours. Nothing in it is touched.
    #[error(
        "{} holds files that are not a tranship store; give the store a directory of its own",
        .path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// The directory was laid out by another version. Nothing in it is touched.
    #[error(
        "{} is a store of layout {found:?}, and this version reads layout {}; use the version that made it, or another directory",
        .path.display(),
        crate::layout::VERSION
    )]
    OtherLayout {
        /// The directory.
        path: PathBuf,
        /// What its layout file says.
        found: String,
    },
    /// Another process has the store open.
    #[error("the store {} is in use by another process", .path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The blob is open under another chunk table, so one of the two callers has a wrong one.
    #[error("blob {digest} is in use with another chunk table")]
    OtherTable {
        /// The blob.
        digest: Digest,
    },
    /// The chunk table covers more than the blob is long.
    #[error("the chunk table of blob {digest} covers {covered_len} bytes of {len}")]
    WrongTable {
        /// The blob.
        digest: Digest,
        /// Its length in bytes.
        len: u64,
        /// How far the table reaches.
        covered_len: u64,
    },
    /// The bytes are not those of this chunk; they were verified as another one.
    #[error("the verified bytes are not those of chunk {index}")]
    OtherChunk {
        /// The chunk they were offered for.
        index: u32,
    },
    /// The filesystem cannot give space back from the middle of a file.
    #[error(
        "the filesystem of {} cannot punch holes, so the store could never shrink; use ext4, xfs, btrfs or tmpfs",
        .path.display()
    )]
    NoHoles {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file operation failed.
    #[error("cannot {deed} {}", .path.display())]
    File {
        /// What was tried.
        deed: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    /// Whether the caller should go on without keeping the bytes.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }
}
