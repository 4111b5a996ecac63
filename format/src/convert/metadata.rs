//! The metadata as it stands on the device, and which sectors of it this layer has changed.
//!
//! Keeping the bytes (about a hundred for each file) makes "only what differs is stored" a comparison instead of a rule
//! that every change would have to follow: each layer puts all its metadata, and equal bytes change nothing.

use std::collections::BTreeMap;
use std::io::{Seek, Write};

use crate::address::{SECTOR_LEN, Sector};
use crate::erofs::BLOCK_LEN;
use crate::layer::{LayerWriter, WriteLayerError};

const SECTOR: usize = 512;
pub(super) const BLOCK: usize = 4096;
const _: () = assert!(SECTOR as u64 == SECTOR_LEN && BLOCK as u64 == BLOCK_LEN);

/// All blocks that hold metadata. Blocks that were never put read as zeros.
#[derive(Debug, Default)]
pub(super) struct MetadataImage {
    blocks: BTreeMap<u32, Box<Block>>,
}

struct Block {
    bytes: [u8; BLOCK],
    /// One bit for each sector that differs from the layers below.
    changed: u8,
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Block")
            .field("changed", &self.changed)
            .finish_non_exhaustive()
    }
}

impl MetadataImage {
    /// The bytes of a block, if it holds metadata.
    pub(super) fn block(&self, index: u32) -> Option<&[u8; BLOCK]> {
        self.blocks.get(&index).map(|block| &block.bytes)
    }

    /// Puts `bytes` at `offset` of the device.
    pub(super) fn put(&mut self, offset: u64, mut bytes: &[u8]) {
        let mut offset = offset;
        while !bytes.is_empty() {
            // Devices end long before block numbers do.
            let index = u32::try_from(offset / BLOCK_LEN).unwrap_or(u32::MAX);
            let within = usize::try_from(offset % BLOCK_LEN).unwrap_or_default();
            let (part, rest) = bytes.split_at(bytes.len().min(BLOCK - within));
            let block = self.blocks.entry(index).or_insert_with(Block::zeros);
            block.put(within, part);
            offset += part.len() as u64;
            bytes = rest;
        }
    }

    /// Takes a block as the layers below have it.
    pub(super) fn load(&mut self, index: u32, bytes: &[u8; BLOCK]) {
        let mut block = Block::zeros();
        block.bytes = *bytes;
        self.blocks.insert(index, block);
    }

    /// Whether any sector differs from the layers below.
    pub(super) fn has_changes(&self) -> bool {
        self.blocks.values().any(|block| block.changed != 0)
    }

    /// Forgets blocks that nothing points to any more.
    pub(super) fn forget(&mut self, start: u32, count: u32) {
        for index in start..start.saturating_add(count) {
            self.blocks.remove(&index);
        }
    }

    /// Writes every sector that differs from the layers below, in the order of addresses. After that, none does.
    pub(super) fn write_changes<W: Write + Seek>(
        &mut self,
        out: &mut LayerWriter<W>,
    ) -> Result<(), WriteLayerError> {
        for (index, block) in &mut self.blocks {
            let changed = std::mem::take(&mut block.changed);
            if changed == 0 {
                continue;
            }
            let base = Sector::of_byte(u64::from(*index) * BLOCK_LEN).0;
            let (sectors, _) = block.bytes.as_chunks::<SECTOR>();
            let numbered: Vec<(u64, &[u8; SECTOR])> = (base..).zip(sectors).collect();
            let fate = |sector: &(u64, &[u8; SECTOR])| {
                let is_changed = changed >> (sector.0 - base) & 1 != 0;
                (is_changed, is_changed && *sector.1 == [0; SECTOR])
            };
            for run in numbered.chunk_by(|a, b| fate(a) == fate(b)) {
                let Some(first) = run.first() else { continue };
                match fate(first) {
                    (false, _) => {}
                    // It was something else below, so its zeros have to be said.
                    (true, true) => out.zero(Sector(first.0), run.len() as u64)?,
                    (true, false) => {
                        let start = usize::try_from(first.0 - base).unwrap_or_default();
                        let run = sectors.get(start..start + run.len()).unwrap_or_default();
                        out.write(Sector(first.0), run.as_flattened())?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Block {
    fn zeros() -> Box<Self> {
        Box::new(Self {
            bytes: [0; BLOCK],
            changed: 0,
        })
    }

    fn put(&mut self, within: usize, part: &[u8]) {
        let mut rest = part;
        let (sectors, _) = self.bytes.as_chunks_mut::<SECTOR>();
        let mut within = within;
        for (number, sector) in sectors.iter_mut().enumerate().skip(within / SECTOR) {
            let start = within % SECTOR;
            let (here, later) = rest.split_at(rest.len().min(SECTOR - start));
            if here.is_empty() {
                break;
            }
            if let Some(old) = sector.get_mut(start..start + here.len())
                && *old != *here
            {
                old.copy_from_slice(here);
                self.changed |= 1 << number;
            }
            within = 0;
            rest = later;
        }
    }
}
