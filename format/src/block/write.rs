//! Writing blocks: bytes in, compressed blocks out, the table at the end.

use std::io::{self, Write};

use super::checksum::{BLOCK_SEED, HEADER_SEED, raw_crc32c};
use super::codec::{BlockEncoder, Codec};
use super::header::{HEADER_LEN, Header, WrittenTable};
use crate::chunk::ChunkWriter;

/// Compresses what is written in blocks. The header's place is left to whoever owns the file, because its content is known
/// at the end only.
#[derive(Debug)]
pub(crate) struct BlockWriter<W> {
    out: ChunkWriter<W>,
    /// Where the header is, in bytes from the beginning of `out`.
    header_at: u64,
    encoder: BlockEncoder,
    block_len: u32,
    /// Bytes of the block that is not yet full.
    open: Vec<u8>,
    /// Room for one stored block.
    stored: Vec<u8>,
    /// Bytes before compression so far.
    plain_len: u64,
    /// The table so far.
    table: Vec<u8>,
}

impl<W: Write> BlockWriter<W> {
    /// Goes on behind a header that `out` has just been given room for.
    pub(crate) fn new(out: ChunkWriter<W>, codec: Codec, block_len: u32) -> io::Result<Self> {
        let header_at = out.len().saturating_sub(HEADER_LEN as u64);
        let encoder = BlockEncoder::new(codec)?;
        let open = Vec::with_capacity(block_len as usize);
        let stored = vec![0; BlockEncoder::bound(block_len as usize)];
        Ok(Self {
            out,
            header_at,
            encoder,
            block_len,
            open,
            stored,
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
        while !plain.is_empty() {
            let room = (self.block_len as usize).saturating_sub(self.open.len());
            let (now, later) = plain.split_at_checked(room).unwrap_or((plain, &[]));
            self.open.extend_from_slice(now);
            self.plain_len = self.plain_len.saturating_add(now.len() as u64);
            if self.open.len() >= self.block_len as usize {
                self.flush_block()?;
            }
            plain = later;
        }
        Ok(())
    }

    /// Fills the open block with zeros, so that what comes next begins a block, and a chunk.
    pub(crate) fn cut(&mut self) -> io::Result<()> {
        if !self.open.is_empty() {
            let missing = (self.block_len as usize).saturating_sub(self.open.len());
            self.plain_len = self.plain_len.saturating_add(missing as u64);
            self.open.resize(self.block_len as usize, 0);
            self.flush_block()?;
        }
        self.out.cut();
        Ok(())
    }

    /// Writes the last block, the table and the trailer. The header's bytes are for the caller to put in their place.
    pub(crate) fn finish(mut self) -> io::Result<(ChunkWriter<W>, [u8; HEADER_LEN])> {
        if !self.open.is_empty() {
            self.flush_block()?;
        }
        let table = WrittenTable {
            offset: self.out.len().saturating_sub(self.header_at),
            block_count: (self.table.len() / super::table::ENTRY_LEN) as u64,
            plain_len: self.plain_len,
            crc: raw_crc32c(HEADER_SEED, &self.table),
        };
        let header = Header::new(self.encoder.codec(), self.block_len, &table);
        self.out.write_any(&self.table)?;
        self.out.write_any(&header.encode_trailer())?;
        Ok((self.out, header.encode()))
    }

    fn flush_block(&mut self) -> io::Result<()> {
        let len = self.encoder.encode(&self.open, &mut self.stored)?;
        self.open.clear();
        self.stored.truncate(len);
        let crc = raw_crc32c(BLOCK_SEED, &self.stored);
        self.stored.extend_from_slice(&crc.to_le_bytes());
        self.out.write_whole(&self.stored)?;
        let stored_len = u32::try_from(self.stored.len()).map_err(io::Error::other)?;
        self.table.extend_from_slice(&stored_len.to_le_bytes());
        // Room for the next one, whatever it compresses to.
        self.stored
            .resize(BlockEncoder::bound(self.block_len as usize), 0);
        Ok(())
    }
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
        let mut out = ChunkWriter::new(Vec::new(), HashAlgorithm::Blake3, 1 << 20);
        out.write_any(&[0; HEADER_LEN]).unwrap();
        let mut writer = BlockWriter::new(out, codec, block_len).unwrap();
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
