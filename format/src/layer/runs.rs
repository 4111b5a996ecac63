//! Where each sector is, while a layer is being written.
//!
//! Sectors may be written in any order and again; what was written last holds. Runs are as long as they can be and are
//! cut into records at the end, so that the index does not depend on how the writes were sliced.

use std::collections::BTreeMap;

use crate::address::Sector;
use crate::segment::{MAX_SEGMENT_SECTORS, Mapping, Place, Segment};

/// Runs of sectors by their first sector; none overlaps another.
#[derive(Debug, Default)]
pub(super) struct Runs(BTreeMap<u64, Run>);

#[derive(Clone, Copy, Debug)]
struct Run {
    end: u64,
    place: Place,
}

impl Runs {
    /// Says that `[start, end)` is at `place`, whatever was said before.
    pub(super) fn set(&mut self, start: u64, end: u64, place: Place) {
        if start >= end {
            return;
        }
        self.clear(start, end);
        if let Some((&before, run)) = self.0.range_mut(..start).next_back()
            && run.end == start
            && advance(run.place, start.saturating_sub(before)) == place
        {
            run.end = end;
            return;
        }
        self.0.insert(start, Run { end, place });
    }

    /// Forgets `[start, end)`, cutting the runs that reach across its edges.
    fn clear(&mut self, start: u64, end: u64) {
        if let Some((&before, run)) = self.0.range_mut(..start).next_back()
            && run.end > start
        {
            let whole = *run;
            run.end = start;
            if whole.end > end {
                let place = advance(whole.place, end.saturating_sub(before));
                self.0.insert(
                    end,
                    Run {
                        end: whole.end,
                        place,
                    },
                );
                return;
            }
        }
        while let Some((&within, &run)) = self.0.range(start..end).next() {
            self.0.remove(&within);
            if run.end > end {
                let place = advance(run.place, end.saturating_sub(within));
                self.0.insert(
                    end,
                    Run {
                        end: run.end,
                        place,
                    },
                );
            }
        }
    }

    /// Sectors that are mapped at all.
    pub(super) fn sectors(&self) -> u64 {
        self.0
            .iter()
            .map(|(start, run)| run.end.saturating_sub(*start))
            .fold(0, u64::saturating_add)
    }

    /// The runs as mappings, each as long as a record allows.
    pub(super) fn mappings(&self) -> impl Iterator<Item = Mapping> + use<'_> {
        self.joined().flat_map(|(start, run)| {
            let step = u64::from(MAX_SEGMENT_SECTORS);
            let pieces = run.end.saturating_sub(start).div_ceil(step);
            (0..pieces).filter_map(move |piece| {
                let skipped = piece.saturating_mul(step);
                let from = start.saturating_add(skipped);
                let count = u32::try_from(run.end.saturating_sub(from).min(step)).ok()?;
                let segment = Segment {
                    start: Sector(from),
                    count,
                };
                Some(Mapping {
                    segment,
                    layer: 0,
                    place: advance(run.place, skipped),
                })
            })
        })
    }

    /// The runs, those that continue each other as one: a write into a hole leaves two that touch.
    fn joined(&self) -> impl Iterator<Item = (u64, Run)> + use<'_> {
        let mut runs = self.0.iter().map(|(start, run)| (*start, *run)).peekable();
        core::iter::from_fn(move || {
            let (start, mut run) = runs.next()?;
            while let Some((_, next)) = runs.next_if(|(next_start, next)| {
                *next_start == run.end
                    && advance(run.place, next_start.saturating_sub(start)) == next.place
            }) {
                run.end = next.end;
            }
            Some((start, run))
        })
    }
}

/// The place of what lies `sectors` behind the beginning of a run.
fn advance(place: Place, sectors: u64) -> Place {
    match place {
        Place::Stored(at) => Place::Stored(Sector(at.0.saturating_add(sectors))),
        Place::Zeroed => Place::Zeroed,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shape(runs: &Runs) -> Vec<(u64, u32, Place)> {
        runs.mappings()
            .map(|m| (m.segment.start.0, m.segment.count, m.place))
            .collect()
    }

    #[test]
    fn runs_that_continue_each_other_are_one() {
        let mut runs = Runs::default();
        runs.set(10, 20, Place::Stored(Sector(100)));
        runs.set(20, 25, Place::Stored(Sector(110)));
        runs.set(30, 40, Place::Zeroed);
        runs.set(25, 30, Place::Zeroed);
        assert_eq!(
            shape(&runs),
            [
                (10, 15, Place::Stored(Sector(100))),
                (25, 15, Place::Zeroed)
            ]
        );
        assert_eq!(runs.sectors(), 30);
    }

    #[test]
    fn long_runs_are_cut_into_records() {
        let mut runs = Runs::default();
        runs.set(0, 40_000, Place::Stored(Sector(8)));
        let stored = |at| Place::Stored(Sector(at));
        assert_eq!(
            shape(&runs),
            [
                (0, 16_383, stored(8)),
                (16_383, 16_383, stored(16_391)),
                (32_766, 7_234, stored(32_774))
            ]
        );
    }

    proptest! {
        #[test]
        fn the_last_write_holds(writes in prop::collection::vec((0_u64..60, 1_u64..20, any::<bool>()), 0..20)) {
            let mut runs = Runs::default();
            let mut painted = [None; 80];
            let mut stored = 1000;
            for (start, count, zeroed) in writes {
                let place = if zeroed { Place::Zeroed } else { Place::Stored(Sector(stored)) };
                runs.set(start, start + count, place);
                for (sector, step) in (start..start + count).zip(0..) {
                    painted[usize::try_from(sector).unwrap()] = Some(advance(place, step));
                }
                stored += count;
            }
            let mut read = [None; 80];
            for mapping in runs.mappings() {
                for step in 0..u64::from(mapping.segment.count) {
                    let sector = usize::try_from(mapping.segment.start.0 + step).unwrap();
                    prop_assert_eq!(read[sector].replace(advance(mapping.place, step)), None);
                }
            }
            prop_assert_eq!(read, painted);
            prop_assert_eq!(runs.sectors(), painted.iter().flatten().count() as u64);
        }
    }
}
