//! Some blocks on their way through compression, together because handing over each alone would cost more than it gains.

use std::io;

use super::checksum::{BLOCK_SEED, raw_crc32c};
use super::codec::BlockEncoder;
use super::{CRC_LEN, MAX_BLOCK_LEN};

/// Plain bytes of a full batch: a millisecond of work, and small enough that dozens of them are no memory to speak of.
const BATCH_LEN: usize = 256 << 10;
const _: () = assert!(BATCH_LEN.is_multiple_of(MAX_BLOCK_LEN as usize));

/// Consecutive blocks, plain at first and also stored once they were compressed.
#[derive(Debug)]
pub(super) struct Batch {
    block_len: usize,
    plain: Vec<u8>,
    /// How many blocks stand before each cut.
    cuts: Vec<usize>,
    /// Room for all blocks as stored, used up to the last of `ends`.
    stored: Vec<u8>,
    /// Where each stored block ends.
    ends: Vec<usize>,
}

/// What a compressed batch holds, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A stored block with its CRC.
    Block(&'a [u8]),
    /// The next block begins a chunk.
    Cut,
}

impl Batch {
    /// An empty one, for blocks of `block_len` bytes.
    pub(super) fn new(block_len: usize) -> Self {
        Self {
            block_len,
            plain: Vec::with_capacity(BATCH_LEN),
            cuts: Vec::new(),
            stored: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// Takes as many of `plain` as there is room for; returns the others.
    pub(super) fn fill<'p>(&mut self, plain: &'p [u8]) -> &'p [u8] {
        let room = BATCH_LEN.saturating_sub(self.plain.len());
        let (now, later) = plain.split_at_checked(room).unwrap_or((plain, &[]));
        self.plain.extend_from_slice(now);
        later
    }

    pub(super) fn is_full(&self) -> bool {
        self.plain.len() >= BATCH_LEN
    }

    /// Whether there is anything to write.
    pub(super) fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.cuts.is_empty()
    }

    /// Fills the open block with zeros and cuts behind it; returns how many zeros that took.
    pub(super) fn cut(&mut self) -> usize {
        let before = self.plain.len();
        let padded = before.next_multiple_of(self.block_len);
        self.plain.resize(padded, 0);
        let count = padded / self.block_len;
        // Two cuts at one place are one.
        if self.cuts.last() != Some(&count) {
            self.cuts.push(count);
        }
        padded.saturating_sub(before)
    }

    /// Compresses the blocks, the last one as short as it is.
    pub(super) fn compress(&mut self, encoder: &mut BlockEncoder) -> io::Result<()> {
        let count = self.plain.len().div_ceil(self.block_len);
        let bound = BlockEncoder::bound(self.block_len).saturating_add(CRC_LEN);
        let room = count.saturating_mul(bound);
        if self.stored.len() < room {
            self.stored.resize(room, 0);
        }
        self.ends.clear();
        let mut rest = self.stored.as_mut_slice();
        let mut end = 0_usize;
        for block in self.plain.chunks(self.block_len) {
            let len = encoder.encode(block, rest)?;
            let too_long = || io::Error::other("a block outgrew its bound");
            let (stored, after) = rest.split_at_mut_checked(len).ok_or_else(too_long)?;
            let (crc, after) = after.split_first_chunk_mut().ok_or_else(too_long)?;
            *crc = raw_crc32c(BLOCK_SEED, stored).to_le_bytes();
            end = end.saturating_add(len).saturating_add(CRC_LEN);
            self.ends.push(end);
            rest = after;
        }
        Ok(())
    }

    /// What was compressed.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let mut cuts = self.cuts.iter().peekable();
        let (mut number, mut start) = (0_usize, 0);
        core::iter::from_fn(move || {
            if cuts.next_if(|before| **before <= number).is_some() {
                return Some(Piece::Cut);
            }
            let end = *self.ends.get(number)?;
            let block = self.stored.get(start..end)?;
            number = number.saturating_add(1);
            start = end;
            Some(Piece::Block(block))
        })
    }

    /// Makes it empty; its room stays.
    pub(super) fn clear(&mut self) {
        self.plain.clear();
        self.cuts.clear();
        self.ends.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Codec;

    #[test]
    fn blocks_and_cuts_come_out_in_the_order_in_which_they_went_in() {
        let mut batch = Batch::new(4096);
        let mut encoder = BlockEncoder::new(Codec::Lz4, 0).unwrap();
        assert_eq!(batch.cut(), 0);
        assert!(batch.fill(&[1; 5000]).is_empty());
        assert_eq!(batch.cut(), 2 * 4096 - 5000);
        assert!(batch.fill(&[2; 10]).is_empty());
        assert_eq!(batch.cut() + 10, 4096);
        assert_eq!(batch.cut(), 0);
        assert!(batch.fill(&[3; 10]).is_empty());
        batch.compress(&mut encoder).unwrap();
        let shape: String = batch
            .pieces()
            .map(|piece| if piece == Piece::Cut { '|' } else { 'b' })
            .collect();
        assert_eq!(shape, "|bb|b|b");
        batch.clear();
        assert!(batch.is_empty());
        batch.compress(&mut encoder).unwrap();
        assert_eq!(batch.pieces().next(), None);
    }

    #[test]
    fn a_full_batch_gives_back_what_it_cannot_take() {
        let mut batch = Batch::new(32 << 10);
        let plain = vec![3; BATCH_LEN + 5];
        assert_eq!(batch.fill(&plain).len(), 5);
        assert!(batch.is_full());
    }
}
