//! Requests that were read and are not answered, in memory that outlives the process which read them.
//!
//! A kernel before Linux 6.9 tells a request once: what a process that died had read is lost, and whoever waits for the answer waits for
//! ever. But any process that holds the connection may answer it, if it knows the request. So each thread has the kernel write what it reads into
//! a place of a memory file, which the keeper holds beside the connection: a request is there before it counts as read, and stays until
//! it is answered. A successor looks what is there and answers that first. To answer what was answered already harms nobody: the kernel
//! gives no two requests one number.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use crate::crew::locked;
use crate::mapping::Mapping;

use super::abi::{REQUEST_HEADER_LEN, REQUEST_LEN_MAX};

/// Threads that can have a request at one time.
pub(super) const PLACE_COUNT: usize = 256;
/// Where a request's number stands in it. Zero is no request's.
const NUMBER_AT: u64 = 8;

/// See the module's words.
#[derive(Debug)]
pub(super) struct Requests {
    file: OwnedFd,
    memory: Mapping,
    /// Places that no thread has.
    free: Mutex<Vec<u64>>,
}

/// A place for one request, of one thread.
#[derive(Debug)]
pub(super) struct Place {
    requests: Arc<Requests>,
    start: u64,
}

/// A file for requests, with none in it. Only what is written of it takes memory.
pub(super) fn file() -> io::Result<OwnedFd> {
    let file = memfd_create("tranship-requests", MemfdFlags::CLOEXEC)?;
    ftruncate(&file, (PLACE_COUNT * REQUEST_LEN_MAX) as u64)?;
    Ok(file)
}

impl Requests {
    /// Those in `file`, which a predecessor may have left.
    pub(super) fn open(file: OwnedFd) -> io::Result<Arc<Self>> {
        let len = PLACE_COUNT * REQUEST_LEN_MAX;
        let memory = Mapping::new(file.try_clone()?, 0, len as u64)?;
        let starts = (0..len).step_by(REQUEST_LEN_MAX);
        Ok(Arc::new(Self {
            file,
            memory,
            free: Mutex::new(starts.rev().map(|start| start as u64).collect()),
        }))
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// A place for a thread that begins.
    pub(super) fn place(self: &Arc<Self>) -> io::Result<Place> {
        let start = locked(&self.free).pop();
        Ok(Place {
            requests: Arc::clone(self),
            start: start.ok_or_else(|| io::Error::other("all places for requests are taken"))?,
        })
    }

    /// The places of requests that a predecessor had not answered.
    pub(super) fn left(self: &Arc<Self>) -> Vec<Place> {
        let mut free = locked(&self.free);
        let (left, empty) = free
            .iter()
            .partition(|start| self.number(**start).is_some_and(|number| number != 0));
        *free = empty;
        let left: Vec<u64> = left;
        left.into_iter()
            .map(|start| Place {
                requests: Arc::clone(self),
                start,
            })
            .collect()
    }

    /// Forgets what a predecessor left: the kernel tells it again.
    pub(super) fn forget(self: &Arc<Self>) {
        for place in self.left() {
            place.answered(self.number(place.start).unwrap_or_default());
        }
    }

    fn number(&self, start: u64) -> Option<u64> {
        let number = self.memory.number(start + NUMBER_AT)?;
        Some(number.load(Ordering::Acquire))
    }
}

impl Place {
    /// Reads a request of the connection; its length.
    pub(super) fn read(&self, connection: BorrowedFd<'_>) -> io::Result<usize> {
        let memory = &self.requests.memory;
        memory.receive(connection, self.start, REQUEST_LEN_MAX)
    }

    /// Copies the first `len` bytes of the request that is here into `message`.
    pub(super) fn copy(&self, len: usize, message: &mut Vec<u8>) {
        message.resize(len.min(REQUEST_LEN_MAX), 0);
        if !self.requests.memory.read(self.start, message) {
            message.clear();
        }
    }

    /// The request that a predecessor left here.
    pub(super) fn message(&self) -> Vec<u8> {
        let mut message = Vec::new();
        self.copy(REQUEST_HEADER_LEN, &mut message);
        let len = super::abi::message_len(&message).unwrap_or_default();
        self.copy(len, &mut message);
        message
    }

    /// Notes that the request with this number is answered. Another that is here by now stays.
    pub(super) fn answered(&self, number: u64) {
        if let Some(place) = self.requests.memory.number(self.start + NUMBER_AT) {
            // Otherwise a successor has answered it, and reads here by now.
            let _ = place.compare_exchange(number, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        locked(&self.requests.free).push(self.start);
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::host_endian_bytes,
        reason = "the kernel speaks the machine's byte order"
    )]

    use std::io::Write;

    use super::*;

    /// A request of 48 bytes, as the kernel writes it.
    fn request(number: u64) -> Vec<u8> {
        let mut message = 48_u32.to_ne_bytes().to_vec();
        message.extend_from_slice(&15_u32.to_ne_bytes());
        message.extend_from_slice(&number.to_ne_bytes());
        message.resize(48, 7);
        message
    }

    /// Has a thread read that request from a pipe.
    fn read(place: &Place, number: u64) {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(&request(number)).unwrap();
        assert_eq!(place.read(reader.as_fd()).unwrap(), 48);
    }

    #[test]
    fn what_was_read_and_not_answered_is_found_by_the_next() {
        let file = file().unwrap();
        let before = Requests::open(file.try_clone().unwrap()).unwrap();
        let places: Vec<Place> = (0..3).map(|_| before.place().unwrap()).collect();
        for (place, number) in places.iter().zip([2, 4, 6]) {
            read(place, number);
        }
        places[1].answered(4);

        let after = Requests::open(file).unwrap();
        let mut left: Vec<Vec<u8>> = after.left().iter().map(Place::message).collect();
        left.sort_unstable();
        assert_eq!(left, [request(2), request(6)]);
        after.forget();
        assert!(after.left().is_empty());
    }

    #[test]
    fn a_late_answer_of_a_predecessor_takes_no_other_request_away() {
        let file = file().unwrap();
        let before = Requests::open(file.try_clone().unwrap()).unwrap();
        let late = before.place().unwrap();
        read(&late, 2);
        let after = Requests::open(file.try_clone().unwrap()).unwrap();
        let place = after.left().pop().unwrap();
        place.answered(2);
        read(&place, 8);
        late.answered(2);
        let last = Requests::open(file).unwrap();
        assert_eq!(last.left()[0].message(), request(8));
    }

    #[test]
    fn places_are_bounded_and_come_back() {
        let requests = Requests::open(file().unwrap()).unwrap();
        let places: Vec<Place> = (0..PLACE_COUNT)
            .map(|_| requests.place().unwrap())
            .collect();
        assert!(requests.place().is_err());
        drop(places);
        assert!(requests.place().is_ok());
    }

    #[test]
    fn nonsense_in_a_place_is_no_message() {
        let requests = Requests::open(file().unwrap()).unwrap();
        assert!(requests.memory.write(0, &[0xff; 64]));
        let left = requests.left();
        assert_eq!(left.len(), 1);
        assert!(left[0].message().len() <= REQUEST_LEN_MAX);
    }
}
