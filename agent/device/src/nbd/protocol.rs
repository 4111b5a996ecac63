//! NBD's messages as bytes, with their numbers: what <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md> says.
//!
//! Everything is big-endian. What comes from a client is taken apart by [`Fields`], which cannot read past its end.

#![expect(clippy::big_endian_bytes, reason = "NBD is big-endian")]

use crate::errno::Errno;

/// Longest read or write payload, in bytes: what every client may rely on.
pub(super) const PAYLOAD_LEN_MAX: u32 = 32 << 20;
/// Longest string of the protocol, in bytes.
pub(super) const TEXT_LEN_MAX: usize = 4096;
/// What clients are asked to read at a time where they can, in bytes.
pub(super) const PREFERRED_LEN: u32 = 4096;
/// The one metadata context, and the number it is given.
pub(super) const BASE_ALLOCATION: &[u8] = b"base:allocation";
pub(super) const BASE_ALLOCATION_ID: u32 = 1;

pub(super) const GREETING: &[u8; 8] = b"NBDMAGIC";
pub(super) const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Handshake flags, the server's and the client's alike: fixed newstyle, and no zeroes after the old way to choose an export.
pub(super) const FIXED_NEWSTYLE: u16 = 1;
pub(super) const NO_ZEROES: u16 = 2;

/// Options a client can send.
pub(super) mod option {
    pub(in crate::nbd) const EXPORT_NAME: u32 = 1;
    pub(in crate::nbd) const ABORT: u32 = 2;
    pub(in crate::nbd) const LIST: u32 = 3;
    pub(in crate::nbd) const INFO: u32 = 6;
    pub(in crate::nbd) const GO: u32 = 7;
    pub(in crate::nbd) const STRUCTURED_REPLY: u32 = 8;
    pub(in crate::nbd) const LIST_META_CONTEXT: u32 = 9;
    pub(in crate::nbd) const SET_META_CONTEXT: u32 = 10;
}

/// Kinds of replies to options.
pub(super) mod answer {
    pub(in crate::nbd) const ACK: u32 = 1;
    pub(in crate::nbd) const SERVER: u32 = 2;
    pub(in crate::nbd) const INFO: u32 = 3;
    pub(in crate::nbd) const META_CONTEXT: u32 = 4;
    const ERROR: u32 = 1 << 31;
    pub(in crate::nbd) const UNSUPPORTED: u32 = ERROR + 1;
    pub(in crate::nbd) const INVALID: u32 = ERROR + 3;
    pub(in crate::nbd) const UNKNOWN: u32 = ERROR + 6;
    pub(in crate::nbd) const TOO_BIG: u32 = ERROR + 9;
}

/// What can be asked of an export before it is chosen.
pub(super) mod info {
    pub(in crate::nbd) const EXPORT: u16 = 0;
    pub(in crate::nbd) const NAME: u16 = 1;
    pub(in crate::nbd) const DESCRIPTION: u16 = 2;
    pub(in crate::nbd) const BLOCK_SIZE: u16 = 3;
}

/// Kinds of chunks of structured replies.
pub(super) mod chunk {
    pub(in crate::nbd) const NONE: u16 = 0;
    pub(in crate::nbd) const OFFSET_DATA: u16 = 1;
    pub(in crate::nbd) const BLOCK_STATUS: u16 = 5;
    pub(in crate::nbd) const ERROR: u16 = (1 << 15) + 1;
    pub(in crate::nbd) const ERROR_OFFSET: u16 = (1 << 15) + 2;
}

/// Request flag: the reply must come in one chunk.
pub(super) const DO_NOT_FRAGMENT: u16 = 4;
/// Request flag: one descriptor is enough.
pub(super) const REQUEST_ONE: u16 = 8;

/// Descriptor flags of `base:allocation`: not stored, and reads as zeroes.
pub(super) const HOLE_AND_ZERO: u32 = 3;

/// What the server promises of an export: flags exist, read-only, flush, several connections see the same, and it can be told what will be
/// read.
const TRANSMISSION_FLAGS: u16 = 1 | 2 | 4 | 256 | 1024;
/// Chunks are not fragmented when the client says so.
const CAN_AVOID_FRAGMENTS: u16 = 128;

/// Length of a request.
pub(super) const REQUEST_LEN: usize = 28;
/// Length of the header of a simple reply.
pub(super) const SIMPLE_HEADER_LEN: usize = 16;
/// Length of the header of a chunk.
pub(super) const CHUNK_HEADER_LEN: usize = 20;

/// What a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Read,
    Write,
    Disconnect,
    Flush,
    Trim,
    Cache,
    WriteZeroes,
    BlockStatus,
    Other,
}

/// A request, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) flags: u16,
    pub(super) command: Command,
    /// Names the request in its reply.
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) len: u32,
}

/// Decodes a request; nothing if it is none.
pub(super) fn request(message: &[u8; REQUEST_LEN]) -> Option<Request> {
    let mut fields = Fields(message);
    (fields.u32()? == REQUEST_MAGIC).then_some(())?;
    Some(Request {
        flags: fields.u16()?,
        command: match fields.u16()? {
            0 => Command::Read,
            1 => Command::Write,
            2 => Command::Disconnect,
            3 => Command::Flush,
            4 => Command::Trim,
            5 => Command::Cache,
            6 => Command::WriteZeroes,
            7 => Command::BlockStatus,
            _ => Command::Other,
        },
        cookie: fields.u64()?,
        offset: fields.u64()?,
        len: fields.u32()?,
    })
}

/// What an export can do, for a client that takes structured replies or not.
pub(super) const fn transmission_flags(structured: bool) -> u16 {
    if structured {
        TRANSMISSION_FLAGS | CAN_AVOID_FRAGMENTS
    } else {
        TRANSMISSION_FLAGS
    }
}

/// The number of an error in a reply.
pub(super) fn error_code(errno: Errno) -> u32 {
    match errno {
        Errno::Io
        | Errno::Invalid
        | Errno::NotPermitted
        | Errno::Overflow
        | Errno::NotSupported
        | Errno::ShutDown => errno.code().unsigned_abs(),
        // Numbers that the protocol does not have.
        Errno::TimedOut | Errno::NoEntry | Errno::NoSuchCall => Errno::Io.code().unsigned_abs(),
    }
}

/// The header of a simple reply; data follows a successful read.
pub(super) fn simple_header(cookie: u64, outcome: Result<(), Errno>) -> [u8; SIMPLE_HEADER_LEN] {
    let mut header = [0; SIMPLE_HEADER_LEN];
    let mut fields = Slots(&mut header);
    fields.put(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    fields.put(&outcome.map_or_else(error_code, |()| 0).to_be_bytes());
    fields.put(&cookie.to_be_bytes());
    header
}

/// The header of a chunk of a structured reply with `len` bytes to follow; `last` for the one that ends the reply.
pub(super) fn chunk_header(kind: u16, last: bool, cookie: u64, len: u32) -> [u8; CHUNK_HEADER_LEN] {
    let mut header = [0; CHUNK_HEADER_LEN];
    let mut fields = Slots(&mut header);
    fields.put(&CHUNK_MAGIC.to_be_bytes());
    fields.put(&u16::from(last).to_be_bytes());
    fields.put(&kind.to_be_bytes());
    fields.put(&cookie.to_be_bytes());
    fields.put(&len.to_be_bytes());
    header
}

/// A reply to an option; `body` is short, as everything here is.
pub(super) fn option_reply(option: u32, kind: u32, body: &[u8]) -> Vec<u8> {
    let mut reply = Message::default();
    reply.u64(OPTION_REPLY_MAGIC);
    reply.u32(option);
    reply.u32(kind);
    reply.text(body);
    reply.0
}

/// Fixed places that are filled one after the other.
struct Slots<'a>(&'a mut [u8]);

impl Slots<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let (slot, rest) = std::mem::take(&mut self.0)
            .split_at_mut_checked(bytes.len())
            .unwrap_or_default();
        if slot.len() == bytes.len() {
            slot.copy_from_slice(bytes);
        }
        self.0 = rest;
    }
}

/// A message under construction.
#[derive(Debug, Default)]
pub(super) struct Message(pub(super) Vec<u8>);

impl Message {
    pub(super) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Bytes behind their length; at most 4 GiB.
    pub(super) fn text(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.bytes(bytes);
    }
}

/// The fields of a message that came from outside, from front to back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// Bytes behind their length, which is bounded by [`TEXT_LEN_MAX`].
    pub(super) fn text(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        (len <= TEXT_LEN_MAX).then_some(())?;
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(text)
    }

    /// Whether nothing is left.
    pub(super) fn is_done(&self) -> bool {
        self.0.is_empty()
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_apart_and_another_magic_refused() {
        let mut message = Message::default();
        message.u32(REQUEST_MAGIC);
        message.u16(DO_NOT_FRAGMENT);
        message.u16(7);
        message.u64(0x0123_4567_89ab_cdef);
        message.u64(1 << 40);
        message.u32(4096);
        let mut message: [u8; REQUEST_LEN] = message.0.try_into().unwrap();
        assert_eq!(
            request(&message),
            Some(Request {
                flags: DO_NOT_FRAGMENT,
                command: Command::BlockStatus,
                cookie: 0x0123_4567_89ab_cdef,
                offset: 1 << 40,
                len: 4096,
            })
        );
        message[3] ^= 1;
        assert_eq!(request(&message), None);
    }

    #[test]
    fn headers_have_every_field_in_its_place() {
        assert_eq!(
            simple_header(2, Err(Errno::Io)),
            *b"\x67\x44\x66\x98\0\0\0\x05\0\0\0\0\0\0\0\x02"
        );
        assert_eq!(
            chunk_header(chunk::OFFSET_DATA, true, 2, 12),
            *b"\x66\x8e\x33\xef\0\x01\0\x01\0\0\0\0\0\0\0\x02\0\0\0\x0c"
        );
        assert_eq!(
            option_reply(option::GO, answer::ACK, b"xy"),
            b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x01\0\0\0\x02xy"
        );
    }

    #[test]
    fn texts_that_are_longer_than_the_message_or_the_protocol_allows_are_refused() {
        assert_eq!(Fields(b"\0\0\0\x02ab").text(), Some(&b"ab"[..]));
        assert_eq!(Fields(b"\0\0\0\x03ab").text(), None);
        assert_eq!(Fields(b"\xff\xff\xff\xffab").text(), None);
        assert_eq!(Fields(b"\0\0").text(), None);
        let mut long = Message::default();
        long.text(&[b'x'; TEXT_LEN_MAX + 1]);
        assert_eq!(Fields(&long.0).text(), None);
    }

    #[test]
    fn errors_that_the_protocol_does_not_have_become_input_output_errors() {
        assert_eq!(error_code(Errno::TimedOut), 5);
        assert_eq!(error_code(Errno::NotPermitted), 1);
        assert_eq!(error_code(Errno::ShutDown), 108);
    }
}
