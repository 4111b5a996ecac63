//! Copying file data from the tar to the device, once, in large pieces and without its zeros.
//!
//! A long run of zeros is not written: its addresses were never used by any layer, so they read as zeros anyway. A short
//! one is, and so is the rest of a file's last block: one mapping over consecutive small files costs less than
//! one for each of them, and zeros compress to nothing.

use std::io::{Read, Seek, Write};

use super::ConvertError;
use crate::address::Sector;
use crate::erofs::BLOCK_LEN;
use crate::layer::LayerWriter;
use crate::layer_tar::LayerTar;

const BLOCK: usize = 4096;
const _: () = assert!(BLOCK as u64 == BLOCK_LEN);

/// Blocks of zeros that are worth two mappings instead of one: as many as are compressed at once.
const LONG_RUN: usize = 8;

/// One file's data on its way.
pub(super) struct FileData<'a, W: Write + Seek> {
    /// Where on the device the file begins.
    start: u64,
    out: &'a mut LayerWriter<W>,
    /// Whole blocks.
    buffer: &'a mut [u8],
    /// Where in the file the buffer begins: on a block's edge.
    base: u64,
    filled: usize,
}

impl<'a, W: Write + Seek> FileData<'a, W> {
    /// `start` is the byte of the device where the file begins, on a block's edge; `buffer` holds whole blocks.
    pub(super) fn new(start: u64, buffer: &'a mut [u8], out: &'a mut LayerWriter<W>) -> Self {
        Self {
            start,
            out,
            buffer,
            base: 0,
            filled: 0,
        }
    }

    /// Copies all data of the tar's current file.
    pub(super) fn copy<R: Read>(mut self, tar: &mut LayerTar<R>) -> Result<(), ConvertError> {
        while let Some(offset) = tar.data_offset() {
            self.advance(offset)?;
            let free = self.buffer.get_mut(self.filled..).unwrap_or_default();
            self.filled += tar.read_data(free)?;
            if self.filled == self.buffer.len() {
                self.flush()?;
            }
        }
        self.flush()
    }

    /// Passes over a hole, so that the next byte belongs at `offset` of the file.
    fn advance(&mut self, offset: u64) -> Result<(), ConvertError> {
        let room = (self.buffer.len() - self.filled) as u64;
        if offset.saturating_sub(self.base + self.filled as u64) >= room {
            self.flush()?;
            self.base = offset - offset % BLOCK_LEN;
        }
        let target = usize::try_from(offset.saturating_sub(self.base)).unwrap_or_default();
        if let Some(hole) = self.buffer.get_mut(self.filled..target) {
            hole.fill(0);
            self.filled = target;
        }
        Ok(())
    }

    /// Writes what the buffer holds, its last block filled with zeros.
    fn flush(&mut self) -> Result<(), ConvertError> {
        let end = self.filled.next_multiple_of(BLOCK);
        if let Some(padding) = self.buffer.get_mut(self.filled..end) {
            padding.fill(0);
        }
        let held = self.buffer.get(..end).unwrap_or_default();
        let mut at = self.start + self.base;
        // Runs of blocks that are all zeros or all not.
        for run in held
            .as_chunks::<BLOCK>()
            .0
            .chunk_by(|a, b| is_zero(a) == is_zero(b))
        {
            let bytes = run.as_flattened();
            if run.len() < LONG_RUN || run.first().is_some_and(|block| !is_zero(block)) {
                self.out.write(Sector::of_byte(at), bytes)?;
            }
            at += bytes.len() as u64;
        }
        self.base += end as u64;
        self.filled = 0;
        Ok(())
    }
}

fn is_zero(block: &[u8; BLOCK]) -> bool {
    *block == [0; BLOCK]
}
