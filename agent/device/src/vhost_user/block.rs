//! A disk in virtio's words: what it says of itself, and what its requests want.
//!
//! Read-only: it says so, and refuses a write all the same.

use crate::errno::Errno;

use super::memory::Memory;
use super::ring::{Chain, Segment};

/// Length of a sector, in bytes: the unit of virtio's disks, whatever their blocks.
pub(super) const SECTOR_LEN: u64 = 512;
/// Longest read, in bytes. Systems send 1 or 4 MiB.
const READ_LEN_MAX: u64 = 32 << 20;
/// Most runs of memory a request: what a guest is asked to keep to.
const SEGMENT_COUNT: u32 = 126;
/// Length of what stands before the data of a request.
const HEAD_LEN: usize = 16;
/// Length of a disk's name, in bytes.
const ID_LEN: usize = 20;

/// Bits of what the disk can do.
mod feature {
    pub(super) const SEGMENT_COUNT: u64 = 1 << 2;
    pub(super) const READ_ONLY: u64 = 1 << 5;
    pub(super) const BLOCK_LEN: u64 = 1 << 6;
    pub(super) const FLUSH: u64 = 1 << 9;
    pub(super) const MULTI_QUEUE: u64 = 1 << 12;
    /// A chain may lie in a table of its own.
    pub(super) const INDIRECT: u64 = 1 << 28;
    pub(super) const VERSION_1: u64 = 1 << 32;
}

/// What the disk can do.
pub(super) const FEATURES: u64 = feature::SEGMENT_COUNT
    | feature::READ_ONLY
    | feature::BLOCK_LEN
    | feature::FLUSH
    | feature::MULTI_QUEUE
    | feature::INDIRECT
    | feature::VERSION_1;

/// How a request ended, as the guest is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Done,
    Failed,
    NotSupported,
}

impl Status {
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::NotSupported => 2,
        }
    }
}

/// What a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// `len` bytes from `offset` on.
    Read { offset: u64, len: u64 },
    /// The disk's name.
    Name,
    /// Nothing but this answer.
    Nothing(Status),
}

/// The disk's configuration, of which `len` bytes from `offset` on are asked for.
pub(super) fn config(device_len: u64, ring_count: u16, offset: u32, len: u32) -> Vec<u8> {
    let mut config = (device_len / SECTOR_LEN).to_le_bytes().to_vec();
    config.extend_from_slice(&0_u32.to_le_bytes()); // longest segment: any
    config.extend_from_slice(&SEGMENT_COUNT.to_le_bytes());
    config.extend_from_slice(&[0; 4]); // cylinders, heads, sectors: not for a hundred years
    config.extend_from_slice(&512_u32.to_le_bytes());
    config.extend_from_slice(&[0; 10]); // topology, cache
    config.extend_from_slice(&ring_count.to_le_bytes());
    let (offset, len) = (offset as usize, len as usize);
    config.resize(offset.saturating_add(len).max(config.len()), 0);
    config
        .get(offset..offset.saturating_add(len))
        .unwrap_or_default()
        .to_vec()
}

/// Reads what a request wants.
pub(super) fn wish(memory: &impl Memory, chain: &Chain) -> Wish {
    let mut head = [0; HEAD_LEN];
    let data_len = writable_len(chain).saturating_sub(1); // behind it, the status
    if !copy_out(memory, &chain.readable, &mut head) {
        return Wish::Nothing(Status::Failed);
    }
    let (kind, rest) = head.split_at(4);
    let kind = kind.try_into().map_or(u32::MAX, u32::from_le_bytes);
    let sector = rest.split_at(4).1;
    let sector = sector.try_into().map_or(u64::MAX, u64::from_le_bytes);
    match kind {
        0 => match sector.checked_mul(SECTOR_LEN) {
            Some(offset) if data_len.is_multiple_of(SECTOR_LEN) && data_len <= READ_LEN_MAX => {
                Wish::Read {
                    offset,
                    len: data_len,
                }
            }
            _ => Wish::Nothing(Status::Failed),
        },
        1 => Wish::Nothing(Status::Failed), // a write
        4 => Wish::Nothing(Status::Done),   // a flush: nothing is ever written
        8 if data_len >= ID_LEN as u64 => Wish::Name,
        _ => Wish::Nothing(Status::NotSupported),
    }
}

/// A disk's name, as long as the guest wants it.
pub(super) fn name(text: &str) -> [u8; ID_LEN] {
    let mut name = [0; ID_LEN];
    for (place, byte) in name.iter_mut().zip(text.bytes()) {
        *place = byte;
    }
    name
}

/// How a failed read is told.
pub(super) fn status_of(outcome: Result<(), Errno>) -> Status {
    match outcome {
        Ok(()) => Status::Done,
        Err(_) => Status::Failed,
    }
}

/// Bytes that a request wants written, its status included.
pub(super) fn writable_len(chain: &Chain) -> u64 {
    chain.writable.iter().map(|part| u64::from(part.len)).sum()
}

/// Copies from the beginning of `segments`; whether there is as much.
fn copy_out(memory: &impl Memory, segments: &[Segment], mut buf: &mut [u8]) -> bool {
    for segment in segments {
        let len = buf.len().min(segment.len as usize);
        let (now, rest) = buf.split_at_mut(len);
        if !memory.read(segment.address, now) {
            return false;
        }
        buf = rest;
    }
    buf.is_empty()
}

/// Copies to `skipped` bytes behind the beginning of `segments`; whether there is room.
pub(super) fn copy_in(
    memory: &impl Memory,
    segments: &[Segment],
    mut skipped: u64,
    mut bytes: &[u8],
) -> bool {
    for segment in segments {
        let segment_len = u64::from(segment.len);
        if skipped >= segment_len {
            skipped -= segment_len;
            continue;
        }
        let room = usize::try_from(segment_len - skipped).unwrap_or(usize::MAX);
        let (now, rest) = bytes.split_at(room.min(bytes.len()));
        let Some(address) = segment.address.checked_add(skipped) else {
            return false;
        };
        if !memory.write(address, now) {
            return false;
        }
        (bytes, skipped) = (rest, 0);
        if bytes.is_empty() {
            return true;
        }
    }
    bytes.is_empty()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    struct Bytes(RefCell<Vec<u8>>);

    impl Memory for Bytes {
        fn read(&self, address: u64, buf: &mut [u8]) -> bool {
            let bytes = self.0.borrow();
            let start = usize::try_from(address).unwrap();
            let found = bytes.get(start..start.saturating_add(buf.len()));
            found.map(|found| buf.copy_from_slice(found)).is_some()
        }

        fn write(&self, address: u64, new: &[u8]) -> bool {
            let mut bytes = self.0.borrow_mut();
            let start = usize::try_from(address).unwrap();
            let place = bytes.get_mut(start..start.saturating_add(new.len()));
            place.map(|place| place.copy_from_slice(new)).is_some()
        }

        fn load(&self, _: u64) -> Option<u16> {
            None
        }

        fn store(&self, _: u64, _: u16) -> bool {
            false
        }
    }

    fn segment(address: u64, len: u32) -> Segment {
        Segment { address, len }
    }

    /// A request whose head lies in two pieces.
    fn asked(kind: u32, sector: u64, data_len: u32) -> Wish {
        let mut head = kind.to_le_bytes().to_vec();
        head.extend_from_slice(&[0; 4]);
        head.extend_from_slice(&sector.to_le_bytes());
        let memory = Bytes(RefCell::new(vec![0; 64]));
        assert!(memory.write(0, &head[..7]) && memory.write(32, &head[7..]));
        let chain = Chain {
            head: 0,
            readable: vec![segment(0, 7), segment(32, 9)],
            writable: vec![segment(48, data_len), segment(63, 1)],
        };
        wish(&memory, &chain)
    }

    #[test]
    fn requests_say_what_they_want() {
        let (offset, len) = (5 * 512, 4096);
        assert_eq!(asked(0, 5, 4096), Wish::Read { offset, len });
        assert_eq!(asked(0, 5, 100), Wish::Nothing(Status::Failed), "no sector");
        assert_eq!(asked(0, u64::MAX, 512), Wish::Nothing(Status::Failed));
        assert_eq!(asked(0, 0, 33 << 20), Wish::Nothing(Status::Failed));
        assert_eq!(asked(1, 0, 512), Wish::Nothing(Status::Failed), "a write");
        assert_eq!(asked(4, 0, 0), Wish::Nothing(Status::Done));
        assert_eq!(asked(8, 0, 20), Wish::Name);
        assert_eq!(asked(11, 0, 0), Wish::Nothing(Status::NotSupported));
        let empty = Bytes(RefCell::new(vec![0; 64]));
        let no_head = Chain::default();
        assert_eq!(wish(&empty, &no_head), Wish::Nothing(Status::Failed));
    }

    #[test]
    fn bytes_are_spread_over_segments() {
        let memory = Bytes(RefCell::new(vec![b'.'; 12]));
        let segments = [segment(0, 3), segment(8, 4)];
        assert!(copy_in(&memory, &segments, 2, b"abc"));
        assert_eq!(memory.0.borrow()[..], *b"..a.....bc..");
        assert!(!copy_in(&memory, &segments, 6, b"de"), "no room");
        assert!(!copy_in(&memory, &[segment(u64::MAX, 9)], 3, b"d"));
    }

    #[test]
    fn the_configuration_is_cut_as_it_is_asked_for() {
        let whole = config(4096 + 100, 3, 0, 60);
        assert_eq!(whole.len(), 60);
        assert_eq!(whole[..8], 8_u64.to_le_bytes(), "whole sectors");
        assert_eq!(whole[20..24], 512_u32.to_le_bytes());
        assert_eq!(whole[34..36], 3_u16.to_le_bytes());
        assert_eq!(config(4096, 3, 34, 4), [3, 0, 0, 0]);
        assert_eq!(config(4096, 3, 250, 6), [0; 6]);
        assert_eq!(name("a-name")[..8], *b"a-name\0\0");
    }
}
