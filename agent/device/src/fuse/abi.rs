//! FUSE's messages as bytes: the part of the kernel's `fuse.h` that one read-only file needs.
//!
//! FUSE speaks the machine's own byte order. Every length is checked here, so that what decodes is in bounds: a message
//! too short for its kind is refused, and one longer than known comes from a newer kernel and is fine.

#![expect(
    clippy::host_endian_bytes,
    reason = "the kernel speaks the machine's byte order"
)]

use crate::errno::Errno;

/// Major version of the protocol; it has been 7 since 2005.
pub(super) const MAJOR: u32 = 7;
/// Highest minor version whose INIT reply this file knows: the one of Linux 6.18.
const MINOR: u32 = 45;
/// Lowest minor version served (Linux 4.20): since then the kernel takes more than 128 KiB a read.
const MINOR_MIN: u32 = 28;
/// Longest read answered, in bytes; what the kernel can be talked into.
pub(super) const READ_LEN_MAX: u32 = 1 << 20;
/// Enough for any request but a write, which are not asked for; the kernel insists on 8 KiB at least.
pub(super) const REQUEST_LEN_MAX: usize = 16 << 10;
/// Node id of the mount's root, fixed by the kernel.
pub(super) const ROOT_NODE: u64 = 1;
/// Node id of the file. Fixed, so that a successor knows what the predecessor's answers referred to.
pub(super) const FILE_NODE: u64 = 2;
/// Length of the header before each reply.
pub(super) const REPLY_HEADER_LEN: usize = 16;

/// Length of the header of each request.
pub(super) const REQUEST_HEADER_LEN: usize = 40;
/// How many requests that no process waits for (read-ahead, asynchronous direct I/O) may be in flight. The kernel's own 12
/// would starve a queue depth of 32.
const BACKGROUND_COUNT: u16 = 128;
/// From how many on the kernel slows writers of dirty pages down; three quarters, as the kernel does itself.
const CONGESTION_COUNT: u16 = 96;
/// Nothing changes here, so names and attributes may be believed for long: a year, in seconds.
const VALID_SECONDS: u64 = 365 * 24 * 3600;
/// What programs are told to read at a time, in bytes.
const PREFERRED_LEN: u32 = 4096;
const SECTOR_LEN: u64 = 512;
const RESEND_NOTICE: i32 = 7;
const KEEP_CACHE: u32 = 1 << 1;

const ASYNC_READ: u64 = 1;
const ASYNC_DIO: u64 = 1 << 15;
const PARALLEL_DIROPS: u64 = 1 << 18;
const MAX_PAGES: u64 = 1 << 22;
const INIT_EXT: u64 = 1 << 30;
const HAS_RESEND: u64 = 1 << 39;
/// What is asked for where the kernel offers it.
const WANTED: u64 = ASYNC_READ | ASYNC_DIO | PARALLEL_DIROPS | MAX_PAGES | INIT_EXT | HAS_RESEND;

/// What every request begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    opcode: u32,
    /// Names the request in its reply. A resent request has another than it had at first.
    pub(super) unique: u64,
    /// The file or folder meant.
    pub(super) node: u64,
}

/// What the kernel offers when a connection begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offer {
    /// Major version of the protocol.
    pub(super) major: u32,
    minor: u32,
    features: u64,
}

/// A request, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call<'a> {
    Init(Offer),
    Lookup { name: &'a [u8] },
    GetAttributes,
    Open,
    OpenFolder,
    Read { offset: u64, len: u32 },
    ReadFolder { offset: u64, len: u32 },
    Release,
    FilesystemStatistics,
    Access,
    Forget,
    Destroy,
    Other,
}

/// A file's or folder's attributes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes {
    pub(super) node: u64,
    pub(super) len: u64,
    pub(super) mode: u32,
}

/// Decodes the header of the request in `message`, and gives what follows it.
pub(super) fn header(message: &[u8]) -> Option<(Header, &[u8])> {
    let body = message.get(REQUEST_HEADER_LEN..)?;
    let said_len = u32_at(message, 0)?;
    (usize::try_from(said_len) == Ok(message.len())).then_some(())?;
    let header = Header {
        opcode: u32_at(message, 4)?,
        unique: u64_at(message, 8)?,
        node: u64_at(message, 16)?,
    };
    Some((header, body))
}

/// How long the request is that begins with `head`, as it says itself.
pub(super) fn message_len(head: &[u8]) -> Option<usize> {
    usize::try_from(u32_at(head, 0)?).ok()
}

/// Decodes what the request wants; nothing if `body` is too short for it.
pub(super) fn call(header: Header, body: &[u8]) -> Option<Call<'_>> {
    Some(match header.opcode {
        1 => Call::Lookup {
            name: body.split(|byte| *byte == 0).next()?,
        },
        // FORGET and BATCH_FORGET are never answered.
        2 | 42 => Call::Forget,
        3 => Call::GetAttributes,
        14 => Call::Open,
        15 => Call::Read {
            offset: u64_at(body, 8)?,
            len: u32_at(body, 16)?,
        },
        17 => Call::FilesystemStatistics,
        18 | 29 => Call::Release,
        26 => Call::Init(offer(body)?),
        27 => Call::OpenFolder,
        28 => Call::ReadFolder {
            offset: u64_at(body, 8)?,
            len: u32_at(body, 16)?,
        },
        34 => Call::Access,
        38 => Call::Destroy,
        _ => Call::Other,
    })
}

fn offer(body: &[u8]) -> Option<Offer> {
    let low = u64::from(u32_at(body, 12)?);
    let high = if low & INIT_EXT == 0 {
        0
    } else {
        u64::from(u32_at(body, 16)?)
    };
    Some(Offer {
        major: u32_at(body, 0)?,
        minor: u32_at(body, 4)?,
        features: high << 32 | low,
    })
}

impl Offer {
    /// Whether this file knows the kernel's side of the protocol.
    pub(super) fn is_served(self) -> bool {
        self.major > MAJOR || (self.major == MAJOR && self.minor >= MINOR_MIN)
    }

    /// Whether the kernel can resend what a crashed predecessor left unanswered.
    pub(super) fn resends(self) -> bool {
        self.features & HAS_RESEND != 0
    }

    /// The reply to INIT.
    pub(super) fn reply(self, read_ahead_len: u32, page_len: usize) -> Vec<u8> {
        let mut reply = Encoder::default();
        reply.u32(MAJOR);
        if self.major > MAJOR {
            // The kernel then offers again, in version 7.
            reply.bytes(&[0; 60]);
            return reply.0;
        }
        let taken = self.features & WANTED;
        let page_len = u32::try_from(page_len).unwrap_or(u32::MAX).max(1);
        let page_count = (READ_LEN_MAX / page_len).clamp(1, 256);
        reply.u32(self.minor.min(MINOR));
        reply.u32(read_ahead_len);
        reply.u32(low_half(taken));
        reply.u16(BACKGROUND_COUNT);
        reply.u16(CONGESTION_COUNT);
        reply.u32(4096); // longest write: the least that the kernel accepts
        reply.u32(1); // times count in nanoseconds
        reply.u16(u16::try_from(page_count).unwrap_or(1));
        reply.u16(0); // alignment of direct mappings, unused
        reply.u32(low_half(taken >> 32));
        reply.bytes(&[0; 28]);
        reply.0
    }
}

/// Lower 32 bits.
fn low_half(value: u64) -> u32 {
    u32::try_from(value & u64::from(u32::MAX)).unwrap_or_default()
}

/// The header of a reply whose body has `body_len` bytes, at most [`READ_LEN_MAX`].
pub(super) fn reply_header(unique: u64, outcome: Result<usize, Errno>) -> [u8; REPLY_HEADER_LEN] {
    let (body_len, error) = match outcome {
        Ok(body_len) => (body_len, 0),
        Err(errno) => (0, -errno.code()),
    };
    let len = u32::try_from(REPLY_HEADER_LEN.saturating_add(body_len)).unwrap_or(u32::MAX);
    head(len, error, unique)
}

/// The notice that has the kernel queue again whatever was read and not answered.
pub(super) fn resend_notice() -> [u8; REPLY_HEADER_LEN] {
    head(16, RESEND_NOTICE, 0)
}

fn head(len: u32, error: i32, unique: u64) -> [u8; REPLY_HEADER_LEN] {
    let mut header = [0; REPLY_HEADER_LEN];
    let (len_field, rest) = header.split_at_mut(4);
    let (error_field, unique_field) = rest.split_at_mut(4);
    len_field.copy_from_slice(&len.to_ne_bytes());
    error_field.copy_from_slice(&error.to_ne_bytes());
    unique_field.copy_from_slice(&unique.to_ne_bytes());
    header
}

/// The reply to LOOKUP of a name that exists.
pub(super) fn entry_reply(attributes: Attributes) -> Vec<u8> {
    let mut reply = Encoder::default();
    reply.u64(attributes.node);
    reply.u64(0); // generation: node ids are never reused
    reply.u64(VALID_SECONDS);
    reply.u64(VALID_SECONDS);
    reply.u64(0); // nanoseconds of both
    reply.attributes(attributes);
    reply.0
}

/// The reply to GETATTR.
pub(super) fn attributes_reply(attributes: Attributes) -> Vec<u8> {
    let mut reply = Encoder::default();
    reply.u64(VALID_SECONDS);
    reply.u64(0);
    reply.attributes(attributes);
    reply.0
}

/// The reply to OPEN and OPENDIR. Pages stay cached from one opening to the next: the bytes never change.
pub(super) fn open_reply() -> Vec<u8> {
    let mut reply = Encoder::default();
    reply.u64(0); // handle
    reply.u32(KEEP_CACHE);
    reply.u32(0);
    reply.0
}

/// The reply to STATFS for a filesystem that is full with `len` bytes.
pub(super) fn statistics_reply(len: u64) -> Vec<u8> {
    let mut reply = Encoder::default();
    reply.u64(len.div_ceil(u64::from(PREFERRED_LEN)));
    reply.u64(0);
    reply.u64(0);
    reply.u64(1); // files
    reply.u64(0);
    reply.u32(PREFERRED_LEN);
    reply.u32(255); // longest name
    reply.u32(PREFERRED_LEN);
    reply.bytes(&[0; 28]);
    reply.0
}

/// The reply to READDIR from `offset` on: as many of `entries` as fit into `len` bytes.
pub(super) fn folder_reply(entries: &[(u64, u32, &[u8])], offset: u64, len: u32) -> Vec<u8> {
    let mut reply = Encoder::default();
    let first = usize::try_from(offset).unwrap_or(usize::MAX);
    for (place, (node, mode, name)) in (1_u64..).zip(entries).skip(first) {
        let padded = name.len().next_multiple_of(8);
        if reply.0.len() + 24 + padded > len as usize {
            break;
        }
        reply.u64(*node);
        reply.u64(place); // where to go on
        reply.u32(u32::try_from(name.len()).unwrap_or_default());
        reply.u32(mode >> 12); // the entry's type as readdir(3) has it
        reply.bytes(name);
        reply.0.resize(reply.0.len() + padded - name.len(), 0);
    }
    reply.0
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A reply's body under construction.
#[derive(Debug, Default)]
struct Encoder(Vec<u8>);

impl Encoder {
    fn u16(&mut self, value: u16) {
        self.bytes(&value.to_ne_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_ne_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.bytes(&value.to_ne_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn attributes(&mut self, attributes: Attributes) {
        self.u64(attributes.node);
        self.u64(attributes.len);
        self.u64(attributes.len.div_ceil(SECTOR_LEN));
        self.bytes(&[0; 36]); // times of access, change and status: 1970, the same everywhere
        self.u32(attributes.mode);
        self.u32(1); // links
        self.bytes(&[0; 12]); // owner and group root, no device number
        self.u32(PREFERRED_LEN);
        self.u32(0);
    }
}

#[cfg(test)]
mod tests;
