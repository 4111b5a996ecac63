//! Segments of a device and where their bytes lie: the 16-byte record of the layer format.

use crate::address::Sector;
use crate::error::{DecodeError, Fault};
use crate::field::u64_at;

/// Bytes of one record.
pub const MAPPING_LEN: usize = 16;

/// Sectors in the longest segment that one record holds: its length has 14 bits.
pub const MAX_SEGMENT_SECTORS: u32 = (1 << LENGTH_BITS) - 1;

/// First sector of a layer file that may hold data: the header's 4 KiB lie before.
pub const FIRST_DATA_SECTOR: Sector = Sector(8);

const OFFSET_BITS: u32 = 50;
const LENGTH_BITS: u32 = 14;
const MOFFSET_BITS: u32 = 55;
const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - 1;
const MOFFSET_MASK: u64 = (1 << MOFFSET_BITS) - 1;

/// The offset that marks a record as padding.
const PADDING_OFFSET: u64 = OFFSET_MASK;

/// A run of sectors of a device: never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// First sector.
    pub start: Sector,
    /// Number of sectors.
    pub count: u32,
}

impl Segment {
    /// Behind the last sector.
    pub const fn end(&self) -> Sector {
        Sector(self.start.0.saturating_add(self.count as u64))
    }
}

/// Where the bytes of a segment are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// In the layer file (decompressed), from this sector on.
    Stored(Sector),
    /// Nowhere: they read as zeros, and hide what lower layers hold.
    Zeroed,
}

/// A segment and where its bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mapping {
    /// The sectors of the device.
    pub segment: Segment,
    /// Which layer of a stack they belong to, the bottom one is 0. Always 0 in the index of a single layer.
    pub layer: u8,
    /// Where their bytes are.
    pub place: Place,
}

impl Mapping {
    /// The part of the mapping between two sectors, if there is any.
    pub fn clip(&self, from: Sector, to: Sector) -> Option<Self> {
        let start = self.segment.start.max(from);
        let end = self.segment.end().min(to);
        let count = u32::try_from(end.0.checked_sub(start.0)?)
            .ok()
            .filter(|count| *count > 0)?;
        let skipped = start.0.saturating_sub(self.segment.start.0);
        let place = match self.place {
            Place::Stored(at) => Place::Stored(Sector(at.0.saturating_add(skipped))),
            Place::Zeroed => Place::Zeroed,
        };
        Some(Self {
            segment: Segment { start, count },
            layer: self.layer,
            place,
        })
    }

    /// The record at the beginning of `bytes`; `None` if it is padding. `at` is where it lies in its file, for the error;
    /// `data_end` is the sector of the file where data ends and the index begins.
    ///
    /// The tag is left unread: stock tools leave numbers of other stacks there.
    pub(crate) fn decode(
        bytes: &[u8],
        at: u64,
        data_end: Sector,
    ) -> Result<Option<Self>, DecodeError> {
        let fault = |why| DecodeError::new("index record", at, why);
        let truncated = || {
            fault(Fault::Truncated {
                need: MAPPING_LEN as u64,
                have: bytes.len() as u64,
            })
        };
        let low = u64_at(bytes, 0).ok_or_else(truncated)?;
        let high = u64_at(bytes, 8).ok_or_else(truncated)?;
        let start = Sector(low & OFFSET_MASK);
        if start.0 == PADDING_OFFSET {
            return Ok(None);
        }
        let count = u32::try_from(low >> OFFSET_BITS).unwrap_or(0);
        if count == 0 {
            return Err(fault(Fault::Field {
                name: "length",
                value: 0,
                must: "1 to 16383 sectors",
            }));
        }
        let stored_at = Sector(high & MOFFSET_MASK);
        let zeroed = high >> MOFFSET_BITS & 1 == 1;
        let stored_end = if zeroed {
            stored_at.0
        } else {
            stored_at.0.saturating_add(u64::from(count))
        };
        if stored_at < FIRST_DATA_SECTOR || stored_end > data_end.0 {
            let must = "between the header and the index";
            return Err(fault(Fault::Field {
                name: "moffset",
                value: stored_at.0,
                must,
            }));
        }
        let place = if zeroed {
            Place::Zeroed
        } else {
            Place::Stored(stored_at)
        };
        Ok(Some(Self {
            segment: Segment { start, count },
            layer: 0,
            place,
        }))
    }

    /// The record's bytes, with tag 0.
    ///
    /// A zeroed record still names a sector, which readers check: the first of the data is always allowed.
    pub(crate) fn encode(&self) -> [u8; MAPPING_LEN] {
        let (stored_at, zeroed) = match self.place {
            Place::Stored(at) => (at, 0),
            Place::Zeroed => (FIRST_DATA_SECTOR, 1),
        };
        let count = u64::from(self.segment.count.min(MAX_SEGMENT_SECTORS));
        record(
            self.segment.start.0 & OFFSET_MASK | count << OFFSET_BITS,
            stored_at.0 & MOFFSET_MASK | zeroed << MOFFSET_BITS,
        )
    }

    /// A record that means nothing and fills up the index's last page.
    pub(crate) fn padding() -> [u8; MAPPING_LEN] {
        record(PADDING_OFFSET, 0)
    }
}

fn record(low: u64, high: u64) -> [u8; MAPPING_LEN] {
    (u128::from(low) | u128::from(high) << 64).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(start: u64, count: u32, place: Place) -> Mapping {
        Mapping {
            segment: Segment {
                start: Sector(start),
                count,
            },
            layer: 0,
            place,
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let far = (1 << 50) - 2;
        for (start, count, place) in [
            (0, 1, Place::Stored(FIRST_DATA_SECTOR)),
            (far, MAX_SEGMENT_SECTORS, Place::Zeroed),
            (1 << 32, 5, Place::Stored(Sector((1 << 55) - 10))),
        ] {
            let mapping = mapping(start, count, place);
            let decoded = Mapping::decode(&mapping.encode(), 0, Sector(1 << 55)).unwrap();
            assert_eq!(decoded, Some(mapping));
        }
    }

    #[test]
    fn a_flipped_bit_is_refused_or_says_something_else_or_is_the_tag() {
        let mapping = mapping(77, 9, Place::Stored(Sector(100)));
        for bit in 0..128 {
            let flipped = (u128::from_le_bytes(mapping.encode()) ^ 1 << bit).to_le_bytes();
            match Mapping::decode(&flipped, 0, Sector(200)) {
                Ok(other) => assert_eq!(other == Some(mapping), bit >= 120, "bit {bit}"),
                Err(error) => assert!(bit < 120, "bit {bit}: {error}"),
            }
        }
    }

    #[test]
    fn padding_is_no_mapping_and_bounds_are_kept() {
        assert_eq!(Mapping::decode(&Mapping::padding(), 0, Sector(0)), Ok(None));
        for (place, data_end) in [
            (Place::Stored(Sector(7)), 99),
            (Place::Stored(Sector(90)), 99),
            (Place::Zeroed, 7),
        ] {
            assert!(
                Mapping::decode(&mapping(0, 10, place).encode(), 0, Sector(data_end)).is_err(),
                "{place:?}"
            );
        }
        assert!(Mapping::decode(&[0; 15], 0, Sector(99)).is_err());
        assert!(
            Mapping::decode(
                &mapping(0, 10, Place::Stored(Sector(89))).encode(),
                0,
                Sector(99)
            )
            .is_ok()
        );
        assert!(Mapping::decode(&mapping(0, 0, Place::Zeroed).encode(), 0, Sector(99)).is_err());
    }

    #[test]
    fn clipping_moves_the_place_along() {
        let stored = mapping(100, 50, Place::Stored(Sector(8)));
        assert_eq!(
            stored.clip(Sector(110), Sector(120)),
            Some(mapping(110, 10, Place::Stored(Sector(18))))
        );
        assert_eq!(
            stored.clip(Sector(0), Sector(101)),
            Some(mapping(100, 1, Place::Stored(Sector(8))))
        );
        assert_eq!(stored.clip(Sector(150), Sector(160)), None);
        assert_eq!(
            mapping(100, 50, Place::Zeroed).clip(Sector(149), Sector(u64::MAX)),
            Some(mapping(149, 1, Place::Zeroed))
        );
    }
}
