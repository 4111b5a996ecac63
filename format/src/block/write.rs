//! Writing blocks: bytes in, compressed blocks out, the table at the end.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::batch::{Batch, Piece};
use super::checksum::{HEADER_SEED, raw_crc32c};
use super::codec::{BlockEncoder, Codec};
use super::header::{HEADER_LEN, Header, WrittenTable};
use super::workers::Workers;
use crate::chunk::ChunkWriter;

/// Most batches that are on their way at the same time, whatever the number of workers: with the bytes before and after
/// compression and the encoders, some 60 MiB.
const MAX_AHEAD: usize = 64;

/// How blocks are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockSettings {
    pub(crate) codec: Codec,
    /// zstd's.
    pub(crate) level: i32,
    /// Bytes before compression.
    pub(crate) block_len: u32,
}

/// Compresses what is written in blocks. The header's place is left to whoever owns the file, because its content is known
/// at the end only.
#[derive(Debug)]
pub(crate) struct BlockWriter<W> {
    out: ChunkWriter<W>,
    /// Where the header is, in bytes from the beginning of `out`.
    header_at: u64,
    settings: BlockSettings,
    workers: Workers,
    /// Encoders that nobody uses just now: zstd's contexts are worth keeping.
    encoders: Arc<Mutex<Vec<BlockEncoder>>>,
    /// What the workers are at, oldest first.
    ahead: VecDeque<Receiver<io::Result<Batch>>>,
    /// Takes what is written.
    open: Batch,
    /// Batches to use again.
    spare: Vec<Batch>,
    /// Bytes before compression so far.
    plain_len: u64,
    /// The table so far.
    table: Vec<u8>,
}

impl<W: Write> BlockWriter<W> {
    /// Goes on behind a header that `out` has just been given room for.
    pub(crate) fn new(
        out: ChunkWriter<W>,
        settings: BlockSettings,
        workers: Workers,
    ) -> io::Result<Self> {
        let header_at = out.len().saturating_sub(HEADER_LEN as u64);
        // Made here, so that what cannot work fails at once.
        let encoder = BlockEncoder::new(settings.codec, settings.level)?;
        Ok(Self {
            out,
            header_at,
            settings,
            workers,
            encoders: Arc::new(Mutex::new(vec![encoder])),
            ahead: VecDeque::new(),
            open: Batch::new(settings.block_len as usize),
            spare: Vec::new(),
            plain_len: 0,
            table: Vec::new(),
        })
    }

    /// Bytes before compression so far.
    pub(crate) fn plain_len(&self) -> u64 {
        self.plain_len
    }

    /// Where the stored bytes go.
    pub(crate) fn inner_mut(&mut self) -> &mut W {
        self.out.inner_mut()
    }

    /// Takes the next plain bytes.
    pub(crate) fn write(&mut self, mut plain: &[u8]) -> io::Result<()> {
        self.plain_len = self.plain_len.saturating_add(plain.len() as u64);
        while !plain.is_empty() {
            plain = self.open.fill(plain);
            if self.open.is_full() {
                self.hand_over()?;
            }
        }
        Ok(())
    }

    /// Fills the open block with zeros, so that what comes next begins a block, and a chunk.
    pub(crate) fn cut(&mut self) -> io::Result<()> {
        let zeros = self.open.cut();
        self.plain_len = self.plain_len.saturating_add(zeros as u64);
        if self.open.is_full() {
            self.hand_over()?;
        }
        Ok(())
    }

    /// Waits until everything up to here is written. The open block ends as short as it is, so unless a cut has just
    /// filled it, nothing may follow.
    pub(crate) fn settle(&mut self) -> io::Result<()> {
        if !self.open.is_empty() {
            self.hand_over()?;
        }
        while let Some(oldest) = self.ahead.pop_front() {
            self.write_batch(&oldest)?;
        }
        Ok(())
    }

    /// Writes the last block, the table and the trailer. The header's bytes are for the caller to put in their place.
    pub(crate) fn finish(mut self) -> io::Result<(ChunkWriter<W>, [u8; HEADER_LEN])> {
        self.settle()?;
        let table = WrittenTable {
            offset: self.out.len().saturating_sub(self.header_at),
            block_count: (self.table.len() / super::table::ENTRY_LEN) as u64,
            plain_len: self.plain_len,
            crc: raw_crc32c(HEADER_SEED, &self.table),
        };
        let BlockSettings {
            codec, block_len, ..
        } = self.settings;
        let header = Header::new(codec, block_len, &table);
        self.out.write_any(&self.table)?;
        self.out.write_any(&header.encode_trailer())?;
        Ok((self.out, header.encode()))
    }

    /// Has the open batch compressed. If enough are on their way, writes the oldest, which may mean to wait for it.
    fn hand_over(&mut self) -> io::Result<()> {
        let new = || Batch::new(self.settings.block_len as usize);
        let next = self.spare.pop().unwrap_or_else(new);
        let mut batch = std::mem::replace(&mut self.open, next);
        let (done, oldest) = sync_channel(1);
        let encoders = Arc::clone(&self.encoders);
        let settings = self.settings;
        self.workers.run(Box::new(move || {
            let compressed = with_encoder(&encoders, settings, |encoder| batch.compress(encoder));
            // A writer that is gone wants nothing any more.
            let _gone = done.send(compressed.map(|()| batch));
        }));
        self.ahead.push_back(oldest);
        // Enough that no worker waits while this thread does something else: reads, hashes, writes. One thread has none ahead.
        let most = self.workers.count().saturating_mul(6).min(MAX_AHEAD);
        while self.ahead.len() > most {
            if let Some(oldest) = self.ahead.pop_front() {
                self.write_batch(&oldest)?;
            }
        }
        Ok(())
    }

    fn write_batch(&mut self, oldest: &Receiver<io::Result<Batch>>) -> io::Result<()> {
        let given_up = |_| io::Error::other("the work of compressing was given up");
        let mut batch = oldest.recv().map_err(given_up)??;
        for piece in batch.pieces() {
            match piece {
                Piece::Cut => self.out.cut(),
                Piece::Block(stored) => {
                    self.out.write_whole(stored)?;
                    let stored_len = u32::try_from(stored.len()).map_err(io::Error::other)?;
                    self.table.extend_from_slice(&stored_len.to_le_bytes());
                }
            }
        }
        batch.clear();
        self.spare.push(batch);
        Ok(())
    }
}

/// Lends one of `encoders`, a new one if all are in use.
fn with_encoder(
    encoders: &Mutex<Vec<BlockEncoder>>,
    settings: BlockSettings,
    work: impl FnOnce(&mut BlockEncoder) -> io::Result<()>,
) -> io::Result<()> {
    // Each use of the list is complete in itself, so it is sound whatever became of another thread.
    let idle = || encoders.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = idle().pop();
    let mut encoder = match kept {
        Some(encoder) => encoder,
        None => BlockEncoder::new(settings.codec, settings.level)?,
    };
    let done = work(&mut encoder);
    idle().push(encoder);
    done
}

#[cfg(test)]
mod tests {
    use super::super::{BlockDecoder, BlockTable, decode_span, read_span, spans};
    use super::*;
    use crate::digest::HashAlgorithm;

    fn write(codec: Codec, plain: &[u8]) -> Vec<u8> {
        write_blocks(codec, 4096, plain)
    }

    fn write_blocks(codec: Codec, block_len: u32, plain: &[u8]) -> Vec<u8> {
        let settings = BlockSettings {
            codec,
            level: 3,
            block_len,
        };
        let mut out = ChunkWriter::new(Vec::new(), HashAlgorithm::Blake3, 1 << 20);
        out.write_any(&[0; HEADER_LEN]).unwrap();
        let mut writer = BlockWriter::new(out, settings, Workers::none()).unwrap();
        plain
            .chunks(1000)
            .for_each(|piece| writer.write(piece).unwrap());
        let (out, header) = writer.finish().unwrap();
        let mut bytes = out.finish(HashAlgorithm::Blake3.hash(b"")).0;
        bytes[..HEADER_LEN].copy_from_slice(&header);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Vec<u8>, String> {
        let table = BlockTable::open(&bytes)
            .map_err(|error| format!("{error:?}"))?
            .ok_or("not compressed")?;
        let (mut plain, mut decoder, mut stored) =
            (Vec::new(), BlockDecoder::default(), Vec::new());
        for span in spans(&table, 0..table.count()) {
            read_span(&bytes, &table, &span, &mut stored).map_err(|error| error.to_string())?;
            for block in span.clone() {
                let mut buf = vec![0; usize::try_from(table.plain(block).len()).unwrap()];
                decode_span(&table, &mut decoder, (&span, &stored), block, &mut buf)
                    .map_err(|error| error.to_string())?;
                plain.append(&mut buf);
            }
        }
        Ok(plain)
    }

    #[test]
    fn what_was_written_is_read_and_a_flipped_bit_is_found() {
        let plain: Vec<u8> = (0..10_000_u32).flat_map(u32::to_le_bytes).collect();
        for codec in [Codec::Lz4, Codec::Zstd] {
            let bytes = write(codec, &plain);
            assert_eq!(read(&bytes).as_ref(), Ok(&plain));
            for bit in (0..bytes.len() * 8).step_by(101) {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                // The trailer is not read when the header was completed.
                let in_trailer = bit / 8 >= bytes.len() - HEADER_LEN;
                assert!(in_trailer || read(&flipped).is_err(), "{codec:?} bit {bit}");
            }
        }
    }

    #[test]
    fn a_header_that_was_not_completed_sends_readers_to_the_trailer() {
        let plain = vec![5; 9000];
        let mut bytes = write(Codec::Zstd, &plain);
        let mut header = [0; HEADER_LEN];
        header.copy_from_slice(&bytes[..HEADER_LEN]);
        crate::field::put(&mut header, 28, &[0; 4]);
        crate::field::put(&mut header, 32, &[0x03]);
        crate::field::put(&mut header, 40, &[0xee; 24]);
        bytes[..HEADER_LEN].copy_from_slice(&header);
        assert_eq!(read(&bytes), Ok(plain));
        let end = bytes.len();
        assert!(read(&bytes[..end - 1]).is_err());
    }

    #[test]
    fn incompressible_blocks_of_64_kib_are_read_although_stock_readers_cannot() {
        let mut state = 1_u64;
        let plain: Vec<u8> = core::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_le_bytes()[7]
        })
        .take(3 * 65_536 + 5)
        .collect();
        for codec in [Codec::Lz4, Codec::Zstd] {
            let bytes = write_blocks(codec, 65_536, &plain);
            let table = BlockTable::open(&bytes).unwrap().unwrap();
            assert!(table.stored(0..1).len() > 65_536);
            assert!(read(&bytes).as_ref() == Ok(&plain));
        }
    }
}
