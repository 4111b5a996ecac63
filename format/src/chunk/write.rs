//! Writing a blob and cutting it into chunks on the way.

use std::io::{self, Write};

use super::{ChunkTable, ChunkTableBuilder};
use crate::digest::{ChunkHash, HashAlgorithm};

/// Passes bytes on and decides where chunks end.
#[derive(Debug)]
pub(crate) struct ChunkWriter<W> {
    out: W,
    builder: ChunkTableBuilder,
    /// Bytes that a chunk aims at.
    target: u32,
    /// Bytes written so far.
    len: u64,
}

impl<W: Write> ChunkWriter<W> {
    pub(crate) fn new(out: W, algorithm: HashAlgorithm, target: u32) -> Self {
        Self {
            out,
            builder: ChunkTableBuilder::new(algorithm),
            target,
            len: 0,
        }
    }

    /// Where the bytes go.
    pub(crate) fn inner_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// Bytes written so far.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Writes bytes that stay in one chunk, a stored block: the cut falls before or behind them, whichever is nearer to
    /// the target. The decision needs no bytes that come later, and none from before the last cut.
    pub(crate) fn write_whole(&mut self, bytes: &[u8]) -> io::Result<()> {
        let before = self.builder.open_len();
        let after = before.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        if after.saturating_sub(self.target) > self.target.saturating_sub(before) {
            self.builder.cut();
        }
        self.write_uncut(bytes)?;
        if self.builder.open_len() >= self.target {
            self.builder.cut();
        }
        Ok(())
    }

    /// Writes bytes that may be cut anywhere.
    pub(crate) fn write_any(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = self.target.saturating_sub(self.builder.open_len()).max(1) as usize;
            let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            self.write_uncut(now)?;
            if self.builder.open_len() >= self.target {
                self.builder.cut();
            }
            bytes = later;
        }
        Ok(())
    }

    /// Writes bytes that belong to the open chunk, or to a new one if the last was just cut.
    pub(crate) fn write_uncut(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.builder.update(bytes);
        self.len = self.len.saturating_add(bytes.len() as u64);
        Ok(())
    }

    /// Ends the chunk here.
    pub(crate) fn cut(&mut self) {
        self.builder.cut();
    }

    /// How many chunks there will be when bytes are added by [`write_uncut`](Self::write_uncut) and nothing after them.
    pub(crate) fn count_with_more(&self) -> u32 {
        self.builder
            .count()
            .saturating_add(u32::from(self.builder.open_len() == 0))
    }

    /// The writer and the table; `first` is the hash of the first chunk as it will be.
    pub(crate) fn finish(mut self, first: ChunkHash) -> (W, ChunkTable) {
        self.builder.cut();
        self.builder.replace_first(first);
        (self.out, self.builder.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lens(write: impl FnOnce(&mut ChunkWriter<Vec<u8>>)) -> Vec<u64> {
        let mut writer = ChunkWriter::new(Vec::new(), HashAlgorithm::Blake3, 100);
        write(&mut writer);
        let (_, table) = writer.finish(ChunkHash::from_bytes([0; 32]));
        table.all().map(|index| table.range(index).len()).collect()
    }

    #[test]
    fn cuts_fall_at_the_block_end_nearest_to_the_target() {
        let of = |blocks: &[usize]| {
            lens(|writer| {
                for len in blocks {
                    writer.write_whole(&vec![0; *len]).unwrap();
                }
            })
        };
        assert_eq!(of(&[60, 60, 60]), [120, 60]);
        assert_eq!(of(&[80, 50, 10]), [80, 60]);
        assert_eq!(of(&[100, 1]), [100, 1]);
        assert_eq!(of(&[500, 500]), [500, 500]);
        assert_eq!(of(&[1, 500]), [1, 500]);
    }

    #[test]
    fn what_may_be_cut_anywhere_is_cut_at_the_target() {
        assert_eq!(
            lens(|writer| writer.write_any(&[0; 250]).unwrap()),
            [100, 100, 50]
        );
        assert_eq!(
            lens(|writer| {
                writer.write_whole(&[0; 70]).unwrap();
                writer.write_any(&[0; 40]).unwrap();
            }),
            [100, 10]
        );
    }

    #[test]
    fn the_count_with_more_is_the_count_in_the_end() {
        for len in [99, 100, 101] {
            let mut writer = ChunkWriter::new(Vec::new(), HashAlgorithm::Blake3, 100);
            writer.write_any(&vec![0; len]).unwrap();
            let count = writer.count_with_more();
            writer.write_uncut(&[0; 512]).unwrap();
            assert_eq!(
                writer.finish(ChunkHash::from_bytes([0; 32])).1.count(),
                count,
                "{len}"
            );
        }
    }
}
