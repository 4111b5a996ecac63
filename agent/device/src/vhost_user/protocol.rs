//! vhost-user's messages as bytes, with their numbers: what <https://qemu-project.gitlab.io/qemu/interop/vhost-user.html> says.
//!
//! A message is a header of twelve bytes and what belongs to it, in the machine's own byte order. What comes from the other side is taken
//! apart here, with a bound on every length, before anything acts on it.

#![expect(
    clippy::host_endian_bytes,
    reason = "both sides are on one machine and speak in its byte order"
)]

/// Length of the header.
pub(super) const HEADER_LEN: usize = 12;
/// Longest that belongs to a message, in bytes: a table of eight regions has 264, a read of the configuration 268.
pub(super) const PAYLOAD_LEN_MAX: usize = 512;
/// Most regions of memory that a guest can have here.
pub(super) const REGION_COUNT_MAX: usize = 8;
/// Longest part of a device's configuration that can be read at once, in bytes.
pub(super) const CONFIG_LEN_MAX: u32 = 256;

const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const IS_REPLY: u32 = 4;
const NEEDS_REPLY: u32 = 8;
/// In the messages that bring a descriptor: that there is none.
const NO_DESCRIPTOR: u64 = 1 << 8;

/// Bits of what back ends can do, which both sides must have.
pub(super) mod protocol_feature {
    pub(in crate::vhost_user) const MULTI_QUEUE: u64 = 1;
    pub(in crate::vhost_user) const REPLY_ACK: u64 = 1 << 3;
    pub(in crate::vhost_user) const CONFIG: u64 = 1 << 9;
    pub(in crate::vhost_user) const IN_FLIGHT: u64 = 1 << 12;
}

/// Among the features of the device: that there are protocol features at all.
pub(super) const PROTOCOL_FEATURES: u64 = 1 << 30;

/// A piece of the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    /// Where the guest sees it.
    pub(super) guest: u64,
    pub(super) len: u64,
    /// Where the front end sees it: rings are named by such addresses.
    pub(super) user: u64,
    /// Where it begins in the file that comes with it.
    pub(super) offset: u64,
}

/// Where a ring's parts are, in the front end's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) descriptors: u64,
    pub(super) used: u64,
    pub(super) available: u64,
}

/// The memory in which requests are noted that are in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InFlight {
    pub(super) len: u64,
    pub(super) offset: u64,
    pub(super) ring_count: u16,
    pub(super) ring_len: u16,
}

/// What the front end wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    GetFeatures,
    SetFeatures(u64),
    SetOwner,
    ResetOwner,
    SetMemory(Vec<Region>),
    SetRingLen { ring: u32, len: u32 },
    SetRingPlaces { ring: u32, places: Places },
    SetRingBase { ring: u32, base: u32 },
    GetRingBase { ring: u32 },
    SetKick { ring: u32, has_fd: bool },
    SetCall { ring: u32, has_fd: bool },
    SetError,
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    GetRingCount,
    EnableRing { ring: u32, enable: bool },
    GetConfig { offset: u32, len: u32 },
    SetConfig,
    GetInFlight(InFlight),
    SetInFlight(InFlight),
    Unknown(u32),
}

/// What stands before a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: u32,
    flags: u32,
    pub(super) len: usize,
}

impl Header {
    /// Takes a header apart; nothing if it is none, or of a reply, or of a message that is too long.
    pub(super) fn parse(bytes: &[u8; HEADER_LEN]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let header = Self {
            kind: fields.u32()?,
            flags: fields.u32()?,
            len: usize::try_from(fields.u32()?).ok()?,
        };
        let is_sound = header.flags & VERSION_MASK == VERSION
            && header.flags & IS_REPLY == 0
            && header.len <= PAYLOAD_LEN_MAX;
        is_sound.then_some(header)
    }

    /// Whether the other side waits for a word even where the message has no answer of its own.
    pub(super) fn needs_reply(self) -> bool {
        self.flags & NEEDS_REPLY != 0
    }

    /// The answer to a message of this kind.
    pub(super) fn reply(self, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut reply = Vec::with_capacity(HEADER_LEN + payload.len());
        for field in [self.kind, VERSION | IS_REPLY, len] {
            reply.extend_from_slice(&field.to_ne_bytes());
        }
        reply.extend_from_slice(payload);
        reply
    }
}

impl Request {
    /// Takes a message apart; nothing if it is cut short or asks for what cannot be.
    pub(super) fn parse(kind: u32, payload: &[u8]) -> Option<Self> {
        let mut fields = Fields(payload);
        Some(match kind {
            1 => Self::GetFeatures,
            2 => Self::SetFeatures(fields.u64()?),
            3 => Self::SetOwner,
            4 => Self::ResetOwner,
            5 => Self::SetMemory(regions(&mut fields)?),
            8 => Self::SetRingLen {
                ring: fields.u32()?,
                len: fields.u32()?,
            },
            9 => {
                let ring = fields.u32()?;
                let _flags = fields.u32()?;
                let places = Places {
                    descriptors: fields.u64()?,
                    used: fields.u64()?,
                    available: fields.u64()?,
                };
                Self::SetRingPlaces { ring, places }
            }
            10 => Self::SetRingBase {
                ring: fields.u32()?,
                base: fields.u32()?,
            },
            11 => Self::GetRingBase {
                ring: fields.u32()?,
            },
            12 => {
                let (ring, has_fd) = descriptor_of(&mut fields)?;
                Self::SetKick { ring, has_fd }
            }
            13 => {
                let (ring, has_fd) = descriptor_of(&mut fields)?;
                Self::SetCall { ring, has_fd }
            }
            14 => Self::SetError,
            15 => Self::GetProtocolFeatures,
            16 => Self::SetProtocolFeatures(fields.u64()?),
            17 => Self::GetRingCount,
            18 => Self::EnableRing {
                ring: fields.u32()?,
                enable: fields.u32()? != 0,
            },
            24 => {
                let (offset, len) = (fields.u32()?, fields.u32()?);
                let end = offset.checked_add(len)?;
                (end <= CONFIG_LEN_MAX).then_some(Self::GetConfig { offset, len })?
            }
            25 => Self::SetConfig,
            31 => Self::GetInFlight(in_flight(&mut fields)?),
            32 => Self::SetInFlight(in_flight(&mut fields)?),
            kind => Self::Unknown(kind),
        })
    }
}

fn regions(fields: &mut Fields<'_>) -> Option<Vec<Region>> {
    let count = usize::try_from(fields.u32()?).ok()?;
    let _padding = fields.u32()?;
    if count > REGION_COUNT_MAX {
        return None;
    }
    let mut region = || {
        let region = Region {
            guest: fields.u64()?,
            len: fields.u64()?,
            user: fields.u64()?,
            offset: fields.u64()?,
        };
        // Neither may wrap around: everything later reckons with ends.
        region.guest.checked_add(region.len)?;
        region.user.checked_add(region.len)?;
        region.offset.checked_add(region.len)?;
        Some(region)
    };
    (0..count).map(|_| region()).collect()
}

/// A ring's number, and whether a descriptor comes with the message.
fn descriptor_of(fields: &mut Fields<'_>) -> Option<(u32, bool)> {
    let value = fields.u64()?;
    let ring = u32::try_from(value & 0xff).ok()?;
    Some((ring, value & NO_DESCRIPTOR == 0))
}

fn in_flight(fields: &mut Fields<'_>) -> Option<InFlight> {
    Some(InFlight {
        len: fields.u64()?,
        offset: fields.u64()?,
        ring_count: fields.u16()?,
        ring_len: fields.u16()?,
    })
}

impl InFlight {
    /// As it is sent; padded, as the front end's own structure is.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(24);
        bytes.extend_from_slice(&self.len.to_ne_bytes());
        bytes.extend_from_slice(&self.offset.to_ne_bytes());
        bytes.extend_from_slice(&self.ring_count.to_ne_bytes());
        bytes.extend_from_slice(&self.ring_len.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes
    }
}

/// A number and another, as several answers have them.
pub(super) fn pair(first: u32, second: u32) -> Vec<u8> {
    [first.to_ne_bytes(), second.to_ne_bytes()].concat()
}

/// The answer to a read of the configuration.
pub(super) fn config_reply(offset: u32, bytes: &[u8]) -> Vec<u8> {
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut reply = pair(offset, len);
    reply.extend_from_slice(&[0; 4]); // flags
    reply.extend_from_slice(bytes);
    reply
}

/// The fields of a message, from front to back.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_ne_bytes)
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

    fn header(kind: u32, flags: u32, len: u32) -> [u8; HEADER_LEN] {
        let fields = [kind, flags, len].map(u32::to_ne_bytes);
        fields.concat().try_into().unwrap()
    }

    #[test]
    fn headers_of_another_version_or_of_replies_or_of_long_messages_are_refused() {
        let sound = Header::parse(&header(1, VERSION | NEEDS_REPLY, 8)).unwrap();
        assert!(sound.needs_reply() && sound.len == 8);
        assert_eq!(sound.reply(&[7])[..4], 1_u32.to_ne_bytes());
        for (flags, len) in [(2, 0), (VERSION | IS_REPLY, 0), (VERSION, 513)] {
            assert_eq!(Header::parse(&header(1, flags, len)), None);
        }
    }

    #[test]
    fn a_table_of_memory_is_read_and_one_that_wraps_around_refused() {
        let mut payload = pair(1, 0);
        for field in [0x1000_u64, 0x2000, 0x7000_0000, 0x4000] {
            payload.extend_from_slice(&field.to_ne_bytes());
        }
        let region = Region {
            guest: 0x1000,
            len: 0x2000,
            user: 0x7000_0000,
            offset: 0x4000,
        };
        assert_eq!(
            Request::parse(5, &payload),
            Some(Request::SetMemory(vec![region]))
        );
        assert_eq!(Request::parse(5, &payload[..39]), None, "cut short");
        payload[16..24].copy_from_slice(&u64::MAX.to_ne_bytes());
        assert_eq!(Request::parse(5, &payload), None, "wraps around");
        assert_eq!(Request::parse(5, &pair(9, 0)), None, "too many");
    }

    #[test]
    fn descriptors_and_configuration_are_asked_for_within_bounds() {
        let kick = |value: u64| Request::parse(12, &value.to_ne_bytes());
        let has_fd = true;
        assert_eq!(kick(3), Some(Request::SetKick { ring: 3, has_fd }));
        let has_fd = false;
        assert_eq!(kick(0x103), Some(Request::SetKick { ring: 3, has_fd }));
        let config = |offset, len| Request::parse(24, &pair(offset, len));
        let (offset, len) = (200, 56);
        assert_eq!(config(200, 56), Some(Request::GetConfig { offset, len }));
        assert_eq!(config(200, 57), None);
        assert_eq!(config(u32::MAX, 2), None);
        assert_eq!(Request::parse(99, b""), Some(Request::Unknown(99)));
    }
}
