//! A ring of requests in a guest's memory, in virtio's "split" form: <https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html>.
//!
//! The guest puts chains of descriptors up; they are taken from here in its order, and given back in any. What stands in the ring is the
//! guest's word: a chain that loops, is too long or lies outside of the memory ends the ring, and harms nobody but that guest.

use super::in_flight::InFlightRing;
use super::memory::Memory;

/// Longest chain, in descriptors: far above what systems send, which have 128 at most.
const CHAIN_LEN_MAX: usize = 1024;
/// Length of a descriptor.
const DESCRIPTOR_LEN: u64 = 16;

const HAS_NEXT: u16 = 1;
const IS_WRITABLE: u16 = 2;
const IS_INDIRECT: u16 = 4;
/// In the guest's part: it does not want to be told of what is given back.
const NO_INTERRUPT: u16 = 1;

/// A run of the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) address: u64,
    pub(super) len: u32,
}

/// A request as it stands in the guest's memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Chain {
    /// By which it is given back.
    pub(super) head: u16,
    /// What the guest has written for the device.
    pub(super) readable: Vec<Segment>,
    /// What it wants filled.
    pub(super) writable: Vec<Segment>,
}

/// What is wrong with a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum RingError {
    /// It does not lie in the guest's memory.
    #[error("the ring does not lie in the guest's memory")]
    Outside,
    /// The guest puts up more than the ring holds.
    #[error("the guest puts up more than the ring holds")]
    Overrun,
    /// A chain has no end, or one that is far away.
    #[error("a chain of descriptors is too long, or loops, or names what is not there")]
    Chain,
    /// The ring's length is not a power of two up to 32768.
    #[error("a ring cannot have {0} places")]
    Len(u32),
}

/// A ring and how far it is.
#[derive(Debug)]
pub(super) struct Ring {
    descriptors: u64,
    available: u64,
    used: u64,
    len: u16,
    next_available: u16,
    next_used: u16,
    /// What an earlier process had begun, to be done again; the next one last.
    again: Vec<u16>,
    /// Where what is begun is noted, for a later process.
    in_flight: Option<InFlightRing>,
}

impl Ring {
    /// A ring of `len` places at the guest's addresses, from which the first `base` requests were taken. What `in_flight` has noted is
    /// done again first.
    pub(super) fn new(
        memory: &impl Memory,
        (descriptors, available, used): (u64, u64, u64),
        len: u32,
        base: u16,
        in_flight: Option<InFlightRing>,
    ) -> Result<Self, RingError> {
        let len = u16::try_from(len)
            .ok()
            .filter(|len| len.is_power_of_two())
            .ok_or(RingError::Len(len))?;
        let mut ring = Self {
            descriptors,
            available,
            used,
            len,
            next_available: base,
            next_used: 0,
            again: Vec::new(),
            in_flight,
        };
        ring.next_used = memory
            .load(ring.used.saturating_add(2))
            .ok_or(RingError::Outside)?;
        if let Some(in_flight) = &mut ring.in_flight {
            ring.again = in_flight.recover(ring.next_used, len);
            let again_count = u16::try_from(ring.again.len()).unwrap_or(u16::MAX);
            ring.next_available = ring.next_used.wrapping_add(again_count);
        }
        Ok(ring)
    }

    /// The number of the next request that would be taken.
    pub(super) fn base(&self) -> u16 {
        self.next_available
    }

    /// Takes the next request, if there is one.
    pub(super) fn take(&mut self, memory: &impl Memory) -> Result<Option<Chain>, RingError> {
        if let Some(head) = self.again.pop() {
            return chain(memory, self.descriptors, self.len, head).map(Some);
        }
        let put_up = memory
            .load(self.available.saturating_add(2))
            .ok_or(RingError::Outside)?;
        match put_up.wrapping_sub(self.next_available) {
            0 => return Ok(None),
            count if count > self.len => return Err(RingError::Overrun),
            _ => {}
        }
        let place = self.next_available % self.len;
        let at = self.available.saturating_add(4 + 2 * u64::from(place));
        let mut head = [0; 2];
        if !memory.read(at, &mut head) {
            return Err(RingError::Outside);
        }
        let head = u16::from_le_bytes(head);
        let chain = chain(memory, self.descriptors, self.len, head)?;
        self.next_available = self.next_available.wrapping_add(1);
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.begin(head);
        }
        Ok(Some(chain))
    }

    /// Gives a request back, of which the first `written_len` writable bytes were written; whether the guest wants to be told.
    pub(super) fn give_back(
        &mut self,
        memory: &impl Memory,
        head: u16,
        written_len: u32,
    ) -> Result<bool, RingError> {
        let place = self.next_used % self.len;
        let at = self.used.saturating_add(4 + 8 * u64::from(place));
        let mut element = [0; 8];
        element[..4].copy_from_slice(&u32::from(head).to_le_bytes());
        element[4..].copy_from_slice(&written_len.to_le_bytes());
        if !memory.write(at, &element) {
            return Err(RingError::Outside);
        }
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.about_to_give_back(head);
        }
        self.next_used = self.next_used.wrapping_add(1);
        if !memory.store(self.used.saturating_add(2), self.next_used) {
            return Err(RingError::Outside);
        }
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.given_back(head, self.next_used);
        }
        let wishes = memory.load(self.available).ok_or(RingError::Outside)?;
        Ok(wishes & NO_INTERRUPT == 0)
    }
}

/// A descriptor as it stands in a table.
struct Descriptor {
    segment: Segment,
    flags: u16,
    next: u16,
}

fn descriptor(memory: &impl Memory, table: u64, index: u64) -> Option<Descriptor> {
    let at = table.checked_add(index.checked_mul(DESCRIPTOR_LEN)?)?;
    let mut bytes = [0; 16];
    memory.read(at, &mut bytes).then_some(())?;
    let (address, rest) = bytes.split_first_chunk()?;
    let (len, rest) = rest.split_first_chunk()?;
    let (flags, rest) = rest.split_first_chunk()?;
    let (next, _) = rest.split_first_chunk()?;
    Some(Descriptor {
        segment: Segment {
            address: u64::from_le_bytes(*address),
            len: u32::from_le_bytes(*len),
        },
        flags: u16::from_le_bytes(*flags),
        next: u16::from_le_bytes(*next),
    })
}

/// The chain that begins at `head` of the ring's table.
fn chain(memory: &impl Memory, table: u64, len: u16, head: u16) -> Result<Chain, RingError> {
    let mut chain = Chain {
        head,
        ..Chain::default()
    };
    let (mut table, mut table_len) = (table, u64::from(len));
    let (mut index, mut is_indirect) = (u64::from(head), false);
    loop {
        if index >= table_len || chain.readable.len() + chain.writable.len() >= CHAIN_LEN_MAX {
            return Err(RingError::Chain);
        }
        let found = descriptor(memory, table, index).ok_or(RingError::Outside)?;
        if found.flags & IS_INDIRECT != 0 {
            // One table, in the place of the first descriptor.
            let count = u64::from(found.segment.len) / DESCRIPTOR_LEN;
            let is_first = chain.readable.is_empty() && chain.writable.is_empty();
            if is_indirect || !is_first || found.flags & HAS_NEXT != 0 || count == 0 {
                return Err(RingError::Chain);
            }
            (table, table_len, index) = (found.segment.address, count, 0);
            is_indirect = true;
            continue;
        }
        if found.flags & IS_WRITABLE != 0 {
            chain.writable.push(found.segment);
        } else if chain.writable.is_empty() {
            chain.readable.push(found.segment);
        } else {
            // What is read stands before what is written.
            return Err(RingError::Chain);
        }
        if found.flags & HAS_NEXT == 0 {
            return Ok(chain);
        }
        index = u64::from(found.next);
    }
}

#[cfg(test)]
mod tests;
