//! The stack: the indexes of many layers merged into one, so that a read is one look-up however deep the image is.

use crate::address::Sector;
use crate::index::Index;
use crate::segment::Mapping;

/// Layers in the deepest stack: the layer of a mapping is a number of 8 bits, of which stock readers keep one value.
pub const MAX_LAYERS: usize = 255;

/// Merges the indexes of layers, the bottom one first: where several map a sector, the uppermost holds. Each mapping of
/// the result says which layer it came from.
pub fn merge(layers: &[Index]) -> Index {
    let numbered: Vec<Vec<Mapping>> = layers
        .iter()
        .zip(0..=u8::MAX)
        .map(|(index, layer)| {
            index
                .mappings()
                .iter()
                .map(|mapping| Mapping { layer, ..*mapping })
                .collect()
        })
        .collect();
    Index::new(merge_halves(numbered)).unwrap_or_default()
}

/// Overlaying is associative, so halves are merged first: every mapping is then touched once per doubling of the depth,
/// not once per layer.
fn merge_halves(mut layers: Vec<Vec<Mapping>>) -> Vec<Mapping> {
    if layers.len() <= 1 {
        return layers.pop().unwrap_or_default();
    }
    let upper = layers.split_off(layers.len() / 2);
    overlay(&merge_halves(upper), &merge_halves(layers))
}

/// All of `upper`, and of `lower` what shows in the holes between.
fn overlay(upper: &[Mapping], lower: &[Mapping]) -> Vec<Mapping> {
    let mut merged = Vec::with_capacity(upper.len().saturating_add(lower.len()));
    let mut rest = lower;
    let mut hole_start = Sector(0);
    for mapping in upper {
        rest = show(rest, hole_start, mapping.segment.start, &mut merged);
        merged.push(*mapping);
        hole_start = mapping.segment.end();
    }
    show(rest, hole_start, Sector(u64::MAX), &mut merged);
    merged
}

/// Pushes what of `lower` lies in the hole, and returns the mappings of it that reach beyond.
fn show<'a>(
    mut lower: &'a [Mapping],
    from: Sector,
    to: Sector,
    merged: &mut Vec<Mapping>,
) -> &'a [Mapping] {
    while let Some((mapping, rest)) = lower.split_first() {
        if mapping.segment.start >= to {
            break;
        }
        merged.extend(mapping.clip(from, to));
        if mapping.segment.end() > to {
            break;
        }
        lower = rest;
    }
    lower
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::{Place, Segment};

    fn index(mappings: &[(u64, u32)]) -> Index {
        let mapping = |&(start, count): &(u64, u32)| Mapping {
            segment: Segment {
                start: Sector(start),
                count,
            },
            layer: 0,
            place: Place::Stored(Sector(1000 + start)),
        };
        Index::new(mappings.iter().map(mapping).collect()).unwrap()
    }

    fn shape(index: &Index) -> Vec<(u64, u32, u8)> {
        index
            .mappings()
            .iter()
            .map(|m| (m.segment.start.0, m.segment.count, m.layer))
            .collect()
    }

    #[test]
    fn upper_layer_hides_lower() {
        let merged = merge(&[
            index(&[(0, 100)]),
            index(&[(10, 5), (50, 50)]),
            index(&[(12, 1), (95, 20)]),
        ]);
        assert_eq!(
            shape(&merged),
            [
                (0, 10, 0),
                (10, 2, 1),
                (12, 1, 2),
                (13, 2, 1),
                (15, 35, 0),
                (50, 45, 1),
                (95, 20, 2)
            ]
        );
        assert_eq!(
            merged
                .over(Sector(14), Sector(16))
                .map(|m| m.place)
                .collect::<Vec<_>>(),
            [Place::Stored(Sector(1014)), Place::Stored(Sector(1015))]
        );
    }

    #[test]
    fn sectors_beyond_32_bits_keep_their_place() {
        let far = (1 << 32) + 500;
        let merged = merge(&[index(&[(0, 1), (far, 10)]), index(&[(1000, 1)])]);
        assert_eq!(shape(&merged), [(0, 1, 0), (1000, 1, 1), (far, 10, 0)]);
    }

    #[test]
    fn nothing_merges_to_nothing() {
        assert_eq!(merge(&[]), Index::default());
        assert_eq!(
            shape(&merge(&[
                Index::default(),
                index(&[(3, 1)]),
                Index::default()
            ])),
            [(3, 1, 1)]
        );
    }
}
