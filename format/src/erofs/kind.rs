//! What an inode is, in the three codes that say so: mode bits, directory entries and device numbers.
//!
//! The codes are Linux's own; they stand in one file because a directory entry and the inode it names must agree.

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A symbolic link.
    Symlink,
}

/// The bits of a mode that tell the kind.
const KIND_BITS: u16 = 0o170_000;

impl FileKind {
    /// The kind in a whole mode; `None` if the bits name no kind.
    pub fn of_mode(mode: u16) -> Option<Self> {
        Some(match mode & KIND_BITS {
            0o100_000 => Self::Regular,
            0o040_000 => Self::Directory,
            0o020_000 => Self::CharDevice,
            0o060_000 => Self::BlockDevice,
            0o010_000 => Self::Fifo,
            0o140_000 => Self::Socket,
            0o120_000 => Self::Symlink,
            _ => return None,
        })
    }

    /// The mode bits of this kind.
    pub fn mode_bits(self) -> u16 {
        match self {
            Self::Regular => 0o100_000,
            Self::Directory => 0o040_000,
            Self::CharDevice => 0o020_000,
            Self::BlockDevice => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Socket => 0o140_000,
            Self::Symlink => 0o120_000,
        }
    }

    /// The code of this kind in a directory entry.
    pub(super) fn dirent_code(self) -> u8 {
        match self {
            Self::Regular => 1,
            Self::Directory => 2,
            Self::CharDevice => 3,
            Self::BlockDevice => 4,
            Self::Fifo => 5,
            Self::Socket => 6,
            Self::Symlink => 7,
        }
    }

    /// The kind that a directory entry's code names.
    pub(super) fn of_dirent_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Regular,
            2 => Self::Directory,
            3 => Self::CharDevice,
            4 => Self::BlockDevice,
            5 => Self::Fifo,
            6 => Self::Socket,
            7 => Self::Symlink,
            _ => return None,
        })
    }
}

/// Packs a device's numbers as Linux does: 12 bits of major, 20 of minor. `None` if either is larger.
pub fn device_number(major: u32, minor: u32) -> Option<u32> {
    (major < 1 << 12 && minor < 1 << 20)
        .then_some((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

/// The major number packed in `number`.
pub fn device_major(number: u32) -> u32 {
    (number >> 8) & 0xfff
}

/// The minor number packed in `number`.
pub fn device_minor(number: u32) -> u32 {
    (number & 0xff) | ((number >> 12) & 0xf_ff00)
}
