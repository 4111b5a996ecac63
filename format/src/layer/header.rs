//! The layer format's header, which is also its trailer: 4096 bytes before and behind data and index.

use super::uuid::Uuid;
use crate::address::ByteRange;
use crate::error::{DecodeError, Fault};
use crate::field::{put, u32_at, u64_at};
use crate::segment::MAPPING_LEN;

/// Bytes of the header, and of the trailer.
pub(crate) const HEADER_LEN: usize = 4096;

/// The first 24 bytes of both.
const MAGIC: [u8; 24] = [
    0x4c, 0x53, 0x4d, 0x54, 0x00, 0x01, 0x02, 0x00, 0x65, 0x7e, 0x63, 0xd2, 0x94, 0x44, 0x08, 0x4c,
    0xa2, 0xd2, 0xc8, 0xec, 0x4f, 0xcf, 0xae, 0x8a,
];

/// Bytes of the fields, which the header states.
const FIELDS_LEN: u32 = 390;

/// This is the header, not the trailer.
const IS_HEADER: u32 = 1 << 0;
/// The file holds data, not only an index.
const IS_DATA: u32 = 1 << 1;
/// Nothing will be added.
const IS_SEALED: u32 = 1 << 2;

/// Records in the longest index: what stock readers accept.
pub(crate) const MAX_RECORDS: u64 = 1_000_000;

/// Bytes of a UUID as text with its NUL.
const UUID_LEN: usize = 37;
/// Version and sub-version of the format, one byte each.
const VERSION: [u8; 2] = [1, 1];

/// What a trailer says; a header says the same with an empty index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Where the index begins, in bytes from the header.
    pub(crate) index_offset: u64,
    /// Records in the index, padding included.
    pub(crate) record_count: u64,
    /// Bytes of the device; 0 takes what a lower layer says.
    pub(crate) virtual_size: u64,
    /// The layer's name; nil if there is none that can be read, since nothing relies on it.
    pub(crate) uuid: Uuid,
    /// The name of the layer below.
    pub(crate) parent: Option<Uuid>,
}

impl Header {
    /// Whether `bytes` begin a layer file.
    pub(crate) fn check(bytes: &[u8]) -> Result<(), DecodeError> {
        let flags = flags("LSMT header", bytes)?;
        if flags & (IS_HEADER | IS_DATA) != IS_HEADER | IS_DATA {
            let why = Fault::Rule("it is not marked as the header of a file with data");
            return Err(DecodeError::new("LSMT header", 28, why));
        }
        Ok(())
    }

    /// The trailer in `bytes`. The header's own fields are never used: they are from before the data was written.
    pub(crate) fn decode_trailer(bytes: &[u8]) -> Result<Self, DecodeError> {
        const WHAT: &str = "LSMT trailer";
        let flags = flags(WHAT, bytes)?;
        if flags & (IS_HEADER | IS_DATA | IS_SEALED) != IS_DATA | IS_SEALED {
            return Err(DecodeError::new(
                WHAT,
                28,
                Fault::Rule("it is not marked as the trailer of a sealed file"),
            ));
        }
        let have = bytes.len() as u64;
        let number = |at| {
            u64_at(bytes, at).ok_or(DecodeError::new(
                WHAT,
                0,
                Fault::Truncated {
                    need: HEADER_LEN as u64,
                    have,
                },
            ))
        };
        let uuid = |at: usize| {
            let text = bytes.get(at..at.saturating_add(UUID_LEN.saturating_sub(1)))?;
            str::from_utf8(text).ok()?.parse().ok()
        };
        Ok(Self {
            index_offset: number(32)?,
            record_count: number(40)?,
            virtual_size: number(48)?,
            uuid: uuid(56).unwrap_or(Uuid::NIL),
            parent: uuid(93).filter(|parent| *parent != Uuid::NIL),
        })
    }

    /// Where the index lies in a file of `len` bytes, if that is possible at all.
    pub(crate) fn index_range(&self, len: u64) -> Result<ByteRange, DecodeError> {
        let fault = |offset, name, value, must| {
            DecodeError::new("LSMT trailer", offset, Fault::Field { name, value, must })
        };
        if self.record_count > MAX_RECORDS {
            return Err(fault(
                40,
                "index size",
                self.record_count,
                "at most 1000000 records",
            ));
        }
        let trailer_at = len.saturating_sub(HEADER_LEN as u64);
        self.record_count
            .checked_mul(MAPPING_LEN as u64)
            .and_then(|index_len| ByteRange::at(self.index_offset, index_len))
            .filter(|range| range.start >= HEADER_LEN as u64 && range.end <= trailer_at)
            .ok_or_else(|| {
                fault(
                    32,
                    "index offset",
                    self.index_offset,
                    "such that the index lies between header and trailer",
                )
            })
    }

    /// The bytes of a header written before the data.
    pub(crate) fn encode(&self) -> [u8; HEADER_LEN] {
        self.encode_with(IS_HEADER | IS_DATA | IS_SEALED)
    }

    /// The trailer's bytes.
    pub(crate) fn encode_trailer(&self) -> [u8; HEADER_LEN] {
        self.encode_with(IS_DATA | IS_SEALED)
    }

    fn encode_with(&self, flags: u32) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 24, &FIELDS_LEN.to_le_bytes());
        put(&mut bytes, 28, &flags.to_le_bytes());
        put(&mut bytes, 32, &self.index_offset.to_le_bytes());
        put(&mut bytes, 40, &self.record_count.to_le_bytes());
        put(&mut bytes, 48, &self.virtual_size.to_le_bytes());
        put(&mut bytes, 56, self.uuid.to_string().as_bytes());
        put(
            &mut bytes,
            93,
            self.parent.unwrap_or(Uuid::NIL).to_string().as_bytes(),
        );
        put(&mut bytes, 132, &VERSION);
        bytes
    }
}

fn flags(what: &'static str, bytes: &[u8]) -> Result<u32, DecodeError> {
    if !bytes.starts_with(&MAGIC) {
        return Err(DecodeError::new(what, 0, Fault::Magic));
    }
    let have = bytes.len() as u64;
    u32_at(bytes, 28).ok_or(DecodeError::new(
        what,
        0,
        Fault::Truncated {
            need: HEADER_LEN as u64,
            have,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let uuid = Uuid::from_bytes([0x11; 16]);
        Header {
            index_offset: 8192,
            record_count: 256,
            virtual_size: 1 << 30,
            uuid,
            parent: Some(Uuid::from_bytes([0x22; 16])),
        }
    }

    #[test]
    fn a_trailer_comes_back_as_it_was() {
        for parent in [None, header().parent] {
            let header = Header { parent, ..header() };
            assert_eq!(Header::decode_trailer(&header.encode_trailer()), Ok(header));
        }
        Header::check(&header().encode()).unwrap();
    }

    #[test]
    fn header_and_trailer_are_not_taken_for_each_other() {
        assert!(Header::check(&header().encode_trailer()).is_err());
        assert!(Header::decode_trailer(&header().encode()).is_err());
    }

    #[test]
    fn flags_are_those_that_stock_tools_write() {
        assert_eq!(header().encode()[28..32], [7, 0, 0, 0]);
        assert_eq!(header().encode_trailer()[28..32], [6, 0, 0, 0]);
    }

    #[test]
    fn a_flipped_bit_in_what_is_used_changes_or_breaks_it() {
        let bytes = header().encode_trailer();
        for bit in (0..24 * 8).chain(29..31).chain(32 * 8..130 * 8) {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let in_nul = [92, 129].contains(&(bit / 8));
            // The case of a UUID's letter means nothing.
            let is_case = bit % 8 == 5 && bytes[bit / 8].is_ascii_alphabetic();
            assert!(
                in_nul || is_case || Header::decode_trailer(&flipped) != Ok(header()),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn an_index_outside_its_file_is_refused() {
        let len = 4096 + 4096 + 4096 + 4096;
        assert_eq!(header().index_range(len), Ok(ByteRange::new(8192, 12288)));
        assert!(header().index_range(len - 1).is_err());
        for (index_offset, record_count) in [
            (0, 1),
            (4095, 1),
            (u64::MAX, 1),
            (8192, MAX_RECORDS + 1),
            (8192, u64::MAX),
        ] {
            assert!(
                Header {
                    index_offset,
                    record_count,
                    ..header()
                }
                .index_range(1 << 40)
                .is_err()
            );
        }
    }

    #[test]
    fn names_that_cannot_be_read_are_no_names() {
        let mut bytes = header().encode_trailer();
        bytes[56..130].fill(0xff);
        let read = Header::decode_trailer(&bytes).unwrap();
        assert_eq!((read.uuid, read.parent), (Uuid::NIL, None));
    }
}
