//! Dealing a directory's entries into blocks, so that a changed entry changes few of them.
//!
//! Entries are sorted and blocks are consecutive, so packing them tightly would move every entry behind an inserted one.
//! Instead blocks are left with some room, and a directory that has blocks keeps its entries in the blocks
//! where their order puts them; what overflows goes to the next one.

use crate::erofs::DIRENT_LEN;

const BLOCK: usize = 4096;

/// How full the blocks of a new directory are made: an eighth is left for a dozen entries of later layers. It costs
/// addresses and zeros, and neither is stored.
const FILL: usize = BLOCK / 8 * 7;

/// Bytes that an entry takes.
pub(super) fn entry_len(name: &[u8]) -> usize {
    DIRENT_LEN + name.len()
}

/// How many blocks are kept for a directory that needs `used` now.
pub(super) fn reserve_for(used: u32) -> u32 {
    used + (used / 8).max(1)
}

/// Deals sorted `names` into new blocks; returns where the names of each block end.
pub(super) fn deal_anew(names: &[&[u8]]) -> Vec<usize> {
    let total: usize = names.iter().map(|name| entry_len(name)).sum();
    let limit = if total <= BLOCK { BLOCK } else { FILL };
    let mut ends = Vec::new();
    let mut used = 0;
    for (position, name) in names.iter().enumerate() {
        if used + entry_len(name) > limit && used > 0 {
            ends.push(position);
            used = 0;
        }
        used += entry_len(name);
    }
    ends.push(names.len());
    ends
}

/// Deals sorted `names` into blocks of which `starts` are the first names so far; returns where the names of each block
/// end.
pub(super) fn deal(names: &[&[u8]], starts: &[&[u8]]) -> Vec<usize> {
    let anew = deal_anew(names);
    // A directory that has shrunk to less than half reads faster when it is packed again.
    if anew.len() * 2 <= starts.len() || starts.is_empty() {
        return anew;
    }
    let mut ends: Vec<usize> = starts
        .iter()
        .skip(1)
        .map(|start| names.partition_point(|name| name < start))
        .collect();
    ends.push(names.len());
    let mut dealt = Vec::with_capacity(ends.len());
    let mut start = 0;
    let mut wanted = ends.into_iter();
    while start < names.len() {
        // Every block has an entry, be it one of the next block's, and none has more than fit; behind the last block
        // there are new ones.
        let wanted_end = wanted.next().unwrap_or(names.len()).max(start + 1);
        let here = names.get(start..wanted_end).unwrap_or_default();
        let mut used = 0;
        let fit = here.iter().take_while(|name| {
            used += entry_len(name);
            used <= BLOCK
        });
        start += fit.count();
        dealt.push(start);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(range: std::ops::Range<u32>) -> Vec<String> {
        range.map(|number| format!("entry-{number:06}")).collect()
    }

    fn bytes(names: &[String]) -> Vec<&[u8]> {
        names.iter().map(String::as_bytes).collect()
    }

    fn starts<'n>(names: &[&'n [u8]], ends: &[usize]) -> Vec<&'n [u8]> {
        let firsts = std::iter::once(0).chain(ends.iter().copied());
        firsts.take(ends.len()).map(|start| names[start]).collect()
    }

    fn check(names: &[&[u8]], ends: &[usize]) {
        let mut start = 0;
        for end in ends {
            assert!(*end > start, "a block is empty");
            let used: usize = names[start..*end].iter().map(|name| entry_len(name)).sum();
            assert!(used <= BLOCK, "a block overflows");
            start = *end;
        }
        assert_eq!(start, names.len());
    }

    #[test]
    fn an_inserted_entry_changes_one_block() {
        let below = names(0..10_000);
        let below = bytes(&below);
        let ends = deal_anew(&below);
        check(&below, &ends);
        let mut above = below.clone();
        above.insert(5_000, b"entry-004999-and-more");
        let changed = deal(&above, &starts(&below, &ends));
        check(&above, &changed);
        assert_eq!(changed.len(), ends.len());
        let same = ends.iter().zip(&changed).filter(|(a, b)| a == b).count();
        let shifted = ends.iter().zip(&changed).filter(|(a, b)| *a + 1 == **b);
        assert_eq!(same + shifted.count(), ends.len());
    }

    #[test]
    fn blocks_overflow_into_the_next_and_are_never_left_empty() {
        let below = names(0..2_000);
        let below = bytes(&below);
        let ends = deal_anew(&below);
        let starts = starts(&below, &ends);
        let many = names(1_000..1_400);
        let many: Vec<String> = many.iter().map(|name| format!("{name}+")).collect();
        let mut grown = [below.clone(), bytes(&many)].concat();
        grown.sort_unstable();
        check(&grown, &deal(&grown, &starts));
        let holes: Vec<&[u8]> = below
            .iter()
            .enumerate()
            .filter(|(position, _)| !(300..900).contains(position))
            .map(|(_, name)| *name)
            .collect();
        check(&holes, &deal(&holes, &starts));
        let few = &below[..40];
        assert_eq!(deal(few, &starts), deal_anew(few));
    }
}
