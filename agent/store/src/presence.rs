//! Which chunks of one blob are here: a word a chunk in memory, and its shadow in the map file.
//!
//! A word holds two flags and a generation. *Present* says that the chunk's bytes are in the data file. *Trusted* says
//! that they were hashed since this process opened the store; it is never written down, so each chunk is hashed again
//! once after a start, and whatever a crash or a bad disk left is found then. The *generation* changes whenever the chunk
//! comes or goes: a reader that finds the same one before and after its read has read this chunk and no hole.
//!
//! Writers of a word hold the blob's lock for that chunk; readers take no lock.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const PRESENT: u32 = 1;
const TRUSTED: u32 = 2;
/// The generation fills the rest of the word. It would take 2^30 evictions of one chunk during one read to be mistaken.
const GENERATION: u32 = 4;

/// Length of one chunk's entry in the map file.
pub(crate) const ENTRY_LEN: u64 = 4;

/// Counts of a chunk's reads stop here.
const MAX_HEAT: u32 = 3;

/// A chunk's word as it was at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word(u32);

impl Word {
    pub(crate) fn is_present(self) -> bool {
        self.0 & PRESENT != 0
    }

    pub(crate) fn is_trusted(self) -> bool {
        self.0 & TRUSTED != 0
    }

    /// The word after the chunk came.
    pub(crate) fn come(self) -> Self {
        Self(self.next_generation() | PRESENT | TRUSTED)
    }

    /// The word after the chunk went.
    pub(crate) fn gone(self) -> Self {
        Self(self.next_generation())
    }

    /// What the map file holds for it.
    pub(crate) fn entry(self) -> [u8; 4] {
        (self.0 & !TRUSTED).to_le_bytes()
    }

    pub(crate) fn from_entry(entry: [u8; 4]) -> Self {
        let word = u32::from_le_bytes(entry);
        // No writer sets this flag in the file, so an entry that has it is damage and says nothing.
        if word & TRUSTED != 0 {
            return Self(word & !(PRESENT | TRUSTED));
        }
        Self(word)
    }

    /// The word as a number; not zero when the chunk is present.
    pub(crate) fn number(self) -> u32 {
        self.0
    }

    /// Whether the chunk stayed the same between the two moments.
    fn is_same_chunk(self, other: Self) -> bool {
        self.0 | TRUSTED == other.0 | TRUSTED
    }

    fn next_generation(self) -> u32 {
        (self.0 & !(PRESENT | TRUSTED)).wrapping_add(GENERATION)
    }
}

#[derive(Debug, Default)]
struct Slot {
    word: AtomicU32,
    /// When the chunk was last read (an epoch of the store's own clock) and how often, in the two lowest bits.
    heat: AtomicU32,
}

/// The words of one blob.
#[derive(Debug)]
pub(crate) struct Presence {
    slots: Box<[Slot]>,
    count: AtomicU32,
    len: AtomicU64,
}

impl Presence {
    /// Reads the map file's bytes; `chunk_len` says how long each chunk is. Entries that are missing say "absent".
    pub(crate) fn decode(map: &[u8], chunk_count: u32, chunk_len: impl Fn(u32) -> u64) -> Self {
        let mut entries = map.chunks_exact(4);
        let mut count = 0;
        let mut len = 0_u64;
        let slots = (0..chunk_count)
            .map(|index| {
                let entry = entries
                    .next()
                    .and_then(|bytes| bytes.try_into().ok())
                    .unwrap_or_default();
                let word = Word::from_entry(entry);
                if word.is_present() {
                    count += 1;
                    len = len.saturating_add(chunk_len(index));
                }
                Slot {
                    word: AtomicU32::new(word.0),
                    heat: AtomicU32::new(0),
                }
            })
            .collect();
        Self {
            slots,
            count: AtomicU32::new(count),
            len: AtomicU64::new(len),
        }
    }

    /// The chunk's word now; that of an absent chunk when there is no such chunk.
    pub(crate) fn word(&self, index: u32) -> Word {
        Word(
            self.slot(index)
                .map_or(0, |slot| slot.word.load(Ordering::Acquire)),
        )
    }

    /// Whether the chunk is still the one that `before` told of.
    pub(crate) fn is_unchanged(&self, index: u32, before: Word) -> bool {
        // The read of the file lies between the two loads; the fence keeps the second one after it.
        std::sync::atomic::fence(Ordering::SeqCst);
        self.word(index).is_same_chunk(before)
    }

    /// Sets the word. The caller holds the chunk's lock; `chunk_len` is counted in or out.
    pub(crate) fn set(&self, index: u32, word: Word, chunk_len: u64) {
        let Some(slot) = self.slot(index) else {
            return;
        };
        let before = Word(slot.word.swap(word.0, Ordering::SeqCst));
        match (before.is_present(), word.is_present()) {
            (false, true) => {
                self.count.fetch_add(1, Ordering::Relaxed);
                self.len.fetch_add(chunk_len, Ordering::Relaxed);
            }
            (true, false) => {
                self.count.fetch_sub(1, Ordering::Relaxed);
                self.len.fetch_sub(chunk_len, Ordering::Relaxed);
            }
            (true, true) | (false, false) => {}
        }
    }

    /// Notes that the chunk that `before` told of was hashed and is right.
    pub(crate) fn trust(&self, index: u32, before: Word) {
        if let Some(slot) = self.slot(index) {
            // When the chunk has changed meanwhile, whoever changed it has said what is true of it.
            let _ = slot.word.compare_exchange(
                before.0,
                before.0 | TRUSTED,
                Ordering::SeqCst,
                Ordering::Relaxed,
            );
        }
    }

    /// Counts a read. Reads of the same epoch count once, since one pass over a file reads each chunk many times.
    pub(crate) fn warm(&self, index: u32, epoch: u32) {
        let Some(slot) = self.slot(index) else {
            return;
        };
        let heat = slot.heat.load(Ordering::Relaxed);
        let epoch = epoch << 2;
        if heat & !MAX_HEAT != epoch {
            let count = (heat & MAX_HEAT).saturating_add(1).min(MAX_HEAT);
            slot.heat.store(epoch | count, Ordering::Relaxed);
        }
    }

    /// The chunk came in this epoch and was not read yet.
    pub(crate) fn chill(&self, index: u32, epoch: u32) {
        if let Some(slot) = self.slot(index) {
            slot.heat.store(epoch << 2, Ordering::Relaxed);
        }
    }

    /// How often the chunk was read; takes one away.
    pub(crate) fn cool(&self, index: u32) -> u8 {
        let Some(slot) = self.slot(index) else {
            return 0;
        };
        let heat = slot.heat.load(Ordering::Relaxed);
        let count = heat & MAX_HEAT;
        if count > 0 {
            slot.heat.store(heat.saturating_sub(1), Ordering::Relaxed);
        }
        u8::try_from(count).unwrap_or(u8::MAX)
    }

    /// How many chunks are present.
    pub(crate) fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// How many bytes those hold.
    pub(crate) fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    /// A bit a chunk: bit `i % 8`, counted from the lowest, of byte `i / 8`.
    pub(crate) fn bitmap(&self) -> Vec<u8> {
        self.slots
            .chunks(8)
            .map(|slots| {
                slots.iter().enumerate().fold(0, |byte, (bit, slot)| {
                    let present = Word(slot.word.load(Ordering::Relaxed)).is_present();
                    byte | (u8::from(present) << bit)
                })
            })
            .collect()
    }

    fn slot(&self, index: u32) -> Option<&Slot> {
        self.slots.get(usize::try_from(index).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_says_present_and_never_trusted() {
        let word = Word(0).come();
        assert!(word.is_present() && word.is_trusted());
        let again = Word::from_entry(word.entry());
        assert!(again.is_present() && !again.is_trusted());
        assert!(again.is_same_chunk(word));
        assert!(!Word::from_entry(word.gone().entry()).is_present());
    }

    #[test]
    fn damaged_entry_says_absent() {
        assert!(!Word::from_entry([0xFF; 4]).is_present());
    }

    #[test]
    fn chunk_that_went_and_came_again_is_not_the_same() {
        let first = Word(0).come();
        let second = first.gone().come();
        assert!(!first.is_same_chunk(second));
    }

    #[test]
    fn short_map_means_absent() {
        let map = Word(0).come().entry();
        let presence = Presence::decode(&map[..], 3, |_| 10);
        assert_eq!(presence.bitmap(), [0b001]);
        assert_eq!((presence.count(), presence.len()), (1, 10));
        let torn = Presence::decode(&map[..3], 3, |_| 10);
        assert_eq!(torn.count(), 0);
    }

    #[test]
    fn reads_of_one_epoch_count_once() {
        let presence = Presence::decode(&[], 1, |_| 1);
        presence.chill(0, 5);
        presence.warm(0, 5);
        assert_eq!(presence.cool(0), 0);
        for epoch in 6..20 {
            presence.warm(0, epoch);
            presence.warm(0, epoch);
        }
        assert_eq!(presence.cool(0), 3);
        assert_eq!(presence.cool(0), 2);
    }

    #[test]
    fn chunks_past_the_end_are_absent_for_ever() {
        let presence = Presence::decode(&[], 1, |_| 1);
        presence.set(1, Word(0).come(), 1);
        assert!(!presence.word(1).is_present());
        assert_eq!(presence.count(), 0);
    }
}
