//! Inodes: the extended record that we write, and both records as read.
//!
//! We write extended inodes only: compact ones have no modification time and 16-bit owners, and the 32 bytes that
//! they save are zeros, which compress to nothing.

use super::fields::Fields;
use super::kind::FileKind;
use super::read::ErofsError;
use super::{Nid, Superblock};

/// Length in bytes of a compact inode.
const COMPACT_INODE_LEN: usize = 32;
/// Length in bytes of an extended inode.
pub(crate) const EXTENDED_INODE_LEN: usize = 64;

/// How the bytes of a file are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataLayout {
    /// Consecutive blocks.
    Plain,
    /// Consecutive blocks, the tail right behind the inode and its xattrs.
    Inline,
    /// Compressed, or in chunks: layouts that only other writers use.
    Foreign,
}

/// The inode that the writer encodes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InodeRecord {
    pub(crate) layout: DataLayout,
    /// Bytes of the inode's encoded xattrs.
    pub(crate) xattr_len: usize,
    pub(crate) mode: u16,
    pub(crate) size: u64,
    /// First block of the data, or the device number.
    pub(crate) start: u32,
    pub(crate) nid: Nid,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: i64,
    pub(crate) mtime_nsec: u32,
    pub(crate) nlink: u32,
}

impl InodeRecord {
    /// Appends the 64 bytes of the extended inode.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let layout: u16 = match self.layout {
            DataLayout::Plain | DataLayout::Foreign => 0,
            DataLayout::Inline => 2,
        };
        out.extend((1 | layout << 1).to_le_bytes());
        out.extend(super::xattr::unit_count(self.xattr_len).to_le_bytes());
        out.extend(self.mode.to_le_bytes());
        out.extend(0u16.to_le_bytes());
        out.extend(self.size.to_le_bytes());
        out.extend(self.start.to_le_bytes());
        // The 32-bit inode number that only 32-bit stat shows. The nid's low bits need no counter of their own.
        let [a, b, c, d, ..] = self.nid.0.to_le_bytes();
        out.extend([a, b, c, d]);
        out.extend(self.uid.to_le_bytes());
        out.extend(self.gid.to_le_bytes());
        out.extend(self.mtime.to_le_bytes());
        out.extend(self.mtime_nsec.to_le_bytes());
        out.extend(self.nlink.to_le_bytes());
        out.extend([0; 16]);
    }
}

/// An inode as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Its number.
    pub nid: Nid,
    /// Kind and permission bits, as in `st_mode`.
    pub mode: u16,
    /// What it is.
    pub kind: FileKind,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes: of a file's content, a symlink's target, a directory's entries.
    pub size: u64,
    /// Modification time in seconds since 1970.
    pub mtime: i64,
    /// Nanoseconds to go with `mtime`.
    pub mtime_nsec: u32,
    /// How many names it has.
    pub nlink: u32,
    /// Device number of a device, as Linux packs it; 0 for everything else.
    pub rdev: u32,
    /// Where its data begins, in blocks.
    pub(crate) start_block: u32,
    pub(crate) layout: DataLayout,
    /// Bytes of the inode itself.
    pub(crate) record_len: usize,
    /// Bytes of the xattrs behind it.
    pub(crate) xattr_len: usize,
}

impl Inode {
    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// The permission bits with set-user-ID, set-group-ID and sticky.
    pub fn permissions(&self) -> u16 {
        self.mode & 0o7777
    }

    /// Reads the inode `nid` from `bytes`: at least 32, and 64 if it is extended.
    pub(super) fn decode(
        nid: Nid,
        bytes: &[u8],
        superblock: &Superblock,
    ) -> Result<Self, ErofsError> {
        let corrupt = |why| ErofsError::Corrupt { what: "inode", why };
        let mode = bytes.get(4..).and_then(|rest| Fields(rest).u16());
        let kind = mode.and_then(FileKind::of_mode);
        let kind = kind.ok_or_else(|| corrupt("its mode names no kind of file"))?;
        fields(nid, kind, bytes, superblock).ok_or_else(|| corrupt("it is cut short"))
    }

    /// Whether the record that begins with `bytes` is an extended one, and thus 64 bytes long.
    pub(super) fn is_extended(bytes: &[u8]) -> bool {
        bytes.first().is_some_and(|byte| byte & 1 != 0)
    }
}

fn fields(nid: Nid, kind: FileKind, bytes: &[u8], superblock: &Superblock) -> Option<Inode> {
    let mut record = Fields(bytes);
    let format = record.u16()?;
    let extended = format & 1 != 0;
    let xattr_units = record.u16()?;
    let mode = record.u16()?;
    let (nlink, size);
    if extended {
        record.u16()?;
        nlink = None;
        size = record.u64()?;
    } else {
        nlink = Some(u32::from(record.u16()?));
        size = u64::from(record.u32()?);
        record.u32()?;
    }
    let start = record.u32()?;
    let _inode_number = record.u32()?;
    let (uid, gid, mtime, mtime_nsec, links);
    if extended {
        uid = record.u32()?;
        gid = record.u32()?;
        mtime = record.u64()?.cast_signed();
        mtime_nsec = record.u32()?;
        links = record.u32()?;
    } else {
        uid = u32::from(record.u16()?);
        gid = u32::from(record.u16()?);
        mtime = superblock.build_time;
        mtime_nsec = superblock.build_time_nsec;
        links = nlink?;
    }
    let is_device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
    Some(Inode {
        nid,
        mode,
        kind,
        uid,
        gid,
        size,
        mtime,
        mtime_nsec,
        nlink: links,
        rdev: if is_device { start } else { 0 },
        start_block: start,
        layout: match (format >> 1) & 7 {
            0 => DataLayout::Plain,
            2 => DataLayout::Inline,
            _ => DataLayout::Foreign,
        },
        record_len: if extended {
            EXTENDED_INODE_LEN
        } else {
            COMPACT_INODE_LEN
        },
        xattr_len: super::xattr::len_of_units(xattr_units),
    })
}
