//! Requests and replies byte by byte, over a pair of sockets.

use std::sync::{Arc, Condvar};

use super::super::Export;
use super::super::protocol::{CHUNK_HEADER_LEN, Fields, SIMPLE_HEADER_LEN};
use super::*;
use crate::crew::locked;
use crate::memory::Memory;

const DEVICE_LEN: usize = 3 * (1 << 20) + 100;

fn bytes() -> Vec<u8> {
    (0..DEVICE_LEN)
        .map(|at| u8::try_from(at.wrapping_mul(31) >> 8 & 0xff).unwrap_or_default())
        .collect()
}

fn message(flags: u16, command: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut message = Message::default();
    message.u32(0x2560_9513);
    message.u16(flags);
    message.u16(command);
    message.u64(cookie);
    message.u64(offset);
    message.u32(len);
    message.0
}

/// What a connection answers to `said`, until it has answered all and the client says goodbye or is hung up on.
fn conversation(content: Arc<dyn BlockRead>, structured: bool, said: &[&[u8]]) -> Vec<u8> {
    let export = Export {
        name: String::new(),
        description: String::new(),
        content,
    };
    let agreed = Agreed {
        export: &export,
        structured,
        base_allocation: structured,
    };
    let (server, mut client) = UnixStream::pair().unwrap();
    let buffers = Buffers::new(0, PAYLOAD_LEN_MAX as usize);
    scope(|scope| {
        scope.spawn(move || {
            // One thread, so that the replies come in order.
            Transmission::new(agreed, &server, &buffers, 1).run();
        });
        let mut speaker = client.try_clone().unwrap();
        let said = said.concat();
        scope.spawn(move || {
            // A server that hangs up half way is part of some tests.
            let _ = speaker.write_all(&said);
            let _ = speaker.shutdown(std::net::Shutdown::Write);
        });
        let mut heard = Vec::new();
        // Hanging up with words unread is a reset.
        let _ = client.read_to_end(&mut heard);
        heard
    })
}

/// A reply in chunks: (kind, whether it is the last, body).
fn chunks(heard: &[u8]) -> Vec<(u16, bool, Vec<u8>)> {
    let mut chunks = Vec::new();
    let mut rest = heard;
    while let Some((header, behind)) = rest.split_at_checked(CHUNK_HEADER_LEN) {
        let mut fields = Fields(header);
        assert_eq!(fields.u32(), Some(0x668e_33ef));
        let flags = fields.u16().unwrap();
        let kind = fields.u16().unwrap();
        fields.u64().unwrap();
        let (body, behind) = behind.split_at(fields.u32().unwrap() as usize);
        chunks.push((kind, flags == 1, body.to_vec()));
        rest = behind;
    }
    assert!(rest.is_empty());
    chunks
}

fn memory() -> Arc<dyn BlockRead> {
    Arc::new(Memory::new(bytes()))
}

/// Content that breaks behind its first MiB.
struct Broken;

impl BlockRead for Broken {
    fn len(&self) -> u64 {
        DEVICE_LEN as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockReadError> {
        let len = buf.len() as u64;
        if offset + len > 1 << 20 {
            return Err(BlockReadError::TimedOut { offset, len });
        }
        Ok(())
    }
}

/// Content that counts what is read of it.
struct Counted(Memory, std::sync::atomic::AtomicU64);

impl BlockRead for Counted {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockReadError> {
        self.1.fetch_add(buf.len() as u64, Ordering::SeqCst);
        self.0.read_at(offset, buf)
    }
}

#[test]
fn what_a_client_is_going_to_read_is_read_and_not_sent() {
    let content = Arc::new(Counted(Memory::new(bytes()), 0.into()));
    let len = u32::try_from(DEVICE_LEN - 70).unwrap();
    let said = [message(0, 5, 1, 50, len), message(0, 5, 2, 100, len)];
    let heard = conversation(Arc::clone(&content) as _, true, &[&said[0], &said[1]]);
    let done = simple_header(1, Ok(()));
    let outside = simple_header(2, Err(Errno::Invalid));
    assert_eq!(heard, [done, outside].concat());
    assert_eq!(content.1.load(Ordering::SeqCst), u64::from(len));
    let heard = conversation(Arc::new(Broken), false, &[&message(0, 5, 3, 0, 2 << 20)]);
    assert_eq!(heard, simple_header(3, Err(Errno::TimedOut)));
}

#[test]
fn a_simple_read_is_a_header_and_the_bytes() {
    let heard = conversation(memory(), false, &[&message(0, 0, 9, 1000, 5000)]);
    assert_eq!(heard[..16], simple_header(9, Ok(())));
    assert!(heard[16..] == bytes()[1000..6000]);
}

#[test]
fn a_long_read_comes_in_parts_that_fit_together() {
    let len = u32::try_from(DEVICE_LEN).unwrap();
    let chunks = chunks(&conversation(memory(), true, &[&message(0, 0, 1, 0, len)]));
    let lasts: Vec<_> = chunks.iter().map(|chunk| (chunk.0, chunk.1)).collect();
    assert_eq!(lasts, [(1, false), (1, false), (1, false), (1, true)]);
    let mut whole = Vec::new();
    for (_, _, body) in chunks {
        assert_eq!(Fields(&body).u64(), Some(whole.len() as u64));
        whole.extend_from_slice(&body[8..]);
    }
    assert!(whole == bytes());
}

#[test]
fn a_read_that_must_not_be_fragmented_is_not() {
    let len = u32::try_from(DEVICE_LEN).unwrap();
    let whole = message(DO_NOT_FRAGMENT, 0, 1, 0, len);
    let chunks = chunks(&conversation(memory(), true, &[&whole]));
    assert_eq!(chunks.len(), 1);
    assert!(chunks[0].2[8..] == bytes());
}

#[test]
fn an_error_half_way_is_told_with_its_place() {
    let chunks = chunks(&conversation(
        Arc::new(Broken),
        true,
        &[&message(0, 0, 1, 0, 2 << 20)],
    ));
    assert_eq!((chunks[0].0, chunks[0].1), (chunk::OFFSET_DATA, false));
    assert_eq!((chunks[1].0, chunks[1].1), (chunk::ERROR_OFFSET, true));
    let mut error = Fields(&chunks[1].2);
    assert_eq!(error.u32(), Some(5));
    assert_eq!(error.u16(), Some(0));
    assert_eq!(error.u64(), Some(1 << 20));
    assert_eq!(chunks.len(), 2);

    let heard = conversation(Arc::new(Broken), false, &[&message(0, 0, 1, 0, 2 << 20)]);
    assert_eq!(heard, simple_header(1, Err(Errno::Io)));
}

#[test]
fn requests_that_may_not_be_are_refused_and_the_next_is_answered() {
    let len = DEVICE_LEN as u64;
    let said = [
        message(0, 1, 1, 0, 512),
        vec![7; 512],
        message(0, 4, 2, 0, 512),
        message(0, 6, 3, 0, 512),
        message(0, 99, 4, 0, 0),
        message(0, 0, 5, len - 1, 2),
        message(0, 0, 6, u64::MAX, 2),
        message(1, 0, 7, 0, 2),
        message(0, 7, 8, 0, 512),
        message(0, 3, 9, 0, 0),
        message(0, 0, 10, 0, 0),
    ];
    let said: Vec<_> = said.iter().map(Vec::as_slice).collect();
    let heard = conversation(memory(), false, &said);
    let mut outcomes = Vec::new();
    for (cookie, reply) in (1_u64..).zip(heard.chunks(SIMPLE_HEADER_LEN)) {
        let mut fields = Fields(reply);
        assert_eq!(fields.u32(), Some(0x6744_6698));
        outcomes.push(fields.u32().unwrap());
        assert_eq!(fields.u64(), Some(cookie));
    }
    assert_eq!(outcomes, [1, 1, 1, 22, 22, 22, 22, 22, 0, 0]);
}

#[test]
fn reads_of_more_than_the_protocol_allows_are_refused() {
    struct Vast;
    impl BlockRead for Vast {
        fn len(&self) -> u64 {
            u64::MAX
        }
        fn read_at(&self, _: u64, _: &mut [u8]) -> Result<(), BlockReadError> {
            Ok(())
        }
    }
    let vast = message(0, 0, 1, 0, PAYLOAD_LEN_MAX + 1);
    let chunks = chunks(&conversation(Arc::new(Vast), true, &[&vast]));
    assert_eq!((chunks[0].0, chunks[0].1), (chunk::ERROR, true));
    assert_eq!(Fields(&chunks[0].2).u32(), Some(75));
}

#[test]
fn zeroes_are_told() {
    let mut content = vec![0; 64 << 10];
    content[20_000] = 1;
    let said = [
        message(0, 7, 1, 0, 64 << 10),
        message(REQUEST_ONE, 7, 2, 0, 64 << 10),
        message(0, 7, 3, 0, 0),
        message(0, 7, 4, 0, (64 << 10) + 1),
    ];
    let said: Vec<_> = said.iter().map(Vec::as_slice).collect();
    let content = Arc::new(Memory::new(content));
    let chunks = chunks(&conversation(content, true, &said));
    let descriptors = |body: &[u8]| {
        let mut fields = Fields(body);
        assert_eq!(fields.u32(), Some(BASE_ALLOCATION_ID));
        std::iter::from_fn(|| Some((fields.u32()?, fields.u32()?))).collect::<Vec<_>>()
    };
    assert_eq!(
        descriptors(&chunks[0].2),
        [(16384, 3), (4096, 0), (45056, 3)]
    );
    assert_eq!(descriptors(&chunks[1].2), [(16384, 3)]);
    assert_eq!(chunks[2].0, chunk::ERROR);
    assert_eq!(chunks[3].0, chunk::ERROR);
}

#[test]
fn who_sends_no_requests_or_too_much_is_hung_up_on() {
    let write = message(0, 1, 1, 0, PAYLOAD_LEN_MAX + 1);
    let not_reached = message(0, 3, 2, 0, 0);
    assert!(conversation(memory(), true, &[&write, &not_reached]).is_empty());
    assert!(conversation(memory(), true, &[&[0x25; 28], &not_reached]).is_empty());
    assert!(conversation(memory(), true, &[&not_reached[..27]]).is_empty());
    let goodbye = message(0, 2, 1, 0, 0);
    assert!(conversation(memory(), true, &[&goodbye, &not_reached]).is_empty());
    assert!(conversation(memory(), true, &[&message(0, 1, 1, 0, 512), &[0; 100]]).is_empty());
}

#[test]
fn a_read_that_waits_does_not_hold_up_another() {
    /// Reads of the first sector wait for one of the second.
    #[derive(Default)]
    struct Entangled {
        second_read: Mutex<bool>,
        changed: Condvar,
    }
    impl BlockRead for Entangled {
        fn len(&self) -> u64 {
            1024
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockReadError> {
            buf.fill(u8::try_from(offset / 512).unwrap());
            if offset == 0 {
                let read = locked(&self.second_read);
                let _read = self.changed.wait_while(read, |read| !*read).unwrap();
            } else {
                *locked(&self.second_read) = true;
                self.changed.notify_all();
            }
            Ok(())
        }
    }
    let export = Export {
        name: String::new(),
        description: String::new(),
        content: Arc::new(Entangled::default()),
    };
    let agreed = Agreed {
        export: &export,
        structured: false,
        base_allocation: false,
    };
    let (server, mut client) = UnixStream::pair().unwrap();
    let buffers = Buffers::new(0, PAYLOAD_LEN_MAX as usize);
    let heard = scope(|scope| {
        scope.spawn(move || Transmission::new(agreed, &server, &buffers, 2).run());
        client.write_all(&message(0, 0, 1, 0, 512)).unwrap();
        client.write_all(&message(0, 0, 2, 512, 512)).unwrap();
        let mut heard = vec![0; 2 * (SIMPLE_HEADER_LEN + 512)];
        client.read_exact(&mut heard).unwrap();
        drop(client);
        heard
    });
    // That both are answered is the point: the first cannot be before the second is read. Which of the two gets
    // to the socket first is the scheduler's to say.
    let (one, other) = heard.split_at(SIMPLE_HEADER_LEN + 512);
    let mut headers = [&one[..16], &other[..16]];
    headers.sort_unstable();
    assert_eq!(headers[0], simple_header(1, Ok(())));
    assert_eq!(headers[1], simple_header(2, Ok(())));
}
