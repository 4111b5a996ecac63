//! Reading a filesystem from any [`ReadAt`], ours or another writer's, friendly or hostile.
//!
//! Every length comes from outside: nothing is allocated by it before the device is known to be long enough, and
//! what the device could be made to claim cheaply (it may be compressed zeros) has a fixed bound besides.

use std::io;

use thiserror::Error;

use super::dirent::{DirEntry, Dirent, decode_block};
use super::fields::Fields;
use super::inode::{DataLayout, EXTENDED_INODE_LEN, Inode};
use super::kind::FileKind;
use super::superblock::SUPERBLOCK_OFFSET;
use super::xattr::{self, Xattr};
use super::{MAX_SYMLINK_LEN, Nid, SLOT_LEN, Superblock};
use crate::read_at::ReadAt;

/// Largest directory that is read, in bytes: ten million entries, more than any directory of an image.
const MAX_DIRECTORY_LEN: u64 = 256 << 20;
/// Longest block of any filesystem that is read, in bytes.
const MAX_BLOCK_LEN: u64 = 64 << 10;

/// Why a filesystem could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ErofsError {
    /// The device under it failed.
    #[error("cannot read the device under the filesystem")]
    Read(#[source] io::Error),
    /// The bytes contradict themselves or the device's length.
    #[error("the filesystem's {what} is corrupt: {why}")]
    Corrupt {
        /// Which structure.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The bytes may be right, but only other readers know them.
    #[error("the filesystem uses {what}, which is not supported")]
    Unsupported {
        /// What it uses.
        what: &'static str,
    },
    /// A path names nothing.
    #[error("no such file: {path}")]
    NotFound {
        /// The path that was looked up, unprintable bytes replaced.
        path: String,
    },
    /// Something is not the kind of file that the call needs.
    #[error("inode {} is not a {wanted}", .nid.0)]
    WrongKind {
        /// Which inode.
        nid: Nid,
        /// What it would have to be.
        wanted: &'static str,
    },
}

pub(super) fn corrupt(what: &'static str, why: &'static str) -> ErofsError {
    ErofsError::Corrupt { what, why }
}

/// A mounted filesystem, so to speak: its superblock is read and checked, everything else is read when asked for.
#[derive(Debug)]
pub struct Filesystem<R> {
    device: R,
    superblock: Superblock,
}

impl<R: ReadAt> Filesystem<R> {
    /// Reads and checks the superblock of `device`.
    pub fn open(device: R) -> Result<Self, ErofsError> {
        let available = device.len().saturating_sub(SUPERBLOCK_OFFSET);
        let len = usize::try_from(available.min(MAX_BLOCK_LEN)).unwrap_or_default();
        let mut head = vec![0; len];
        if len > 0 {
            device
                .read_exact_at(SUPERBLOCK_OFFSET, &mut head)
                .map_err(ErofsError::Read)?;
        }
        let superblock = Superblock::decode(&head)?;
        Ok(Self { device, superblock })
    }

    /// What the filesystem lies on.
    pub fn device(&self) -> &R {
        &self.device
    }

    /// The superblock.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The root directory.
    pub fn root(&self) -> Result<Inode, ErofsError> {
        let root = self.inode(self.superblock.root)?;
        if root.is_dir() {
            Ok(root)
        } else {
            Err(corrupt("root inode", "it is not a directory"))
        }
    }

    /// The inode `nid`.
    pub fn inode(&self, nid: Nid) -> Result<Inode, ErofsError> {
        let at = self.inode_offset(nid)?;
        let mut bytes = [0; EXTENDED_INODE_LEN];
        let (head, rest) = bytes.split_at_mut(EXTENDED_INODE_LEN / 2);
        self.read_device(at, head)?;
        if Inode::is_extended(head) {
            self.read_device(at + SLOT_LEN, rest)?;
        }
        Inode::decode(nid, &bytes, &self.superblock)
    }

    pub(super) fn directory_blocks(&self, dir: &Inode) -> Result<u64, ErofsError> {
        if !dir.is_dir() {
            return Err(ErofsError::WrongKind {
                nid: dir.nid,
                wanted: "directory",
            });
        }
        if dir.size > MAX_DIRECTORY_LEN {
            return Err(corrupt("directory", "it is longer than any directory"));
        }
        Ok(dir.size.div_ceil(self.superblock.block_len()))
    }

    pub(super) fn directory_block<'b>(
        &self,
        dir: &Inode,
        index: u64,
        block: &'b mut Vec<u8>,
    ) -> Result<Vec<Dirent<'b>>, ErofsError> {
        let offset = index * self.superblock.block_len();
        let len = self
            .superblock
            .block_len()
            .min(dir.size.saturating_sub(offset));
        block.resize(usize::try_from(len).unwrap_or_default(), 0);
        self.read(dir, offset, block)?;
        decode_block(block).ok_or_else(|| corrupt("directory", "its entries contradict each other"))
    }

    /// All entries of `dir` but `.` and `..`, in the order of their names. A directory that has another order is
    /// refused: a look-up by halving, the kernel's too, would miss names that a listing shows.
    pub fn read_dir(&self, dir: &Inode) -> Result<Vec<DirEntry>, ErofsError> {
        let mut out = Vec::new();
        let mut block = Vec::new();
        let mut last = Vec::new();
        for index in 0..self.directory_blocks(dir)? {
            for entry in self.directory_block(dir, index, &mut block)? {
                if *entry.name <= *last {
                    return Err(corrupt("directory", "its names are not in order"));
                }
                last.clear();
                last.extend_from_slice(entry.name);
                if entry.name != b"." && entry.name != b".." {
                    out.push(DirEntry {
                        name: entry.name.to_vec(),
                        nid: entry.nid,
                        kind: entry.kind,
                    });
                }
            }
        }
        Ok(out)
    }

    /// Reads a regular file, directory or symlink from `offset`; returns how many bytes of `buf` were filled, fewer
    /// than asked for only where the file ends.
    pub fn read(&self, inode: &Inode, offset: u64, buf: &mut [u8]) -> Result<usize, ErofsError> {
        if !matches!(
            inode.kind,
            FileKind::Regular | FileKind::Directory | FileKind::Symlink
        ) {
            return Err(ErofsError::WrongKind {
                nid: inode.nid,
                wanted: "file with content",
            });
        }
        let left = usize::try_from(inode.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = left.min(buf.len());
        let Some(buf) = buf.get_mut(..len).filter(|buf| !buf.is_empty()) else {
            return Ok(0);
        };
        // Where the part in blocks ends and the tail behind the inode begins.
        let tail_start = match inode.layout {
            DataLayout::Plain => u64::MAX,
            DataLayout::Inline => inode.size - inode.size % self.superblock.block_len(),
            DataLayout::Foreign => {
                return Err(ErofsError::Unsupported {
                    what: "compressed or chunked file data",
                });
            }
        };
        let in_blocks = usize::try_from(tail_start.saturating_sub(offset)).unwrap_or(usize::MAX);
        let (blocks, tail) = buf.split_at_mut(in_blocks.min(len));
        if !blocks.is_empty() {
            let start = u64::from(inode.start_block) * self.superblock.block_len();
            let at = start
                .checked_add(offset)
                .ok_or_else(|| corrupt("inode", "its data is out of reach"))?;
            self.read_device(at, blocks)?;
        }
        if !tail.is_empty() {
            let head_len = (inode.record_len + inode.xattr_len) as u64;
            let at = self.inode_offset(inode.nid)? + head_len + offset.max(tail_start) - tail_start;
            self.read_device(at, tail)?;
        }
        Ok(len)
    }

    /// The target of a symlink.
    pub fn read_link(&self, inode: &Inode) -> Result<Vec<u8>, ErofsError> {
        if inode.kind != FileKind::Symlink {
            return Err(ErofsError::WrongKind {
                nid: inode.nid,
                wanted: "symlink",
            });
        }
        let len = usize::try_from(inode.size)
            .ok()
            .filter(|len| *len <= MAX_SYMLINK_LEN)
            .ok_or_else(|| corrupt("symlink", "its target is longer than any path"))?;
        let mut target = vec![0; len];
        self.read(inode, 0, &mut target)?;
        Ok(target)
    }

    /// The extended attributes of `inode`, sorted by name.
    pub fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>, ErofsError> {
        let unknown = || {
            corrupt(
                "xattrs",
                "they overrun their space or use an unknown prefix",
            )
        };
        let at = self.inode_offset(inode.nid)? + inode.record_len as u64;
        // At most 65,535 units of four bytes.
        let mut bytes = vec![0; inode.xattr_len];
        self.read_device(at, &mut bytes)?;
        let inline = xattr::decode(&bytes).ok_or_else(unknown)?;
        let mut out = inline.xattrs;
        for place in inline.shared {
            let at = u64::from(self.superblock.xattr_block) * self.superblock.block_len()
                + u64::from(place) * xattr::ENTRY_LEN as u64;
            let mut head = [0; xattr::ENTRY_LEN];
            self.read_device(at, &mut head)?;
            let (name_len, index, value_len) =
                xattr::entry_head(&mut Fields(&head)).ok_or_else(unknown)?;
            let mut body = vec![0; name_len + value_len];
            self.read_device(at + xattr::ENTRY_LEN as u64, &mut body)?;
            let value = body.split_off(name_len);
            let name = xattr::whole_name(index, &body).ok_or_else(unknown)?;
            out.push(Xattr { name, value });
        }
        out.sort();
        Ok(out)
    }

    fn inode_offset(&self, nid: Nid) -> Result<u64, ErofsError> {
        let start = u64::from(self.superblock.meta_block) * self.superblock.block_len();
        nid.0
            .checked_mul(SLOT_LEN)
            .and_then(|offset| offset.checked_add(start))
            .filter(|at| *at < self.device.len())
            .ok_or_else(|| corrupt("inode number", "it lies outside the device"))
    }

    fn read_device(&self, at: u64, buf: &mut [u8]) -> Result<(), ErofsError> {
        let end = at.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.device.len()) {
            return Err(corrupt("layout", "it points outside the device"));
        }
        self.device.read_exact_at(at, buf).map_err(ErofsError::Read)
    }
}
