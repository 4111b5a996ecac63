//! Which requests are in progress, noted in memory that the front end keeps: whoever serves next does them again, and none twice.
//!
//! The memory is one that this side made, but the front end and everyone whom it serves may have written to it. What stands there decides
//! which requests are done again, and nothing else; a note that makes no sense is passed over. The form is vhost-user's, so that another
//! back end could go on with it.

#![expect(
    clippy::host_endian_bytes,
    reason = "the notes stay on one machine, in its byte order"
)]

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use crate::mapping::Mapping;

/// Length of what stands before a ring's notes, and of each note.
const HEAD_LEN: u64 = 16;
const NOTE_LEN: u64 = 16;
/// Each ring's notes begin at such a multiple.
const ALIGNMENT: u64 = 64;
const VERSION: u16 = 1;

/// Where the fields stand in the head.
const VERSION_AT: u64 = 8;
const LEN_AT: u64 = 10;
const LAST_HEAD_AT: u64 = 12;
const USED_AT: u64 = 14;
/// And in a note: whether the request is in progress, and which one it was.
const IN_PROGRESS_AT: u64 = 0;
const NUMBER_AT: u64 = 8;

/// Bytes that the notes of a ring of `ring_len` places take.
pub(super) fn ring_notes_len(ring_len: u16) -> u64 {
    (HEAD_LEN + NOTE_LEN * u64::from(ring_len)).next_multiple_of(ALIGNMENT)
}

/// The notes of one ring.
#[derive(Debug)]
pub(super) struct InFlightRing {
    notes: Arc<Mapping>,
    /// Where they begin.
    start: u64,
    len: u16,
    next_number: u64,
}

impl InFlightRing {
    /// The notes of ring `number`, of `len` places, where each ring has room for `room` of them; nothing if there is none.
    pub(super) fn new(notes: &Arc<Mapping>, number: u64, room: u16, len: u16) -> Option<Self> {
        let start = number.checked_mul(ring_notes_len(room))?;
        let last = start.checked_add(ring_notes_len(room))?.checked_sub(1)?;
        let has_room = len <= room && notes.read(last, &mut [0]);
        has_room.then_some(Self {
            notes: Arc::clone(notes),
            start,
            len,
            next_number: 0,
        })
    }

    /// What is noted as in progress, the oldest last, when the guest has seen `used` requests given back. Fresh notes are begun.
    pub(super) fn recover(&mut self, used: u16, ring_len: u16) -> Vec<u16> {
        let is_fresh = self.u16(VERSION_AT) != VERSION || self.u16(LEN_AT) != ring_len;
        if is_fresh {
            for head in 0..self.len {
                self.put(self.note(head) + IN_PROGRESS_AT, &[0]);
            }
            self.put_u16(LEN_AT, ring_len);
            self.put_u16(USED_AT, used);
            self.put_u16(VERSION_AT, VERSION);
            return Vec::new();
        }
        if self.u16(USED_AT) != used {
            // It died between giving back and noting that: the guest has it.
            let last = self.u16(LAST_HEAD_AT);
            if last < self.len {
                self.put(self.note(last) + IN_PROGRESS_AT, &[0]);
            }
            self.put_u16(USED_AT, used);
        }
        let mut found: Vec<(u64, u16)> = (0..self.len)
            .filter(|head| self.get::<1>(self.note(*head) + IN_PROGRESS_AT) == [1])
            .map(|head| {
                (
                    u64::from_ne_bytes(self.get(self.note(head) + NUMBER_AT)),
                    head,
                )
            })
            .collect();
        found.sort_unstable_by(|one, other| other.cmp(one));
        self.next_number = found
            .first()
            .map_or(0, |(number, _)| number.wrapping_add(1));
        found.into_iter().map(|(_, head)| head).collect()
    }

    /// Notes that a request is begun.
    pub(super) fn begin(&mut self, head: u16) {
        let note = self.note(head);
        self.put(note + NUMBER_AT, &self.next_number.to_ne_bytes());
        self.next_number = self.next_number.wrapping_add(1);
        self.put(note + IN_PROGRESS_AT, &[1]);
    }

    /// Notes which request is given back next, before the guest can see it.
    pub(super) fn about_to_give_back(&mut self, head: u16) {
        self.put_u16(LAST_HEAD_AT, head);
    }

    /// Notes that the guest sees it, as one of `used` requests.
    pub(super) fn given_back(&mut self, head: u16, used: u16) {
        // Not before: whoever reads this after a crash must find either the note or the guest's knowledge.
        fence(Ordering::SeqCst);
        let note = self.note(head);
        self.put(note + IN_PROGRESS_AT, &[0]);
        self.put_u16(USED_AT, used);
    }

    fn note(&self, head: u16) -> u64 {
        self.start + HEAD_LEN + NOTE_LEN * u64::from(head % self.len.max(1))
    }

    fn u16(&self, at: u64) -> u16 {
        self.notes.load(self.start + at).unwrap_or_default()
    }

    fn put_u16(&self, at: u64, value: u16) {
        // Inside: the room for all notes was looked at in the beginning.
        let _ = self.notes.store(self.start + at, value);
    }

    fn get<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        let _ = self.notes.read(at, &mut bytes);
        bytes
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        let _ = self.notes.write(at, bytes);
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    fn notes(len: u64) -> Arc<Mapping> {
        let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, len).unwrap();
        Arc::new(Mapping::new(file, 0, len).unwrap())
    }

    #[test]
    fn what_was_begun_is_found_again_the_oldest_last() {
        let notes = notes(2 * ring_notes_len(8));
        let mut before = InFlightRing::new(&notes, 1, 8, 8).unwrap();
        assert_eq!(before.recover(0, 8), []);
        for head in [5, 2, 7] {
            before.begin(head);
        }
        before.about_to_give_back(2);
        before.given_back(2, 1);
        let mut after = InFlightRing::new(&notes, 1, 8, 8).unwrap();
        assert_eq!(after.recover(1, 8), [7, 5]);
        assert_eq!(
            InFlightRing::new(&notes, 0, 8, 8).unwrap().recover(0, 8),
            []
        );
        assert!(InFlightRing::new(&notes, 2, 8, 8).is_none(), "no room");
        assert!(InFlightRing::new(&notes, 0, 8, 16).is_none(), "too long");
    }

    #[test]
    fn what_the_guest_has_seen_is_not_done_again() {
        let notes = notes(ring_notes_len(8));
        let mut before = InFlightRing::new(&notes, 0, 8, 8).unwrap();
        before.recover(0, 8);
        before.begin(3);
        before.begin(4);
        // It dies when the guest has it and the notes do not say so.
        before.about_to_give_back(4);
        let mut after = InFlightRing::new(&notes, 0, 8, 8).unwrap();
        assert_eq!(after.recover(1, 8), [3]);
    }

    #[test]
    fn notes_of_nonsense_are_passed_over() {
        let len = ring_notes_len(8);
        let notes = notes(len);
        assert!(notes.write(0, &vec![0xff; usize::try_from(len).unwrap()]));
        let mut ring = InFlightRing::new(&notes, 0, 8, 8).unwrap();
        assert_eq!(ring.recover(0, 8), []);
        assert!(notes.write(0, &vec![1; usize::try_from(len).unwrap()]));
        assert!(notes.store(VERSION_AT, VERSION) && notes.store(LEN_AT, 8));
        assert_eq!(ring.recover(0, 8).len(), 8);
    }
}
