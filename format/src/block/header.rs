//! ZFile's header, which is also its trailer: 512 bytes before and behind the blocks.
//!
//! A writer that streams knows the table's place only at the end, so it says it in the trailer, and may go back to say it
//! in the header too; a flag tells whether it did.

use super::checksum::{HEADER_SEED, raw_crc32c};
use super::codec::Codec;
use super::{MAX_BLOCK_LEN, MIN_BLOCK_LEN};
use crate::error::{DecodeError, Fault};
use crate::field::{put, u8_at, u32_at, u64_at};

/// Bytes of the header, and of the trailer.
pub(crate) const HEADER_LEN: usize = 512;

/// The first 24 bytes of both.
const MAGIC: [u8; 24] = *b"ZFile\0\x01\0tuji.yyf@Alibaba";

/// Bytes of the fields, which the header states.
const FIELDS_LEN: u32 = 96;

/// This is the header, not the trailer.
const IS_HEADER: u8 = 1 << 0;
/// There is data.
const IS_DATA: u8 = 1 << 1;
/// Nothing will be added.
const IS_SEALED: u8 = 1 << 2;
/// The header was completed at the end and can be trusted as the trailer can.
const IS_COMPLETED: u8 = 1 << 3;
/// The digest and the table's CRC hold something.
const HAS_DIGEST: u8 = 1 << 4;
/// The table is compressed. Specified, and never written by any tool.
const TABLE_IS_COMPRESSED: u8 = 1 << 5;

const DIGEST_AT: usize = 28;

/// What a header or a trailer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Where the table begins, in bytes from the header.
    pub(super) table_offset: u64,
    /// Entries in the table.
    pub(super) block_count: u64,
    /// Bytes before compression.
    pub(super) plain_len: u64,
    /// CRC of the table, if there is one.
    pub(super) table_crc: Option<u32>,
    /// Bytes in a block before compression.
    pub(super) block_len: u32,
    pub(super) codec: Codec,
    /// Bytes between the header and the first block.
    pub(super) dictionary_len: u32,
    /// Whether a CRC follows each block.
    pub(super) has_block_crc: bool,
}

impl Header {
    /// What the writer says at the end.
    pub(super) fn new(codec: Codec, block_len: u32, table: &WrittenTable) -> Self {
        Self {
            table_offset: table.offset,
            block_count: table.block_count,
            plain_len: table.plain_len,
            table_crc: Some(table.crc),
            block_len,
            codec,
            dictionary_len: 0,
            has_block_crc: true,
        }
    }

    /// Whether `bytes` begin like a header.
    pub(super) fn is_one(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    /// The header in `bytes`; `None` if it was never completed. The trailer then says everything: what such a header holds
    /// beside its flags is from before the first block, and in old files garbage.
    pub(super) fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Option<Self>, DecodeError> {
        const WHAT: &str = "ZFile header";
        let flags = check(bytes, WHAT)?;
        if flags & IS_HEADER == 0 {
            let why = Fault::Rule("it is marked as a trailer");
            return Err(DecodeError::new(WHAT, 32, why));
        }
        if flags & IS_COMPLETED == 0 {
            return Ok(None);
        }
        Self::decode_fields(bytes, flags, WHAT).map(Some)
    }

    /// The trailer in `bytes`.
    pub(super) fn decode_trailer(bytes: &[u8; HEADER_LEN]) -> Result<Self, DecodeError> {
        const WHAT: &str = "ZFile trailer";
        let flags = check(bytes, WHAT)?;
        if flags & (IS_HEADER | IS_DATA | IS_SEALED) != IS_DATA | IS_SEALED {
            let why = Fault::Rule("it is not marked as the trailer of a sealed file");
            return Err(DecodeError::new(WHAT, 32, why));
        }
        Self::decode_fields(bytes, flags, WHAT)
    }

    fn decode_fields(
        bytes: &[u8; HEADER_LEN],
        flags: u8,
        what: &'static str,
    ) -> Result<Self, DecodeError> {
        let fault = |offset: usize, why| DecodeError::new(what, offset as u64, why);
        let truncated = || {
            fault(
                0,
                Fault::Truncated {
                    need: u64::from(FIELDS_LEN),
                    have: bytes.len() as u64,
                },
            )
        };
        if flags & TABLE_IS_COMPRESSED != 0 {
            return Err(fault(32, Fault::Unsupported("a compressed block table")));
        }
        let block_len = u32_at(bytes, 72).ok_or_else(truncated)?;
        if !block_len.is_power_of_two() || !(MIN_BLOCK_LEN..=MAX_BLOCK_LEN).contains(&block_len) {
            let must = "a power of two, 4 KiB to 64 KiB";
            return Err(fault(
                72,
                Fault::Field {
                    name: "block size",
                    value: u64::from(block_len),
                    must,
                },
            ));
        }
        let algorithm = u8_at(bytes, 76).ok_or_else(truncated)?;
        let codec = Codec::from_number(algorithm).ok_or_else(|| {
            fault(
                76,
                Fault::Field {
                    name: "algorithm",
                    value: u64::from(algorithm),
                    must: "1 (LZ4) or 2 (zstd)",
                },
            )
        })?;
        if u8_at(bytes, 78).ok_or_else(truncated)? == 1 {
            return Err(fault(78, Fault::Unsupported("a dictionary")));
        }
        Ok(Self {
            table_offset: u64_at(bytes, 40).ok_or_else(truncated)?,
            block_count: u64_at(bytes, 48).ok_or_else(truncated)?,
            plain_len: u64_at(bytes, 56).ok_or_else(truncated)?,
            table_crc: u32_at(bytes, 64).filter(|_| flags & HAS_DIGEST != 0),
            block_len,
            codec,
            dictionary_len: u32_at(bytes, 84).ok_or_else(truncated)?,
            has_block_crc: u8_at(bytes, 88).ok_or_else(truncated)? != 0,
        })
    }

    /// The header's bytes, completed, as stock readers like it best.
    pub(super) fn encode(&self) -> [u8; HEADER_LEN] {
        self.encode_with(IS_HEADER | IS_DATA | IS_COMPLETED | HAS_DIGEST)
    }

    /// The trailer's bytes.
    pub(super) fn encode_trailer(&self) -> [u8; HEADER_LEN] {
        self.encode_with(IS_DATA | IS_SEALED | HAS_DIGEST)
    }

    fn encode_with(&self, flags: u8) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 24, &FIELDS_LEN.to_le_bytes());
        put(&mut bytes, 32, &[flags]);
        put(&mut bytes, 40, &self.table_offset.to_le_bytes());
        put(&mut bytes, 48, &self.block_count.to_le_bytes());
        put(&mut bytes, 56, &self.plain_len.to_le_bytes());
        put(&mut bytes, 64, &self.table_crc.unwrap_or(0).to_le_bytes());
        put(&mut bytes, 72, &self.block_len.to_le_bytes());
        put(&mut bytes, 76, &[self.codec.number()]);
        put(&mut bytes, 84, &self.dictionary_len.to_le_bytes());
        put(&mut bytes, 88, &[u8::from(self.has_block_crc)]);
        let digest = digest(&bytes);
        put(&mut bytes, DIGEST_AT, &digest.to_le_bytes());
        bytes
    }
}

/// The table as it was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct WrittenTable {
    /// Where it begins, in bytes from the header.
    pub(super) offset: u64,
    pub(super) block_count: u64,
    /// Bytes before compression of all blocks.
    pub(super) plain_len: u64,
    /// CRC of the table's bytes.
    pub(super) crc: u32,
}

/// The flags of what is a header or a trailer and has the digest that it announces.
fn check(bytes: &[u8; HEADER_LEN], what: &'static str) -> Result<u8, DecodeError> {
    let fault = |offset: usize, why| DecodeError::new(what, offset as u64, why);
    if !Header::is_one(bytes) {
        return Err(fault(0, Fault::Magic));
    }
    // Old files have garbage in all but the six bits that mean something.
    let flags = u8_at(bytes, 32).unwrap_or(0) & 0x3f;
    if flags & HAS_DIGEST != 0 {
        let stored = u32_at(bytes, DIGEST_AT).unwrap_or(0);
        let computed = digest(bytes);
        if stored != computed {
            return Err(fault(DIGEST_AT, Fault::Checksum { stored, computed }));
        }
    }
    Ok(flags)
}

/// CRC of the header, its own field taken as zeros.
fn digest(bytes: &[u8; HEADER_LEN]) -> u32 {
    let mut blank = *bytes;
    put(&mut blank, DIGEST_AT, &[0; 4]);
    raw_crc32c(HEADER_SEED, &blank)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let table = WrittenTable {
            offset: 9000,
            block_count: 3,
            plain_len: 70_000,
            crc: 0x1234_5678,
        };
        Header::new(Codec::Zstd, 32 << 10, &table)
    }

    #[test]
    fn a_header_comes_back_as_it_was() {
        assert_eq!(Header::decode(&header().encode()), Ok(Some(header())));
        let trailer = Header::decode_trailer(&header().encode_trailer());
        assert_eq!(trailer, Ok(header()));
        assert!(Header::decode(&header().encode_trailer()).is_err());
        assert!(Header::decode_trailer(&header().encode()).is_err());
    }

    #[test]
    fn flags_are_those_that_stock_tools_write() {
        assert_eq!(header().encode()[32..40], 0x1b_u64.to_le_bytes());
        assert_eq!(header().encode_trailer()[32..40], 0x16_u64.to_le_bytes());
    }

    #[test]
    fn a_flipped_bit_is_found() {
        for bit in 0..HEADER_LEN * 8 {
            let mut flipped = header().encode();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // Without the flag that says there is a digest, there is none to check.
            if bit != 32 * 8 + 4 {
                assert!(Header::decode(&flipped).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn old_headers_with_garbage_beside_the_flags_are_read() {
        let mut old = header().encode();
        put(&mut old, 32, &0x7ffe_a464_0b43_u64.to_le_bytes());
        put(&mut old, DIGEST_AT, &[0xaa; 4]);
        put(&mut old, 64, &[0xbb; 4]);
        put(&mut old, 200, &[0xcc; 100]);
        assert_eq!(Header::decode(&old), Ok(None));
        put(&mut old, 32, &0x7ffe_a464_0b46_u64.to_le_bytes());
        let decoded = Header::decode_trailer(&old).unwrap();
        assert_eq!(decoded.table_crc, None);
        assert_eq!((decoded.block_len, decoded.codec), (32 << 10, Codec::Zstd));
    }

    #[test]
    fn what_is_not_read_here_is_named() {
        let changed = |at: usize, byte: u8| {
            let mut bytes = header().encode();
            bytes[32] &= !HAS_DIGEST;
            bytes[at] = byte;
            Header::decode(&bytes).map_err(|error| error.offset)
        };
        assert_eq!(changed(76, 0), Err(76));
        assert_eq!(changed(78, 1), Err(78));
        assert_eq!(changed(73, 0x30), Err(72));
        assert_eq!(changed(32, 0x0b | TABLE_IS_COMPRESSED), Err(32));
    }
}
