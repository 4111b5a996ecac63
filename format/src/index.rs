//! The index: sorted mappings, looked up by sector.

use crate::address::Sector;
use crate::error::{DecodeError, Fault};
use crate::segment::{MAPPING_LEN, Mapping};

/// Mappings sorted by sector, none overlapping another. Sectors that none covers belong to lower layers, or are zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index(Vec<Mapping>);

impl Index {
    /// The index of these mappings; `None` if they are not sorted, or overlap.
    pub fn new(mappings: Vec<Mapping>) -> Option<Self> {
        let in_order = mappings
            .iter()
            .zip(mappings.iter().skip(1))
            .all(|(lower, upper)| precedes(lower, upper));
        in_order.then_some(Self(mappings))
    }

    /// The index whose records are `bytes`, padding left out. `at` is where they lie in the layer file, which is also where
    /// data ends.
    pub(crate) fn decode(bytes: &[u8], at: u64) -> Result<Self, DecodeError> {
        let data_end = Sector::of_byte(at);
        let mut mappings: Vec<Mapping> = Vec::new();
        let mut offset = at;
        for record in bytes.chunks(MAPPING_LEN) {
            if let Some(mapping) = Mapping::decode(record, offset, data_end)? {
                if mappings
                    .last()
                    .is_some_and(|before| !precedes(before, &mapping))
                {
                    let why = Fault::Rule("it begins before the record before it ends");
                    return Err(DecodeError::new("index record", offset, why));
                }
                mappings.push(mapping);
            }
            offset = offset.saturating_add(MAPPING_LEN as u64);
        }
        Ok(Self(mappings))
    }

    /// All mappings, in order.
    pub fn mappings(&self) -> &[Mapping] {
        &self.0
    }

    /// The mappings of the sectors `[from, to)`, in order and clipped to them.
    pub fn over(&self, from: Sector, to: Sector) -> impl Iterator<Item = Mapping> + use<'_> {
        let first = self
            .0
            .partition_point(|mapping| mapping.segment.end() <= from);
        let rest = self.0.get(first..).unwrap_or(&[]);
        rest.iter()
            .take_while(move |mapping| mapping.segment.start < to)
            .filter_map(move |mapping| mapping.clip(from, to))
    }
}

fn precedes(lower: &Mapping, upper: &Mapping) -> bool {
    lower.segment.end() <= upper.segment.start
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::{Place, Segment};

    fn mapping(start: u64, count: u32) -> Mapping {
        Mapping {
            segment: Segment {
                start: Sector(start),
                count,
            },
            layer: 0,
            place: Place::Stored(Sector(8 + start)),
        }
    }

    #[test]
    fn records_out_of_order_or_overlapping_are_refused() {
        let encode = |mappings: &[Mapping]| {
            mappings
                .iter()
                .flat_map(Mapping::encode)
                .collect::<Vec<_>>()
        };
        let at = 1 << 20;
        assert!(Index::decode(&encode(&[mapping(0, 5), mapping(5, 5)]), at).is_ok());
        for wrong in [
            [mapping(5, 5), mapping(0, 5)],
            [mapping(0, 6), mapping(5, 5)],
            [mapping(3, 1), mapping(3, 1)],
        ] {
            let error = Index::decode(&encode(&wrong), at).unwrap_err();
            assert_eq!(error.offset, at + 16);
            assert_eq!(Index::new(wrong.to_vec()), None);
        }
    }

    #[test]
    fn padding_may_stand_anywhere() {
        let bytes = [
            Mapping::padding(),
            mapping(1, 1).encode(),
            Mapping::padding(),
            mapping(9, 1).encode(),
        ]
        .concat();
        assert_eq!(
            Index::decode(&bytes, 1 << 20).unwrap().mappings(),
            [mapping(1, 1), mapping(9, 1)]
        );
        assert!(Index::decode(&bytes[..63], 1 << 20).is_err());
    }

    #[test]
    fn a_look_up_clips_to_what_was_asked() {
        let index = Index::new(vec![mapping(10, 10), mapping(30, 10)]).unwrap();
        let over = |from, to| {
            index
                .over(Sector(from), Sector(to))
                .map(|m| (m.segment.start.0, m.segment.count))
                .collect::<Vec<_>>()
        };
        assert_eq!(over(0, 10), []);
        assert_eq!(over(0, 100), [(10, 10), (30, 10)]);
        assert_eq!(over(19, 31), [(19, 1), (30, 1)]);
        assert_eq!(over(20, 30), []);
        assert_eq!(over(39, u64::MAX), [(39, 1)]);
        assert_eq!(over(12, 12), []);
    }
}
