//! How far to read ahead of whom: pure bookkeeping of a few sequential readers of one blob.
//!
//! A kernel that reads a file of an image reads stored bytes in order, now and then interrupted by metadata from
//! elsewhere in the blob, and several files are read at once. So a few readers are told apart by the chunk that each
//! would read next. One that goes on in order is kept 1, 2, 4, 8, 16 chunks ahead of; one that jumps starts over, and
//! costs nothing.

use std::ops::Range;

/// Readers of one blob that are told apart. More than this at once look like random reads, which is right: that many
/// windows would crowd out the reads themselves.
const READER_COUNT: usize = 8;

#[derive(Clone, Copy, Debug, Default)]
struct Reader {
    /// The chunk that an orderly reader comes to next.
    next: u32,
    /// How many chunks it is kept ahead of.
    window: u32,
    /// Chunks before this one were asked for already.
    asked: u32,
    /// When it was last seen, in touches.
    seen: u64,
}

/// The readers of one blob.
#[derive(Debug)]
pub struct ReadAhead {
    readers: [Reader; READER_COUNT],
    touches: u64,
    most: u32,
}

impl ReadAhead {
    /// Keeps a reader at most `most` chunks ahead; 0 never reads ahead.
    pub fn new(most: u32) -> Self {
        Self {
            readers: [Reader::default(); READER_COUNT],
            touches: 0,
            most,
        }
    }

    /// A read touched `chunk`, of a blob of `count` chunks. Names the chunks to fetch now.
    pub fn touched(&mut self, chunk: u32, count: u32) -> Range<u32> {
        if self.most == 0 {
            return 0..0;
        }
        self.touches = self.touches.saturating_add(1);
        let touches = self.touches;
        let next = chunk.saturating_add(1);
        if let Some(reader) = self
            .readers
            .iter_mut()
            .find(|reader| reader.seen > 0 && reader.next == next)
        {
            // Still inside the chunk that it came to before.
            reader.seen = touches;
            return 0..0;
        }
        if let Some(reader) = self.readers.iter_mut().find(|reader| {
            reader.seen > 0
                && (reader.next..=reader.next.saturating_add(reader.window)).contains(&chunk)
        }) {
            reader.seen = touches;
            reader.next = next;
            reader.window = reader.window.saturating_mul(2).clamp(1, self.most);
            let start = reader.asked.max(next);
            let end = next.saturating_add(reader.window).min(count);
            reader.asked = reader.asked.max(end);
            return start..end.max(start);
        }
        if let Some(oldest) = self.readers.iter_mut().min_by_key(|reader| reader.seen) {
            *oldest = Reader {
                next,
                window: 0,
                asked: next,
                seen: touches,
            };
        }
        0..0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_of_an_orderly_reader_grows_to_the_limit_and_no_chunk_is_asked_for_twice() {
        let mut ahead = ReadAhead::new(16);
        let mut asked = Vec::new();
        let mut ends = Vec::new();
        for chunk in 0..40 {
            let range = ahead.touched(chunk, 1000);
            ends.push(range.end.saturating_sub(chunk + 1));
            asked.extend(range);
        }
        assert_eq!(&ends[..7], [0, 1, 2, 4, 8, 16, 16]);
        let expected: Vec<u32> = (2..40 + 16).collect();
        assert_eq!(asked, expected);
    }

    #[test]
    fn random_reads_ask_for_nothing() {
        let mut ahead = ReadAhead::new(16);
        let mut chunk = 1_u32;
        for _ in 0..1000 {
            chunk = chunk.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            assert!(ahead.touched(chunk % 1_000_000, 1_000_000).is_empty());
        }
    }

    #[test]
    fn readers_in_turn_are_told_apart() {
        let mut ahead = ReadAhead::new(16);
        let mut asked = 0;
        for step in 0..20 {
            for reader in 0..4 {
                asked += ahead.touched(reader * 1000 + step, 10_000).len();
            }
        }
        assert!(asked >= 4 * 30, "{asked}");
    }

    #[test]
    fn many_reads_of_one_chunk_are_one_touch() {
        let mut ahead = ReadAhead::new(16);
        for _ in 0..10 {
            assert!(ahead.touched(7, 100).is_empty());
        }
        assert_eq!(ahead.touched(8, 100), 9..10);
        assert!(ahead.touched(8, 100).is_empty());
    }

    #[test]
    fn nothing_past_the_end_is_asked_for() {
        let mut ahead = ReadAhead::new(16);
        let mut last = 0;
        for chunk in 0..10 {
            for asked in ahead.touched(chunk, 10) {
                last = asked;
            }
        }
        assert_eq!(last, 9);
    }

    #[test]
    fn limit_of_zero_turns_it_off() {
        let mut ahead = ReadAhead::new(0);
        assert!((0..100).all(|chunk| ahead.touched(chunk, 100).is_empty()));
    }
}
