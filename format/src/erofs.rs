//! EROFS, the read-only filesystem inside our layers: its records, written and read side by side.
//!
//! EROFS is made for images: metadata may stand anywhere and in any order, nothing is journalled or
//! counted twice, and every kernel since 5.4 mounts it. That freedom is what lets an upper layer rewrite
//! single sectors of a lower layer's metadata. Only the part that [`crate::convert`] writes is encoded here;
//! [`Filesystem`] reads that part and the uncompressed images of other writers.
//!
//! Everything on the device is little-endian.

mod dirent;
mod fields;
mod inode;
mod kind;
mod lookup;
mod read;
mod superblock;
mod walk;
mod xattr;

pub use dirent::DirEntry;
pub use inode::Inode;
pub use kind::{FileKind, device_major, device_minor, device_number};
pub use read::{ErofsError, Filesystem};
pub use superblock::Superblock;
pub use walk::{Walk, WalkEntry};
pub use xattr::{Xattr, XattrError, XattrSet};

pub(crate) use dirent::{DIRENT_LEN, Dirent, decode_block, encode_block};
pub(crate) use inode::{DataLayout, EXTENDED_INODE_LEN, InodeRecord};
pub(crate) use superblock::{CHECKSUM_OFFSET, SUPERBLOCK_OFFSET, checksum};

/// Length in bytes of the blocks that our writer uses: the page size of every kernel that mounts them.
pub const BLOCK_LEN: u64 = 4096;

/// Length in bytes of the unit in which inodes are addressed.
pub const SLOT_LEN: u64 = 32;

/// Most bytes of one name in a directory.
pub const MAX_NAME_LEN: usize = 255;

/// Most components of a path that is written or walked. Linux takes paths of 4,096 bytes, thus of half as many
/// components; twice that leaves room for paths that only `openat` reaches, and still bounds every walk.
pub const MAX_DEPTH: usize = 4096;

/// Longest symlink target in bytes that Linux resolves.
pub const MAX_SYMLINK_LEN: usize = 4095;

/// Number of an inode: its place on the device in units of [`SLOT_LEN`], counted from the metadata's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nid(pub u64);

/// Where our writer puts the root inode: right behind the superblock, so that it never moves.
pub const ROOT_NID: Nid = Nid(36);
