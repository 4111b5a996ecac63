//! What givers give: random bytes, the same in every process.

use bytes::Bytes;

/// Bytes of all chunks together: more than a processor's caches hold.
const ALL_LEN: usize = 64 << 20;
/// Requests with this bit are for 64 KiB that a reader waits for, whatever the giver's usual length.
pub(super) const DEMAND: u32 = 1 << 31;
/// Their length.
const DEMAND_LEN: usize = 64 << 10;

/// `len` bytes that look like nothing, which is what compressed bytes look like.
pub(super) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Chunks in memory, by number.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    all: Bytes,
    len: usize,
}

impl Answers {
    /// Chunks of `len` bytes.
    pub(super) fn new(len: usize) -> Self {
        Self {
            all: noise(ALL_LEN, 1).into(),
            len,
        }
    }

    /// The chunk of this number; numbers go around.
    pub(super) fn get(&self, number: u32) -> Bytes {
        let len = if number & DEMAND == 0 {
            self.len
        } else {
            DEMAND_LEN
        };
        let place = (number & !DEMAND) as usize % (self.all.len() / len);
        self.all.slice(place * len..(place + 1) * len)
    }
}
