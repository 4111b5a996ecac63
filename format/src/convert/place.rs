//! Deciding where metadata stands.
//!
//! What has a place keeps it for as long as it fits. What has none goes to the end of the device, blocks of directories
//! first, then inodes: directory by directory and depth first, the children of a directory side by side in the order of
//! their names. So listing a directory reads neighbours, and so does a program that lives in one subtree, as they do.

use super::directory::{deal, deal_anew, entry_len, reserve_for};
use super::metadata::MetadataImage;
use super::{ConvertError, reserve};
use crate::erofs::{BLOCK_LEN, EXTENDED_INODE_LEN, Nid, ROOT_NID, SLOT_LEN, decode_block};
use crate::tree::{Content, EntriesPlace, NodeId, Place, ROOT, Tree};

/// Longest inode, with its xattrs and what stands behind them, that is kept within one block. Half a block, so that at
/// most half a block is left empty in front of one.
const INLINE_LIMIT: usize = 2048;
const _: () = assert!(INLINE_LIMIT as u64 * 2 == BLOCK_LEN);

/// Bytes that the root inode has, up to the end of the superblock's block.
const ROOT_LEN: u64 = BLOCK_LEN - ROOT_NID.0 * SLOT_LEN;

/// A directory whose metadata is to be written.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) directory: NodeId,
    pub(super) parent: NodeId,
    /// Where the entries of each block end, `.` and `..` counted; a single one if they stand behind the inode.
    pub(super) ends: Vec<usize>,
}

/// Gives everything in the tree a place. Blocks are taken from `block_count` on.
pub(super) fn place(
    tree: &mut Tree,
    metadata: &mut MetadataImage,
    block_count: &mut u64,
) -> Result<Vec<Plan>, ConvertError> {
    place_root(tree)?;
    let mut plans = Vec::new();
    for (directory, parent) in tree.directories() {
        leave_outgrown(tree, directory);
        let ends = place_entries(tree, directory, metadata, block_count)?;
        place_targets(tree, directory, block_count)?;
        plans.push(Plan {
            directory,
            parent,
            ends,
        });
    }
    let mut slots = Slots {
        at: *block_count * BLOCK_LEN,
    };
    for plan in &plans {
        let children: Vec<NodeId> = tree.children_of(plan.directory).map(|(_, id)| id).collect();
        for child in children {
            if tree.node(child).place.is_none() {
                let (fixed, inline) = slot_len(tree, child);
                tree.node_mut(child).place = Some(slots.take(fixed, inline));
            }
        }
    }
    reserve(block_count, slots.block_count(*block_count))?;
    Ok(plans)
}

fn place_root(tree: &mut Tree) -> Result<(), ConvertError> {
    let len = tree.node(ROOT).attributes.xattrs.bytes().len();
    let limit = usize::try_from(ROOT_LEN).unwrap_or_default() - EXTENDED_INODE_LEN;
    if len > limit {
        return Err(ConvertError::RootXattrs { len, limit });
    }
    tree.node_mut(ROOT).place = Some(root());
    Ok(())
}

/// The root's place, which is always the same.
pub(super) fn root() -> Place {
    Place {
        nid: ROOT_NID,
        len: u32::try_from(ROOT_LEN).unwrap_or_default(),
    }
}

/// A directory whose new xattrs do not fit where it stands must move. Nothing else gets new xattrs: a file that is
/// replaced is another inode.
fn leave_outgrown(tree: &mut Tree, directory: NodeId) {
    let node = tree.node_mut(directory);
    let fixed = EXTENDED_INODE_LEN + node.attributes.xattrs.bytes().len();
    if node.place.is_some_and(|place| fixed > place.len as usize) {
        node.place = None;
        if let Some(directory) = node.directory_mut()
            && matches!(directory.entries, EntriesPlace::Inline)
        {
            directory.entries = EntriesPlace::Unplaced;
        }
    }
}

/// Decides where a directory's entries stand; returns where those of each block end.
fn place_entries(
    tree: &mut Tree,
    id: NodeId,
    metadata: &mut MetadataImage,
    block_count: &mut u64,
) -> Result<Vec<usize>, ConvertError> {
    let node = tree.node(id);
    let Some(directory) = node.directory() else {
        return Ok(Vec::new());
    };
    let names = names_of(tree, id);
    let fixed = EXTENDED_INODE_LEN + node.attributes.xattrs.bytes().len();
    let len = fixed + names.iter().map(|name| entry_len(name)).sum::<usize>();
    let (entries, ends) = match (directory.entries, node.place) {
        (
            EntriesPlace::Blocks {
                start,
                used,
                reserved,
            },
            _,
        ) => {
            let blocks = (start..start + used).map(|index| first_name(metadata, index));
            let starts: Option<Vec<&[u8]>> = blocks.collect();
            let ends = deal(&names, &starts.unwrap_or_default());
            let used = u32::try_from(ends.len()).unwrap_or(u32::MAX);
            if used <= reserved {
                (
                    EntriesPlace::Blocks {
                        start,
                        used,
                        reserved,
                    },
                    ends,
                )
            } else {
                metadata.forget(start, reserved);
                new_blocks(&names, block_count)?
            }
        }
        // An inode that has a place lies in one block if anything stands behind it, and so does what fits into it.
        (EntriesPlace::Inline, Some(place)) if len <= place.len as usize => {
            (EntriesPlace::Inline, vec![names.len()])
        }
        (EntriesPlace::Unplaced, Some(place)) if id == ROOT && len <= place.len as usize => {
            (EntriesPlace::Inline, vec![names.len()])
        }
        (EntriesPlace::Unplaced, None) if len <= INLINE_LIMIT => {
            (EntriesPlace::Inline, vec![names.len()])
        }
        _ => new_blocks(&names, block_count)?,
    };
    if let Some(directory) = tree.node_mut(id).directory_mut() {
        directory.entries = entries;
    }
    Ok(ends)
}

fn new_blocks(
    names: &[&[u8]],
    block_count: &mut u64,
) -> Result<(EntriesPlace, Vec<usize>), ConvertError> {
    let ends = deal_anew(names);
    let used = u32::try_from(ends.len()).map_err(|_| ConvertError::TooLarge)?;
    let reserved = reserve_for(used);
    let start = reserve(block_count, u64::from(reserved))?;
    Ok((
        EntriesPlace::Blocks {
            start,
            used,
            reserved,
        },
        ends,
    ))
}

/// The names of a directory's entries in their order, `.` and `..` among them.
pub(super) fn names_of(tree: &Tree, id: NodeId) -> Vec<&[u8]> {
    let mut names: Vec<&[u8]> = tree.children_of(id).map(|(name, _)| name).collect();
    for own in [&b"."[..], b".."] {
        names.insert(names.partition_point(|name| *name < own), own);
    }
    names
}

fn first_name(metadata: &MetadataImage, index: u32) -> Option<&[u8]> {
    let entries = decode_block(metadata.block(index)?)?;
    entries.first().map(|entry| entry.name)
}

/// Gives blocks to the symlinks of a directory whose targets are too long to stand behind their inodes.
fn place_targets(
    tree: &mut Tree,
    directory: NodeId,
    block_count: &mut u64,
) -> Result<(), ConvertError> {
    let long = |(_, id): (&[u8], NodeId)| {
        let node = tree.node(id);
        let fixed = EXTENDED_INODE_LEN + node.attributes.xattrs.bytes().len();
        match &node.content {
            Content::Symlink {
                target,
                block: None,
            } if fixed + target.len() > INLINE_LIMIT => Some(id),
            _ => None,
        }
    };
    let long: Vec<NodeId> = tree.children_of(directory).filter_map(long).collect();
    for id in long {
        if let Content::Symlink { block, .. } = &mut tree.node_mut(id).content {
            *block = Some(reserve(block_count, 1)?);
        }
    }
    Ok(())
}

/// Bytes of an inode with its xattrs, and of what stands behind them.
fn slot_len(tree: &Tree, id: NodeId) -> (usize, usize) {
    let node = tree.node(id);
    let fixed = EXTENDED_INODE_LEN + node.attributes.xattrs.bytes().len();
    let inline = match &node.content {
        Content::Symlink {
            target,
            block: None,
        } => target.len(),
        Content::Directory(directory) if matches!(directory.entries, EntriesPlace::Inline) => {
            names_of(tree, id).iter().map(|name| entry_len(name)).sum()
        }
        _ => 0,
    };
    (fixed, inline)
}

/// The end of the inodes that have a place.
struct Slots {
    at: u64,
}

impl Slots {
    fn take(&mut self, fixed: usize, inline: usize) -> Place {
        // What stands behind an inode must lie in one block with it. Kernels before 5.9 want the same of the inode
        // itself, though not of its xattrs.
        let unbroken = if inline > 0 {
            fixed + inline
        } else {
            EXTENDED_INODE_LEN
        } as u64;
        if self.at % BLOCK_LEN + unbroken > BLOCK_LEN {
            self.at = self.at.next_multiple_of(BLOCK_LEN);
        }
        let len = ((fixed + inline) as u64).next_multiple_of(SLOT_LEN);
        let nid = Nid(self.at / SLOT_LEN);
        self.at += len;
        Place {
            nid,
            len: u32::try_from(len).unwrap_or(u32::MAX),
        }
    }

    /// How many blocks were taken from block `start` on. The last inode does not end with the device: fsck.erofs 1.5 reads
    /// what may be the head of its xattrs before it looks whether there are any.
    fn block_count(&self, start: u64) -> u64 {
        if self.at == start * BLOCK_LEN {
            return 0;
        }
        (self.at + SLOT_LEN).div_ceil(BLOCK_LEN) - start
    }
}
