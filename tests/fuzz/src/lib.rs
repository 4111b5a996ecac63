//! What the targets share: doing with hostile bytes all that a reader does, within bounds of time and memory.
//!
//! A target fails by a panic, by an assertion here, by taking long, or by taking much memory; errors are what it hopes for.

use std::sync::Arc;

use tranship_format::erofs::{ErofsError, Filesystem};
use tranship_format::{ByteRange, Disk, OpenLayerError, ReadAt};

/// Bytes read of one mapping or file: enough for a few blocks.
const READ_LEN: usize = 40_000;
/// Mappings and files that are read, so that an input of many small ones is not slow.
const READ_COUNT: usize = 64;

/// Opens a blob as an image of one layer and reads some of each mapping, in one piece and in two.
///
/// # Errors
/// If the blob cannot be opened.
///
/// # Panics
/// If the pieces are not what the whole is.
pub fn read_layer(blob: &[u8]) -> Result<(), OpenLayerError> {
    let blob: Arc<dyn ReadAt> = Arc::new(blob.to_vec());
    let disk = Disk::open(vec![blob], 16_384)?;
    for mapping in disk.index().mappings().iter().take(READ_COUNT) {
        let start = mapping.segment.start.byte().unwrap_or(u64::MAX);
        let len = READ_LEN.min(mapping.segment.count as usize * 512);
        let mut whole = vec![0xaa; len];
        let read = disk.read_at(start, &mut whole);
        let mut parts = vec![0x55; len];
        let (one, other) = parts.split_at_mut(len / 3);
        let there = start.saturating_add(one.len() as u64);
        if read.is_ok() {
            disk.read_at(start, one).expect("a part of what was read");
            disk.read_at(there, other).expect("a part of what was read");
            assert!(whole == parts, "a part is not what the whole is");
        }
        let _ = disk.stored_ranges(ByteRange::new(start, start.saturating_add(9_000)));
    }
    let mut end = [0; 700];
    let _ = disk.read_at(disk.len().saturating_sub(700), &mut end);
    Ok(())
}

/// Does all that can be done with a filesystem; stops at what cannot be read.
///
/// # Errors
/// The first file or directory that cannot be read.
pub fn read_filesystem<R: ReadAt>(device: R) -> Result<(), ErofsError> {
    let filesystem = Filesystem::open(device)?;
    let mut content = vec![0; READ_LEN];
    for (number, step) in filesystem.walk().enumerate() {
        let step = step?;
        if number > READ_COUNT {
            continue;
        }
        filesystem.xattrs(&step.inode)?;
        match step.inode.kind {
            tranship_format::erofs::FileKind::Regular => {
                filesystem.read(&step.inode, 0, &mut content)?;
                let last = step.inode.size.saturating_sub(1);
                filesystem.read(&step.inode, last, &mut content)?;
            }
            tranship_format::erofs::FileKind::Symlink => {
                filesystem.read_link(&step.inode)?;
            }
            _ => {}
        }
        assert_eq!(filesystem.lookup(&step.path)?, step.inode);
        let _ = filesystem.resolve(&step.path);
        let _ = filesystem.read(&step.inode, u64::MAX, &mut content);
    }
    Ok(())
}

/// Makes the checksum of each tar header right, which chance would not.
pub fn mend_tar(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(512) {
        if block[257..262] != *b"ustar" {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}
