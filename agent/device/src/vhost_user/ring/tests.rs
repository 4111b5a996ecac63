//! Rings in memory that the tests write as a guest would.

use std::cell::RefCell;

use super::*;

const DESCRIPTORS: u64 = 0;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const LEN: u16 = 8;

/// A guest with one ring.
struct Guest(RefCell<Vec<u8>>);

impl Memory for Guest {
    fn read(&self, address: u64, buf: &mut [u8]) -> bool {
        let bytes = self.0.borrow();
        let start = usize::try_from(address).unwrap_or(usize::MAX);
        match bytes.get(start..start.saturating_add(buf.len())) {
            Some(found) => buf.copy_from_slice(found),
            None => return false,
        }
        true
    }

    fn write(&self, address: u64, new: &[u8]) -> bool {
        let mut bytes = self.0.borrow_mut();
        let start = usize::try_from(address).unwrap_or(usize::MAX);
        match bytes.get_mut(start..start.saturating_add(new.len())) {
            Some(place) => place.copy_from_slice(new),
            None => return false,
        }
        true
    }

    fn load(&self, address: u64) -> Option<u16> {
        let mut bytes = [0; 2];
        self.read(address, &mut bytes)
            .then_some(u16::from_le_bytes(bytes))
    }

    fn store(&self, address: u64, index: u16) -> bool {
        self.write(address, &index.to_le_bytes())
    }
}

impl Guest {
    fn new() -> Self {
        Self(RefCell::new(vec![0; 0x4000]))
    }

    fn descriptor(&self, table: u64, place: u16, address: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&flags.to_le_bytes());
        bytes.extend_from_slice(&next.to_le_bytes());
        assert!(self.write(table + u64::from(place) * 16, &bytes));
    }

    fn put_up(&self, head: u16) {
        let count = self.load(AVAILABLE + 2).unwrap();
        let place = u64::from(count % LEN);
        assert!(self.store(AVAILABLE + 4 + 2 * place, head));
        assert!(self.store(AVAILABLE + 2, count.wrapping_add(1)));
    }

    fn ring(&self) -> Ring {
        Ring::new(self, (DESCRIPTORS, AVAILABLE, USED), LEN.into(), 0, None).unwrap()
    }

    fn used_count(&self) -> u16 {
        self.load(USED + 2).unwrap()
    }
}

fn segment(address: u64, len: u32) -> Segment {
    Segment { address, len }
}

#[test]
fn chains_are_taken_in_order_and_given_back_in_any() {
    let guest = Guest::new();
    guest.descriptor(DESCRIPTORS, 0, 0x3000, 16, HAS_NEXT, 1);
    guest.descriptor(DESCRIPTORS, 1, 0x3100, 512, HAS_NEXT | IS_WRITABLE, 2);
    guest.descriptor(DESCRIPTORS, 2, 0x3400, 1, IS_WRITABLE, 0);
    guest.descriptor(DESCRIPTORS, 5, 0x3500, 16, 0, 0);
    let mut ring = guest.ring();
    assert_eq!(ring.take(&guest), Ok(None));
    guest.put_up(0);
    guest.put_up(5);
    let first = ring.take(&guest).unwrap().unwrap();
    assert_eq!(first.readable, [segment(0x3000, 16)]);
    assert_eq!(first.writable, [segment(0x3100, 512), segment(0x3400, 1)]);
    let second = ring.take(&guest).unwrap().unwrap();
    assert_eq!(second.head, 5);
    assert_eq!(ring.take(&guest), Ok(None));
    assert_eq!(ring.give_back(&guest, 5, 0), Ok(true));
    assert!(guest.store(AVAILABLE, NO_INTERRUPT));
    assert_eq!(ring.give_back(&guest, 0, 513), Ok(false));
    assert_eq!(guest.used_count(), 2);
    let mut used = [0; 16];
    assert!(guest.read(USED + 4, &mut used));
    assert_eq!(used, *b"\x05\0\0\0\0\0\0\0\0\0\0\0\x01\x02\0\0");
}

#[test]
fn a_table_of_its_own_holds_a_chain() {
    let guest = Guest::new();
    guest.descriptor(DESCRIPTORS, 3, 0x3000, 32, IS_INDIRECT, 0);
    guest.descriptor(0x3000, 0, 0x3100, 16, HAS_NEXT, 1);
    guest.descriptor(0x3000, 1, 0x3200, 1, IS_WRITABLE, 0);
    guest.put_up(3);
    let chain = guest.ring().take(&guest).unwrap().unwrap();
    assert_eq!(chain.head, 3);
    assert_eq!(chain.readable, [segment(0x3100, 16)]);
    assert_eq!(chain.writable, [segment(0x3200, 1)]);
}

#[test]
fn what_a_guest_must_not_say_ends_the_ring() {
    let refused = |prepare: &dyn Fn(&Guest)| {
        let guest = Guest::new();
        prepare(&guest);
        guest.ring().take(&guest).unwrap_err()
    };
    let chain = [
        refused(&|guest| {
            guest.descriptor(DESCRIPTORS, 0, 0, 1, HAS_NEXT, 0); // a loop
            guest.put_up(0);
        }),
        refused(&|guest| {
            guest.descriptor(DESCRIPTORS, 0, 0, 1, HAS_NEXT, LEN); // behind the table
            guest.put_up(0);
        }),
        refused(&|guest| {
            guest.descriptor(DESCRIPTORS, 0, 0, 1, IS_WRITABLE | HAS_NEXT, 1);
            guest.descriptor(DESCRIPTORS, 1, 0, 1, 0, 0); // read behind written
            guest.put_up(0);
        }),
        refused(&|guest| {
            guest.descriptor(DESCRIPTORS, 0, 0x3000, 16, IS_INDIRECT, 0);
            guest.descriptor(0x3000, 0, 0x3000, 16, IS_INDIRECT, 0); // a table in a table
            guest.put_up(0);
        }),
        refused(&|guest| guest.put_up(LEN)),
    ];
    assert_eq!(chain, [RingError::Chain; 5]);
    let outside = refused(&|guest| {
        guest.descriptor(DESCRIPTORS, 0, u64::MAX - 8, 16, IS_INDIRECT, 0);
        guest.put_up(0);
    });
    assert_eq!(outside, RingError::Outside);
    let overrun = refused(&|guest| assert!(guest.store(AVAILABLE + 2, LEN + 1)));
    assert_eq!(overrun, RingError::Overrun);
}

#[test]
fn rings_of_odd_lengths_and_outside_of_memory_are_refused() {
    let guest = Guest::new();
    let ring = |len, used| Ring::new(&guest, (DESCRIPTORS, AVAILABLE, used), len, 0, None);
    for len in [0, 3, 1 << 16, u32::MAX] {
        assert_eq!(ring(len, USED).unwrap_err(), RingError::Len(len));
    }
    assert_eq!(ring(8, u64::MAX).unwrap_err(), RingError::Outside);
}
