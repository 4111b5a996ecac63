//! Going on above layers that were converted before, without their tars.
//!
//! What a converter knows after a layer stands in the layer: the filesystem of the layers up to there is whole, and its
//! metadata says where everything is. Two things it does not say: how many bytes an inode was given, and how many blocks a
//! directory, when they got their places. But a place is never used twice and lies in the region of the layer that
//! gave it, so the filesystem of the layers up to that one shows what was given. In the end the rebuilt state is put
//! through what a layer without entries does: if that changes a byte, the layers are not ours to go on from.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use super::directory::reserve_for;
use super::metadata::BLOCK;
use super::{Below, ConvertError, Converter, emit, place};
use crate::digest::Digest;
use crate::disk::Disk;
use crate::erofs::{
    BLOCK_LEN, DataLayout, ErofsError, FileKind, Filesystem, Inode, Nid, ROOT_NID, SLOT_LEN,
    XattrError, XattrSet,
};
use crate::layer::OpenLayerError;
use crate::layer_tar::Timestamp;
use crate::read_at::ReadAt;
use crate::tree::{Attributes, Content, Directory, EntriesPlace, Node, NodeId, Place, ROOT};

/// Raised with every change after which equal tars and options give other layers: those of another edition are not gone on
/// from.
pub const EDITION: u32 = 2;

/// Decompressed blocks that are kept of the whole device, which is walked, and of each lower part of it, which is looked
/// into here and there.
const CACHE_LEN: u64 = 32 << 20;
const PART_CACHE_LEN: u64 = 1 << 20;

/// Most blocks of one directory: as many as are read of any.
const MAX_DIRECTORY_BLOCKS: u32 = 1 << 16;

/// A layer that was converted before.
#[derive(Clone)]
pub struct LowerLayer {
    /// Its blob. What is read of it must be verified by whoever gives it.
    pub blob: Arc<dyn ReadAt>,
    /// Digest of its chunk table, which names the layer above.
    pub chunks: Digest,
}

impl fmt::Debug for LowerLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LowerLayer")
            .field("chunks", &self.chunks)
            .finish_non_exhaustive()
    }
}

/// Why a conversion could not go on above given layers.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ResumeError {
    /// The blobs are no layers.
    #[error("cannot open the lower layers")]
    Open(#[source] OpenLayerError),
    /// Their filesystem could not be read.
    #[error("cannot read the filesystem of the lower layers")]
    Read(#[from] ErofsError),
    /// Their filesystem holds what this converter does not write.
    #[error("the lower layers were not converted by this version: {what}")]
    NotOurs {
        /// What is different.
        what: &'static str,
    },
}

impl Converter {
    /// Goes on above `layers`, the bottom one first, as if this converter had converted their tars. Only their metadata is
    /// read.
    ///
    /// # Errors
    /// If the layers cannot be read, or are not what this converter makes. The caller converts them again then.
    pub fn resume(mut self, layers: &[LowerLayer]) -> Result<Self, ResumeError> {
        let parts = Parts::open(layers)?;
        for (layer, opened) in layers.iter().zip(parts.top.device().layers()) {
            let uuid = self.uuid();
            if opened.uuid() != uuid {
                return Err(not_ours("a layer's name does not follow from those below"));
            }
            self.below = Some(Below {
                uuid,
                chunks: layer.chunks,
            });
        }
        let block_count = u64::from(parts.top.superblock().block_count);
        if parts.top.device().len() != block_count * BLOCK_LEN {
            return Err(not_ours("the device is longer than its filesystem"));
        }
        self.block_count = block_count;
        self.rebuild(&parts)?;
        self.load(0, 1, &parts)?;

        let plans = place::place(&mut self.tree, &mut self.metadata, &mut self.block_count);
        let plans = plans.map_err(refused)?;
        emit::emit(&self.tree, &plans, self.block_count, &mut self.metadata).map_err(refused)?;
        if self.block_count != block_count || self.metadata.has_changes() {
            return Err(not_ours("its metadata would be laid out differently"));
        }
        Ok(self)
    }

    /// Makes the tree from the filesystem of all layers.
    fn rebuild(&mut self, parts: &Parts) -> Result<(), ResumeError> {
        let mut files: BTreeMap<Nid, NodeId> = BTreeMap::new();
        // Directories from the root down to the one that the walk is in.
        let mut open: Vec<NodeId> = Vec::new();
        for step in parts.top.walk() {
            let step = step?;
            let Some((parent, name)) = split(&step.path) else {
                let node = self.node(parts, &step.inode, &step.path)?;
                self.tree.graft_root(node);
                open.push(ROOT);
                continue;
            };
            open.truncate(parent + 1);
            let directory = open.last().copied().unwrap_or(ROOT);
            if let Some(known) = files.get(&step.inode.nid) {
                self.tree.graft_name(directory, name, *known);
                continue;
            }
            let node = self.node(parts, &step.inode, &step.path)?;
            let id = self.tree.graft(directory, name, node);
            if step.inode.is_dir() {
                open.push(id);
            } else {
                files.insert(step.inode.nid, id);
            }
        }
        Ok(())
    }

    /// An inode as the converter knows it; what stands on the device for it is loaded.
    fn node(&mut self, parts: &Parts, inode: &Inode, path: &[u8]) -> Result<Node, ResumeError> {
        let xattrs = parts.top.xattrs(inode)?.into_iter();
        let xattrs = xattrs.map(|xattr| (xattr.name, xattr.value)).collect();
        let xattrs = XattrSet::new(&xattrs).map_err(|_: XattrError| not_ours("its xattrs"))?;
        let attributes = Attributes {
            permissions: inode.permissions(),
            uid: inode.uid,
            gid: inode.gid,
            mtime: Timestamp {
                seconds: inode.mtime,
                nanoseconds: inode.mtime_nsec,
            },
            xattrs,
        };
        let place = parts.place(inode)?;
        let start = place.nid.0 * SLOT_LEN;
        let end = start + u64::from(place.len).max(1);
        self.load(start / BLOCK_LEN, end.div_ceil(BLOCK_LEN), parts)?;
        let content = self.content(parts, inode, path)?;
        Ok(Node::standing(attributes, content, place))
    }

    fn content(
        &mut self,
        parts: &Parts,
        inode: &Inode,
        path: &[u8],
    ) -> Result<Content, ResumeError> {
        let in_blocks = match inode.layout {
            DataLayout::Plain => true,
            DataLayout::Inline => false,
            DataLayout::Foreign => return Err(not_ours("compressed files")),
        };
        let block = inode.start_block;
        Ok(match inode.kind {
            FileKind::Regular => Content::File {
                size: inode.size,
                block,
            },
            FileKind::Directory => {
                let entries = if in_blocks {
                    let reserved = reserve_for(parts.first_block_count(inode, path)?);
                    self.load(
                        u64::from(block),
                        u64::from(block) + u64::from(reserved),
                        parts,
                    )?;
                    EntriesPlace::Blocks {
                        start: block,
                        used: blocks_of(inode)?,
                        reserved,
                    }
                } else {
                    EntriesPlace::Inline
                };
                Content::Directory(Box::new(Directory::at(entries)))
            }
            FileKind::Symlink => {
                if in_blocks {
                    self.load(u64::from(block), u64::from(block) + 1, parts)?;
                }
                Content::Symlink {
                    target: parts.top.read_link(inode)?.into_boxed_slice(),
                    block: in_blocks.then_some(block),
                }
            }
            FileKind::CharDevice => Content::CharDevice(inode.rdev),
            FileKind::BlockDevice => Content::BlockDevice(inode.rdev),
            FileKind::Fifo => Content::Fifo,
            FileKind::Socket => Content::Socket,
        })
    }

    /// Takes the blocks from `start` to `end` as metadata that the lower layers have.
    fn load(&mut self, start: u64, end: u64, parts: &Parts) -> Result<(), ResumeError> {
        for index in start..end {
            let Ok(number) = u32::try_from(index) else {
                return Err(not_ours("blocks beyond any device"));
            };
            if self.metadata.block(number).is_none() {
                let mut block = [0; BLOCK];
                let read = parts.top.device().read_at(index * BLOCK_LEN, &mut block);
                read.map_err(ErofsError::Read)?;
                self.metadata.load(number, &block);
            }
        }
        Ok(())
    }
}

/// The filesystems of the lowest layer, of the lowest two, and so on.
struct Parts {
    /// Those of fewer than all layers, with the block behind the region of the last.
    lower: Vec<(u32, Filesystem<Disk>)>,
    top: Filesystem<Disk>,
}

impl Parts {
    fn open(layers: &[LowerLayer]) -> Result<Self, ResumeError> {
        let open = |count: usize, cache_len| {
            let blobs = layers.iter().take(count).map(|layer| layer.blob.clone());
            let disk = Disk::open(blobs.collect(), cache_len).map_err(ResumeError::Open)?;
            Ok::<_, ResumeError>(Filesystem::open(disk)?)
        };
        let mut lower: Vec<(u32, Filesystem<Disk>)> = Vec::new();
        for count in 1..layers.len() {
            let part = open(count, PART_CACHE_LEN)?;
            let end = part.superblock().block_count;
            // A layer that changed nothing gave no places.
            if lower.last().is_none_or(|(before, _)| *before < end) {
                lower.push((end, part));
            }
        }
        Ok(Self {
            lower,
            top: open(layers.len(), CACHE_LEN)?,
        })
    }

    /// The filesystem as it was when `block` was given away.
    fn giving(&self, block: u64) -> &Filesystem<Disk> {
        let position = self
            .lower
            .partition_point(|(end, _)| u64::from(*end) <= block);
        self.lower.get(position).map_or(&self.top, |(_, part)| part)
    }

    /// Where an inode stands, and how many bytes it was given there.
    fn place(&self, inode: &Inode) -> Result<Place, ResumeError> {
        let nid = inode.nid;
        if nid == ROOT_NID {
            return Ok(place::root());
        }
        let given = self.giving(nid.0 * SLOT_LEN / BLOCK_LEN).inode(nid)?;
        let inline = match given.layout {
            DataLayout::Inline => given.size,
            DataLayout::Plain | DataLayout::Foreign => 0,
        };
        if inline > BLOCK_LEN {
            return Err(not_ours("more behind an inode than a block holds"));
        }
        let fixed = (given.record_len + given.xattr_len) as u64;
        let len = fixed.saturating_add(inline).next_multiple_of(SLOT_LEN);
        let len = u32::try_from(len).map_err(|_| not_ours("an inode longer than any"))?;
        Ok(Place { nid, len })
    }

    /// How many blocks a directory had when it was given those that it has.
    fn first_block_count(&self, inode: &Inode, path: &[u8]) -> Result<u32, ResumeError> {
        // It may have been another inode then, but its path was the same: what is renamed is made anew.
        let given = self.giving(u64::from(inode.start_block)).lookup(path)?;
        if given.start_block != inode.start_block || given.layout != DataLayout::Plain {
            return Err(not_ours("a directory's blocks"));
        }
        blocks_of(&given)
    }
}

fn blocks_of(directory: &Inode) -> Result<u32, ResumeError> {
    u32::try_from(directory.size.div_ceil(BLOCK_LEN))
        .ok()
        .filter(|count| *count <= MAX_DIRECTORY_BLOCKS)
        .ok_or_else(|| not_ours("a directory longer than any"))
}

/// How many directories are above an entry, the root not counted, and its name; `None` for the root itself.
fn split(path: &[u8]) -> Option<(usize, &[u8])> {
    let name = path.rsplit(|byte| *byte == b'/').next()?;
    let names = path.split(|byte| *byte == b'/').count();
    (!name.is_empty()).then_some((names - 1, name))
}

fn not_ours(what: &'static str) -> ResumeError {
    ResumeError::NotOurs { what }
}

fn refused(_: ConvertError) -> ResumeError {
    not_ours("it could not be written like that")
}
