//! The vhost-user-blk server against a front end that is nothing but this file: messages, a memory file, a ring.
//!
//! The guest's memory is written and read through its file, which is the memory that the server has mapped.

use std::fs::File;
use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tempfile::TempDir;
use tranship_device::{BlockRead, Memory, VhostUserError, VhostUserOptions, VhostUserServer};

use crate::ground::{Gate, Gated, Lies, PATIENCE, pattern};

const LEN: usize = 4 << 20;
const MEMORY_LEN: u64 = 1 << 20;
/// Where the front end has the guest's memory; the guest has it at `GUEST`.
const USER: u64 = 0x7000_0000;
const GUEST: u64 = 0x10_0000;
/// Where in it the parts of the ring are, and the requests.
const DESCRIPTORS: u64 = 0;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const REQUESTS: u64 = 0x1_0000;
const REQUEST_ROOM: u64 = 0x4000;
const RING_LEN: u16 = 8;

/// Kinds of messages.
const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_MEMORY: u32 = 5;
const SET_LEN: u32 = 8;
const SET_PLACES: u32 = 9;
const SET_BASE: u32 = 10;
const GET_BASE: u32 = 11;
const SET_KICK: u32 = 12;
const SET_CALL: u32 = 13;
const SET_PROTOCOL_FEATURES: u32 = 16;
const ENABLE: u32 = 18;
const GET_CONFIG: u32 = 24;
const GET_IN_FLIGHT: u32 = 31;
const SET_IN_FLIGHT: u32 = 32;

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}

/// A guest: its memory, its ring, and how it and the device tell each other.
struct Guest {
    memory: File,
    kick: OwnedFd,
    call: OwnedFd,
    put_up: u16,
}

impl Guest {
    fn new() -> Self {
        let memory = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&memory, MEMORY_LEN).unwrap();
        Self {
            memory: File::from(memory),
            kick: event(),
            call: event(),
            put_up: 0,
        }
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, at).unwrap();
    }

    fn get<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.memory.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    fn used_count(&self) -> u16 {
        u16::from_le_bytes(self.get(USED + 2))
    }

    /// Puts a request up in three descriptors; its data and status are at the place's room.
    fn ask(&mut self, place: u16, kind: u32, sector: u64, len: u32) {
        let room = REQUESTS + u64::from(place) * REQUEST_ROOM;
        let mut head = kind.to_le_bytes().to_vec();
        head.extend_from_slice(&[0; 4]);
        head.extend_from_slice(&sector.to_le_bytes());
        self.put(room, &head);
        self.put(room + 16, &[0xee]); // no status yet
        let head = place * 3;
        let parts = [
            (room, 16, 1, head + 1),
            (room + 0x1000, len, 3, head + 2),
            (room + 16, 1, 2, 0),
        ];
        for (at, (address, len, flags, next)) in (u64::from(head)..).zip(parts) {
            let mut descriptor = (GUEST + address).to_le_bytes().to_vec();
            descriptor.extend_from_slice(&len.to_le_bytes());
            descriptor.extend_from_slice(&u16::to_le_bytes(flags));
            descriptor.extend_from_slice(&next.to_le_bytes());
            self.put(DESCRIPTORS + at * 16, &descriptor);
        }
        let slot = u64::from(self.put_up % RING_LEN);
        self.put(AVAILABLE + 4 + slot * 2, &head.to_le_bytes());
        self.put_up += 1;
        self.put(AVAILABLE + 2, &self.put_up.to_le_bytes());
        rustix::io::write(&self.kick, &1_u64.to_ne_bytes()).unwrap();
    }

    /// Waits until that many requests were given back, and told.
    fn wait_for(&self, count: u16) {
        let begun = Instant::now();
        while self.used_count() < count {
            assert!(begun.elapsed() < PATIENCE, "no answer");
            let mut waits = [PollFd::new(&self.call, PollFlags::IN)];
            let long = Timespec {
                tv_sec: 30,
                tv_nsec: 0,
            };
            poll(&mut waits, Some(&long)).unwrap();
            rustix::io::read(&self.call, &mut [0; 8]).unwrap();
        }
    }

    /// The status of the request at that place, and the first bytes of its data.
    fn outcome(&self, place: u16) -> (u8, [u8; 512]) {
        let room = REQUESTS + u64::from(place) * REQUEST_ROOM;
        (self.get::<1>(room + 16)[0], self.get(room + 0x1000))
    }
}

/// A front end's end of the connection.
struct FrontEnd(UnixStream);

impl FrontEnd {
    fn connect(server: &VhostUserServer) -> Self {
        let stream = UnixStream::connect(server.path()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    fn say(&self, kind: u32, payload: &[u8], fd: Option<BorrowedFd<'_>>) {
        let len = u32::try_from(payload.len()).unwrap();
        let mut message: Vec<u8> = [kind, 1, len]
            .iter()
            .flat_map(|field| field.to_ne_bytes())
            .collect();
        message.extend_from_slice(payload);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = fd.as_slice();
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        sendmsg(
            &self.0,
            &[IoSlice::new(&message)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
        .unwrap();
    }

    fn ask(&self, kind: u32, payload: &[u8]) -> (Vec<u8>, Option<OwnedFd>) {
        self.say(kind, payload, None);
        let mut head = [0; 12];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [std::io::IoSliceMut::new(&mut head)];
        let received = recvmsg(&self.0, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        assert_eq!(received.bytes, 12);
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        assert_eq!(head[..4], kind.to_ne_bytes());
        let len = u32::from_ne_bytes(head[8..].try_into().unwrap());
        let mut payload = vec![0; len as usize];
        (&self.0).read_exact(&mut payload).unwrap();
        (payload, fd)
    }

    /// Whether the other side has hung up.
    fn is_turned_away(&self) -> bool {
        matches!((&self.0).read(&mut [0]), Ok(0) | Err(_))
    }

    /// Hands the guest over and has its ring served, with the notes of an earlier server if there are some.
    fn start(&self, guest: &Guest, base: u16, notes: Option<(&[u8], &OwnedFd)>) {
        let (features, _) = self.ask(GET_FEATURES, b"");
        let features = u64::from_ne_bytes(features.try_into().unwrap());
        assert_ne!(features & (1 << 5), 0, "read-only");
        self.say(SET_FEATURES, &features.to_ne_bytes(), None);
        self.say(
            SET_PROTOCOL_FEATURES,
            &(1_u64 << 9 | 1 << 12).to_ne_bytes(),
            None,
        );
        if let Some((payload, file)) = notes {
            self.say(SET_IN_FLIGHT, payload, Some(file.as_fd()));
        }
        let table = [1, GUEST, MEMORY_LEN, USER, 0];
        self.say(SET_MEMORY, &numbers(&table), Some(guest.memory.as_fd()));
        self.say(SET_LEN, &pair(0, RING_LEN.into()), None);
        self.say(SET_BASE, &pair(0, base.into()), None);
        let places = [0, USER + DESCRIPTORS, USER + USED, USER + AVAILABLE, 0];
        self.say(SET_PLACES, &numbers(&places), None);
        self.say(SET_CALL, &numbers(&[0]), Some(guest.call.as_fd()));
        self.say(SET_KICK, &numbers(&[0]), Some(guest.kick.as_fd()));
        self.say(ENABLE, &pair(0, 1), None);
    }
}

fn numbers(fields: &[u64]) -> Vec<u8> {
    fields
        .iter()
        .flat_map(|field| field.to_ne_bytes())
        .collect()
}

fn pair(first: u32, second: u32) -> Vec<u8> {
    [first.to_ne_bytes(), second.to_ne_bytes()].concat()
}

fn serve(dir: &TempDir, content: impl BlockRead + 'static) -> VhostUserServer {
    let options = VhostUserOptions {
        stop_grace: Duration::from_secs(1),
        ..VhostUserOptions::default()
    };
    let path = dir.path().join("vhost.sock");
    VhostUserServer::bind(&path, "the-disk", Arc::new(content), options).unwrap()
}

fn sector(number: usize) -> [u8; 512] {
    pattern(LEN)[number * 512..(number + 1) * 512]
        .try_into()
        .unwrap()
}

#[test]
fn a_guest_reads_the_disk_and_cannot_write_it() {
    let dir = tempfile::tempdir().unwrap();
    // Not whole sectors: the rest is cut off.
    let server = serve(&dir, Memory::new(pattern(LEN + 100)));
    let (front_end, mut guest) = (FrontEnd::connect(&server), Guest::new());
    let (config, _) = front_end.ask(GET_CONFIG, &[pair(0, 60), pair(0, 0)].concat()[..12]);
    assert_eq!(config[12..20], (LEN as u64 / 512).to_le_bytes());
    front_end.start(&guest, 0, None);
    guest.ask(0, 0, 7, 4096);
    guest.wait_for(1);
    assert_eq!(guest.outcome(0), (0, sector(7)));
    guest.ask(1, 8, 0, 20);
    guest.wait_for(2);
    let (status, data) = guest.outcome(1);
    assert_eq!((status, &data[..9]), (0, &b"the-disk\0"[..]));
    guest.ask(0, 1, 7, 512); // a write
    guest.wait_for(3);
    assert_eq!(guest.outcome(0).0, 1);
    guest.ask(1, 0, LEN as u64 / 512, 512); // behind the end
    guest.wait_for(4);
    assert_eq!(guest.outcome(1).0, 1);
    let (base, _) = front_end.ask(GET_BASE, &pair(0, 0));
    assert_eq!(base, pair(0, 4));
    server.stop().unwrap();
    assert!(front_end.is_turned_away());
}

#[test]
fn a_read_that_fails_is_told_and_one_that_waits_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&dir, Lies::fails_at(pattern(LEN), 512 * 9));
    let (front_end, mut guest) = (FrontEnd::connect(&server), Guest::new());
    front_end.start(&guest, 0, None);
    guest.ask(0, 0, 8, 4096);
    guest.wait_for(1);
    assert_eq!(guest.outcome(0).0, 1);
    server.stop().unwrap();

    let gate = Gate::shut();
    let server = serve(&dir, Gated::from(1 << 20, pattern(LEN), Arc::clone(&gate)));
    let (front_end, mut guest) = (FrontEnd::connect(&server), Guest::new());
    front_end.start(&guest, 0, None);
    guest.ask(0, 0, 1 << 11, 512);
    gate.wait_for_readers(1);
    guest.ask(1, 0, 3, 512);
    guest.wait_for(1);
    assert_eq!(guest.outcome(1), (0, sector(3)));
    assert_eq!(guest.outcome(0).0, 0xee, "not yet");
    gate.open();
    guest.wait_for(2);
    assert_eq!(guest.outcome(0), (0, sector(1 << 11)));
}

#[test]
fn what_was_in_progress_is_done_by_the_next_server() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::shut();
    let server = serve(&dir, Gated::from(1 << 20, pattern(LEN), Arc::clone(&gate)));
    let (front_end, mut guest) = (FrontEnd::connect(&server), Guest::new());
    let mut wanted = numbers(&[0, 0]);
    wanted.extend_from_slice(&1_u16.to_ne_bytes());
    wanted.extend_from_slice(&RING_LEN.to_ne_bytes());
    wanted.extend_from_slice(&[0; 4]);
    let (payload, notes) = front_end.ask(GET_IN_FLIGHT, &wanted);
    let notes = notes.unwrap();
    front_end.start(&guest, 0, Some((&payload, &notes)));
    // One waits, and one that came later is done.
    guest.ask(0, 0, 1 << 11, 512);
    gate.wait_for_readers(1);
    guest.ask(1, 0, 3, 512);
    guest.wait_for(1);
    let stopped = server.stop();
    assert!(
        matches!(stopped, Err(VhostUserError::StillReading { .. })),
        "{stopped:?}"
    );
    assert!(front_end.is_turned_away());
    assert_eq!(guest.outcome(0).0, 0xee, "left to the next");

    let server = serve(&dir, Memory::new(pattern(LEN)));
    let front_end = FrontEnd::connect(&server);
    front_end.start(&guest, guest.used_count(), Some((&payload, &notes)));
    guest.wait_for(2);
    assert_eq!(guest.outcome(0), (0, sector(1 << 11)));
    guest.ask(1, 0, 5, 512);
    guest.wait_for(3);
    assert_eq!(guest.outcome(1), (0, sector(5)));
    gate.open();
    server.stop().unwrap();
}

#[test]
fn nonsense_ends_the_connection_and_not_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&dir, Memory::new(pattern(LEN)));
    for (kind, payload) in [
        (SET_MEMORY, pair(9, 0)),
        (SET_MEMORY, numbers(&[1, GUEST, 1 << 20, USER, 0])), // without its file
        (SET_LEN, pair(99, 8)),
        (SET_FEATURES, numbers(&[u64::MAX])),
        (GET_CONFIG, [pair(0, 257), pair(0, 0)].concat()),
        (SET_IN_FLIGHT, numbers(&[4096, 0, 0])),
    ] {
        let front_end = FrontEnd::connect(&server);
        front_end.say(kind, &payload, None);
        assert!(front_end.is_turned_away(), "{kind}");
    }
    // A ring that is not in the memory.
    let (front_end, guest) = (FrontEnd::connect(&server), Guest::new());
    let table = [1, GUEST, MEMORY_LEN, USER, 0];
    front_end.say(SET_MEMORY, &numbers(&table), Some(guest.memory.as_fd()));
    front_end.say(SET_LEN, &pair(0, 8), None);
    front_end.say(SET_PLACES, &numbers(&[0, 1, 2, 3, 0]), None);
    front_end.say(SET_KICK, &numbers(&[0]), Some(guest.kick.as_fd()));
    assert!(front_end.is_turned_away());
    // And one in which the guest says what it must not.
    let (front_end, mut guest) = (FrontEnd::connect(&server), Guest::new());
    front_end.start(&guest, 0, None);
    guest.put(AVAILABLE + 2, &100_u16.to_le_bytes());
    guest.put_up = 100;
    rustix::io::write(&guest.kick, &1_u64.to_ne_bytes()).unwrap();
    let (base, _) = front_end.ask(GET_BASE, &pair(0, 0));
    assert_eq!(base, pair(0, 0), "nothing was taken");
    server.stop().unwrap();
}
