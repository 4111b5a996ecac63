//! Encoding the metadata of the whole tree into its places.
//!
//! All of it, each time: the image of the metadata knows which bytes are new, so nothing here has to remember what a
//! layer touched, and nothing can be forgotten.

use super::ConvertError;
use super::metadata::MetadataImage;
use super::place::{Plan, names_of};
use crate::erofs::{
    BLOCK_LEN, CHECKSUM_OFFSET, DataLayout, Dirent, FileKind, InodeRecord, Nid, ROOT_NID, SLOT_LEN,
    SUPERBLOCK_OFFSET, Superblock, checksum, encode_block,
};
use crate::tree::{Content, EntriesPlace, Node, NodeId, Tree};

/// Puts the superblock, all inodes and all directories into `metadata`.
pub(super) fn emit(
    tree: &Tree,
    plans: &[Plan],
    block_count: u64,
    metadata: &mut MetadataImage,
) -> Result<(), ConvertError> {
    for plan in plans {
        put_directory(tree, plan, metadata);
        for (_, child) in tree.children_of(plan.directory) {
            put_file(tree.node(child), metadata);
        }
    }
    let block_count = u32::try_from(block_count).map_err(|_| ConvertError::TooLarge)?;
    let superblock = Superblock::of_ours(ROOT_NID, tree.node_count() as u64, block_count);
    put_superblock(&superblock, metadata);
    Ok(())
}

/// The checksum covers the root inode too, so this comes last.
fn put_superblock(superblock: &Superblock, metadata: &mut MetadataImage) {
    let encoded = superblock.encode();
    let (head, rest) = encoded.split_at(CHECKSUM_OFFSET);
    let after = rest.get(4..).unwrap_or_default();
    metadata.put(SUPERBLOCK_OFFSET, head);
    let checksum_at = SUPERBLOCK_OFFSET + CHECKSUM_OFFSET as u64;
    metadata.put(checksum_at + 4, after);
    let start = usize::try_from(SUPERBLOCK_OFFSET).unwrap_or_default();
    let covered = metadata.block(0).and_then(|block| block.get(start..));
    let sum = checksum(covered.unwrap_or_default());
    metadata.put(checksum_at, &sum.to_le_bytes());
}

fn nid(node: &Node) -> Nid {
    // Everything has a place by now.
    node.place.map_or(ROOT_NID, |place| place.nid)
}

fn put_directory(tree: &Tree, plan: &Plan, metadata: &mut MetadataImage) {
    let node = tree.node(plan.directory);
    let Some(directory) = node.directory() else {
        return;
    };
    let entries = entries(tree, plan);
    let mut blocks = Vec::with_capacity(plan.ends.len());
    let mut start = 0;
    for end in &plan.ends {
        let mut block = Vec::new();
        encode_block(entries.get(start..*end).unwrap_or_default(), &mut block);
        blocks.push(block);
        start = *end;
    }
    let full = BLOCK_LEN * (blocks.len() as u64).saturating_sub(1);
    let size = full + blocks.last().map_or(0, Vec::len) as u64;
    let subdirectories = entries
        .iter()
        .filter(|entry| entry.kind == FileKind::Directory);
    // `.` and `..` are among them, and count the same.
    let nlink = u32::try_from(subdirectories.count()).unwrap_or(u32::MAX);
    match directory.entries {
        EntriesPlace::Blocks { start, .. } => {
            for (index, block) in (u64::from(start)..).zip(&mut blocks) {
                // What follows the names must be zeros, whatever stood there before.
                block.resize(usize::try_from(BLOCK_LEN).unwrap_or_default(), 0);
                metadata.put(index * BLOCK_LEN, block);
            }
            put_inode(node, DataLayout::Plain, size, start, nlink, &[], metadata);
        }
        EntriesPlace::Inline | EntriesPlace::Unplaced => {
            let inline = blocks.concat();
            put_inode(node, DataLayout::Inline, size, 0, nlink, &inline, metadata);
        }
    }
}

/// The entries of a directory in their order.
fn entries<'t>(tree: &'t Tree, plan: &Plan) -> Vec<Dirent<'t>> {
    let own = |id: NodeId, name| Dirent {
        name,
        nid: nid(tree.node(id)),
        kind: FileKind::Directory,
    };
    let mut children = tree.children_of(plan.directory);
    let entry = |name: &'t [u8]| match name {
        b"." => Some(own(plan.directory, name)),
        b".." => Some(own(plan.parent, name)),
        _ => {
            let (name, id) = children.next()?;
            let node = tree.node(id);
            Some(Dirent {
                name,
                nid: nid(node),
                kind: node.kind(),
            })
        }
    };
    names_of(tree, plan.directory)
        .into_iter()
        .filter_map(entry)
        .collect()
}

/// Puts an inode that is no directory.
fn put_file(node: &Node, metadata: &mut MetadataImage) {
    let plain = DataLayout::Plain;
    match &node.content {
        Content::Directory(_) => {}
        Content::File { size, block } => {
            put_inode(node, plain, *size, *block, node.names, &[], metadata);
        }
        Content::Symlink { target, block } => {
            let size = target.len() as u64;
            if let Some(block) = block {
                metadata.put(u64::from(*block) * BLOCK_LEN, target);
                put_inode(node, plain, size, *block, node.names, &[], metadata);
            } else {
                put_inode(
                    node,
                    DataLayout::Inline,
                    size,
                    0,
                    node.names,
                    target,
                    metadata,
                );
            }
        }
        Content::CharDevice(number) | Content::BlockDevice(number) => {
            put_inode(node, plain, 0, *number, node.names, &[], metadata);
        }
        Content::Fifo | Content::Socket => {
            put_inode(node, plain, 0, 0, node.names, &[], metadata);
        }
    }
}

fn put_inode(
    node: &Node,
    layout: DataLayout,
    size: u64,
    start: u32,
    nlink: u32,
    inline: &[u8],
    metadata: &mut MetadataImage,
) {
    let attributes = &node.attributes;
    let nid = nid(node);
    let xattrs = attributes.xattrs.bytes();
    let record = InodeRecord {
        layout,
        xattr_len: xattrs.len(),
        mode: node.kind().mode_bits() | attributes.permissions,
        size,
        start,
        nid,
        uid: attributes.uid,
        gid: attributes.gid,
        mtime: attributes.mtime.seconds,
        mtime_nsec: attributes.mtime.nanoseconds,
        nlink,
    };
    let mut bytes = Vec::with_capacity(64 + xattrs.len() + inline.len());
    record.encode(&mut bytes);
    bytes.extend(xattrs);
    bytes.extend(inline);
    metadata.put(nid.0 * SLOT_LEN, &bytes);
}
