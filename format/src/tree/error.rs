//! Why an entry of a layer cannot be part of a filesystem.

use thiserror::Error;

use crate::erofs::XattrError;

/// Why an entry of a layer cannot be part of a filesystem.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EntryError {
    /// The path leaves its directory.
    #[error("its path contains `..`")]
    ParentComponent,
    /// A name is longer than Linux's limit.
    #[error("its path has a name of {len} bytes: at most 255 are possible")]
    NameTooLong {
        /// Length in bytes of the name.
        len: usize,
    },
    /// The path has more components than Linux could walk.
    #[error("its path is nested more than {limit} directories deep")]
    TooDeep {
        /// Most directories.
        limit: usize,
    },
    /// Symlinks on the way to the entry lead to each other.
    #[error("its path goes through more than {limit} symlinks")]
    TooManySymlinks {
        /// Most symlinks that are followed.
        limit: u32,
    },
    /// The root is something other than a directory.
    #[error("it names the root, which can only be a directory")]
    RootNotDirectory,
    /// A whiteout that names nothing that could be removed.
    #[error("it is a whiteout without a name")]
    EmptyWhiteout,
    /// A hard link whose target is in neither this layer nor those below.
    #[error("it is a hard link to `{target}`, which no entry before it and no lower layer has")]
    LinkToNothing {
        /// The target's path, unprintable bytes replaced.
        target: String,
    },
    /// A hard link to a directory.
    #[error("it is a hard link to `{target}`, which is a directory")]
    LinkToDirectory {
        /// The target's path, unprintable bytes replaced.
        target: String,
    },
    /// A symlink whose target Linux could not hold.
    #[error("it is a symlink with a target of {len} bytes: 1 to {limit} are possible")]
    SymlinkTarget {
        /// Length in bytes of the target.
        len: usize,
        /// Most bytes.
        limit: usize,
    },
    /// Device numbers that do not fit Linux's 32 bits.
    #[error("it is a device with the numbers {major}:{minor}: at most 4095:1048575 are possible")]
    DeviceNumber {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// Extended attributes that the filesystem cannot hold.
    #[error("its extended attributes do not fit the filesystem")]
    Xattrs(#[from] XattrError),
}
