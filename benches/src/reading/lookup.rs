//! Look-ups in a merged index of the size of the largest production image that was ever published: 4,500 segments.

use super::{Random, rate};
use anyhow::Result;
use std::hint::black_box;
use tranship_format::Sector;
use tranship_format::index::Index;
use tranship_format::segment::{Mapping, Place, Segment};

/// Segments of the index.
const COUNT: u32 = 4500;
/// Sectors that one look-up asks for: a page.
const WANTED: u64 = 8;
/// Look-ups between two looks at the clock.
const ROUND: u32 = 4096;

/// An index and where it ends.
pub(super) struct Lookup {
    index: Index,
    end: u64,
}

impl Lookup {
    /// Segments of 8 to 1,031 sectors with a hole behind every fourth.
    pub(super) fn make() -> Self {
        let mut random = Random(7);
        let (mut start, mut mappings) = (0, Vec::new());
        for number in 0..COUNT {
            let count = 8 + random.below(1024);
            mappings.push(Mapping {
                segment: Segment {
                    start: Sector(start),
                    count: u32::try_from(count).unwrap_or(1),
                },
                layer: u8::try_from(number % 3).unwrap_or(0),
                place: Place::Stored(Sector(8 + start)),
            });
            start += count + if number % 4 == 0 { 40 } else { 0 };
        }
        let index = Index::new(mappings).unwrap_or_default();
        Self { index, end: start }
    }

    pub(super) fn count(&self) -> usize {
        self.index.mappings().len()
    }

    /// Look-ups a second, what is found copied out and cut to what was asked for.
    pub(super) fn per_second(&self) -> Result<f64> {
        let mut random = Random(3);
        let mut found: Vec<Mapping> = Vec::with_capacity(64);
        rate(|| {
            for _ in 0..ROUND {
                let from = random.below(self.end);
                found.clear();
                found.extend(self.index.over(Sector(from), Sector(from + WANTED)));
                black_box(found.as_slice());
            }
            Ok(f64::from(ROUND))
        })
    }
}
