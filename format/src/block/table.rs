//! The block table: where each compressed block lies.

use std::io;
use std::ops::Range;

use super::checksum::{BLOCK_SEED, HEADER_SEED, raw_crc32c};
use super::codec::Codec;
use super::header::{HEADER_LEN, Header};
use super::{BlockDecoder, CRC_LEN, ReadBlockError};
use crate::address::ByteRange;
use crate::error::{DecodeError, Fault};
use crate::field::u32_at;
use crate::read_at::ReadAt;

/// Bytes of one entry.
pub(super) const ENTRY_LEN: usize = 4;

/// Where each block of a compressed payload lies, and how to decompress it.
#[derive(Clone, Debug)]
pub struct BlockTable {
    codec: Codec,
    block_len: u32,
    plain_len: u64,
    has_block_crc: bool,
    /// Where each block begins in the payload, and where the last one ends.
    starts: Vec<u64>,
}

/// Why the blocks of a payload cannot be found.
#[derive(Debug)]
pub(crate) enum OpenBlocksError {
    Read(&'static str, io::Error),
    Decode(DecodeError),
}

impl From<DecodeError> for OpenBlocksError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl BlockTable {
    /// Reads the table of `payload`; `None` if the payload is not compressed.
    pub(crate) fn open<R: ReadAt>(payload: &R) -> Result<Option<Self>, OpenBlocksError> {
        let len = payload.len();
        let mut bytes = [0; HEADER_LEN];
        if len < HEADER_LEN as u64 {
            return Ok(None);
        }
        payload
            .read_exact_at(0, &mut bytes)
            .map_err(|error| OpenBlocksError::Read("ZFile header", error))?;
        if !Header::is_one(&bytes) {
            return Ok(None);
        }
        let header = if let Some(header) = Header::decode(&bytes)? {
            header
        } else {
            let at = len.saturating_sub(HEADER_LEN as u64);
            payload
                .read_exact_at(at, &mut bytes)
                .map_err(|error| OpenBlocksError::Read("ZFile trailer", error))?;
            Header::decode_trailer(&bytes)?
        };
        let range = table_range(&header, len)?;
        // Not more than the payload holds: table_range has seen to it.
        let mut table = vec![0; usize::try_from(range.len()).unwrap_or(0)];
        payload
            .read_exact_at(range.start, &mut table)
            .map_err(|error| OpenBlocksError::Read("block table", error))?;
        Ok(Some(Self::decode(&header, &table)?))
    }

    /// The table whose entries are `bytes`, as `header` announces it.
    pub(super) fn decode(header: &Header, bytes: &[u8]) -> Result<Self, DecodeError> {
        let fault = |offset: u64, why| DecodeError::new("block table", offset, why);
        if let Some(stored) = header.table_crc {
            let computed = raw_crc32c(HEADER_SEED, bytes);
            if stored != computed {
                return Err(fault(0, Fault::Checksum { stored, computed }));
            }
        }
        let overhead = if header.has_block_crc { CRC_LEN } else { 0 };
        // Twice a block is more than any codec makes of one, and bounds what reading a block allocates.
        let max_len = header.block_len.saturating_mul(2);
        let mut start = (HEADER_LEN as u64).saturating_add(u64::from(header.dictionary_len));
        let mut starts = Vec::with_capacity((bytes.len() / ENTRY_LEN).saturating_add(1));
        starts.push(start);
        let mut offset = 0_u64;
        for len in bytes
            .chunks_exact(ENTRY_LEN)
            .filter_map(|entry| u32_at(entry, 0))
        {
            if len as usize <= overhead || len > max_len {
                let must = "longer than its CRC and at most two blocks";
                return Err(fault(
                    offset,
                    Fault::Field {
                        name: "stored length",
                        value: u64::from(len),
                        must,
                    },
                ));
            }
            start = start.saturating_add(u64::from(len));
            starts.push(start);
            offset = offset.saturating_add(ENTRY_LEN as u64);
        }
        if start != header.table_offset {
            return Err(fault(
                offset,
                Fault::Rule("the blocks do not end where the table begins"),
            ));
        }
        let Header {
            codec,
            block_len,
            plain_len,
            has_block_crc,
            ..
        } = *header;
        Ok(Self {
            codec,
            block_len,
            plain_len,
            has_block_crc,
            starts,
        })
    }

    /// How the blocks are compressed.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Bytes in a block before compression; the last one may have fewer.
    pub fn block_len(&self) -> u32 {
        self.block_len
    }

    /// Bytes of all blocks before compression.
    pub fn plain_len(&self) -> u64 {
        self.plain_len
    }

    /// Number of blocks.
    pub fn count(&self) -> u64 {
        self.starts.len().saturating_sub(1) as u64
    }

    /// The numbers of the blocks that hold any of these plain bytes.
    pub fn over(&self, plain: ByteRange) -> Range<u64> {
        let plain = plain.intersection(ByteRange::new(0, self.plain_len));
        if plain.is_empty() {
            return 0..0;
        }
        let block_len = u64::from(self.block_len);
        plain.start / block_len..plain.end.div_ceil(block_len)
    }

    /// Which bytes of the payload these blocks are stored in, CRCs included; empty if there are no such blocks.
    pub fn stored(&self, blocks: Range<u64>) -> ByteRange {
        let start_of = |block: u64| {
            usize::try_from(block)
                .ok()
                .and_then(|block| self.starts.get(block).copied())
        };
        match (start_of(blocks.start), start_of(blocks.end)) {
            (Some(start), Some(end)) => ByteRange::new(start, end),
            _ => ByteRange::default(),
        }
    }

    /// Which plain bytes a block holds; empty if there is no such block.
    pub fn plain(&self, block: u64) -> ByteRange {
        let start = block.saturating_mul(u64::from(self.block_len));
        let end = start.saturating_add(u64::from(self.block_len));
        ByteRange::new(start, end).intersection(ByteRange::new(0, self.plain_len))
    }

    /// Checks the stored bytes of `block` and decompresses them into `plain`, of exactly the block's plain length.
    pub(super) fn decode_block(
        &self,
        decoder: &mut BlockDecoder,
        block: u64,
        stored: &[u8],
        plain: &mut [u8],
    ) -> Result<(), ReadBlockError> {
        let compressed = self.checked(block, stored)?;
        decoder
            .decode(self.codec, compressed, plain)
            .map_err(|source| ReadBlockError::Decompress { block, source })
    }

    /// The same into a buffer of its own.
    pub(super) fn decode_block_alone(
        &self,
        decoder: &mut BlockDecoder,
        block: u64,
        stored: &[u8],
    ) -> Result<Vec<u8>, ReadBlockError> {
        let compressed = self.checked(block, stored)?;
        let len = usize::try_from(self.plain(block).len());
        decoder
            .decode_alone(self.codec, compressed, len.unwrap_or(usize::MAX))
            .map_err(|source| ReadBlockError::Decompress { block, source })
    }

    /// The compressed bytes of a block, which are those that its CRC was made of.
    fn checked<'s>(&self, block: u64, stored: &'s [u8]) -> Result<&'s [u8], ReadBlockError> {
        if !self.has_block_crc {
            return Ok(stored);
        }
        let (compressed, crc) = stored
            .split_last_chunk::<CRC_LEN>()
            .ok_or(ReadBlockError::NoBlock { block })?;
        let stored = u32::from_le_bytes(*crc);
        let computed = raw_crc32c(BLOCK_SEED, compressed);
        if stored == computed {
            return Ok(compressed);
        }
        Err(ReadBlockError::Checksum {
            block,
            stored,
            computed,
        })
    }
}

/// Where the table lies in a payload of `len` bytes, if that is possible at all.
fn table_range(header: &Header, len: u64) -> Result<ByteRange, DecodeError> {
    let fault = |offset, name, value, must| {
        DecodeError::new("ZFile header", offset, Fault::Field { name, value, must })
    };
    let expected = header.plain_len.div_ceil(u64::from(header.block_len));
    if header.block_count != expected {
        return Err(fault(
            48,
            "index size",
            header.block_count,
            "one entry for each block of the original file",
        ));
    }
    let end = len.saturating_sub(HEADER_LEN as u64);
    header
        .block_count
        .checked_mul(ENTRY_LEN as u64)
        .and_then(|table_len| ByteRange::at(header.table_offset, table_len))
        .filter(|range| range.start >= HEADER_LEN as u64 && range.end <= end)
        .ok_or_else(|| {
            fault(
                40,
                "index offset",
                header.table_offset,
                "such that the table ends before the trailer",
            )
        })
}

#[cfg(test)]
mod tests {
    use super::super::header::WrittenTable;
    use super::*;

    fn open(lens: &[u32], plain_len: u64) -> Result<BlockTable, DecodeError> {
        let bytes: Vec<u8> = lens.iter().flat_map(|len| len.to_le_bytes()).collect();
        let offset = 512 + lens.iter().map(|len| u64::from(*len)).sum::<u64>();
        let crc = raw_crc32c(HEADER_SEED, &bytes);
        let table = WrittenTable {
            offset,
            block_count: lens.len() as u64,
            plain_len,
            crc,
        };
        let header = Header::new(Codec::Zstd, 4096, &table);
        table_range(&header, offset + bytes.len() as u64 + 512)?;
        BlockTable::decode(&header, &bytes)
    }

    #[test]
    fn blocks_lie_one_behind_the_other() {
        let table = open(&[100, 8192, 5], 8193).unwrap();
        assert_eq!(table.count(), 3);
        assert_eq!(table.stored(0..1), ByteRange::new(512, 612));
        assert_eq!(table.stored(1..3), ByteRange::new(612, 8809));
        assert_eq!(table.stored(3..4), ByteRange::default());
        assert_eq!(table.plain(2), ByteRange::new(8192, 8193));
        assert!(table.plain(3).is_empty() && table.plain(u64::MAX).is_empty());
        assert_eq!(table.over(ByteRange::new(4095, 4097)), 0..2);
        assert_eq!(table.over(ByteRange::new(8192, u64::MAX)), 2..3);
        assert!(table.over(ByteRange::new(9000, 9001)).is_empty());
    }

    #[test]
    fn lengths_that_cannot_be_are_refused() {
        for lens in [[100, 4], [100, 0], [8193, 100]] {
            assert!(open(&lens, 8000).is_err(), "{lens:?}");
        }
        assert!(open(&[100, 100], 4096).is_err());
        assert!(open(&[100, 100], 8193).is_err());
        assert_eq!(open(&[], 0).unwrap().count(), 0);
    }

    #[test]
    fn a_flipped_bit_in_the_table_is_found() {
        let lens = [100, 200];
        let bytes: Vec<u8> = lens
            .iter()
            .flat_map(|len: &u32| len.to_le_bytes())
            .collect();
        let crc = raw_crc32c(HEADER_SEED, &bytes);
        let header = Header::new(
            Codec::Lz4,
            4096,
            &WrittenTable {
                offset: 812,
                block_count: 2,
                plain_len: 8000,
                crc,
            },
        );
        BlockTable::decode(&header, &bytes).unwrap();
        for bit in 0..64 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(BlockTable::decode(&header, &flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_count_that_the_payload_does_not_justify_allocates_nothing() {
        let table = WrittenTable {
            offset: 512,
            block_count: 1 << 50,
            plain_len: 1 << 62,
            crc: 0,
        };
        assert!(table_range(&Header::new(Codec::Lz4, 4096, &table), 1 << 20).is_err());
    }
}
