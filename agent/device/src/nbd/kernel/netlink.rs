//! Generic netlink, as far as a driver is configured with it: one message there, the answer and an acknowledgement back.
//!
//! By hand, because it is three headers and a list of attributes; the crates that wrap it bring a world of message types for it.

#![expect(
    clippy::host_endian_bytes,
    reason = "netlink speaks in the machine's byte order"
)]

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::GENERIC;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{recv, send, socket_with};

/// Length of the two headers before a message's attributes.
const HEADERS_LEN: usize = 20;
/// Length of an attribute's header.
const ATTRIBUTE_LEN: usize = 4;
/// Longest answer that is taken, in bytes: the kernel's pages.
const ANSWER_LEN_MAX: usize = 16 << 10;
/// Flags of a request that is to be acknowledged.
const REQUEST: u16 = 1 | 4;
/// Kind of message that acknowledges or refuses.
const ACKNOWLEDGEMENT: u16 = 2;
/// An attribute's content is attributes.
const NESTED: u16 = 1 << 15;
/// What the two uppermost bits of an attribute's number are not.
const NUMBER: u16 = 0x3fff;

/// The controller, which knows the families: its number, and what is asked of it.
const CONTROLLER: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_NUMBER: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// A way to one family.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    family: u16,
    sequence: u32,
}

impl Netlink {
    /// Finds the family `name`; the error is "no entry" where its driver is not loaded.
    pub(super) fn to_family(name: &str) -> io::Result<Self> {
        let mut netlink = Self {
            socket: socket_with(
                AddressFamily::NETLINK,
                SocketType::RAW,
                SocketFlags::CLOEXEC,
                Some(GENERIC),
            )?,
            family: CONTROLLER,
            sequence: 0,
        };
        let mut query = Attributes::default();
        query.put(FAMILY_NAME, &[name.as_bytes(), b"\0"].concat());
        let answer = netlink.call(GET_FAMILY, &query)?;
        netlink.family = find(&answer, FAMILY_NUMBER)
            .and_then(|number| number.try_into().ok())
            .map(u16::from_ne_bytes)
            .ok_or(io::ErrorKind::InvalidData)?;
        Ok(netlink)
    }

    /// Sends a command and gives the attributes of its answer, if there is one.
    pub(super) fn call(&mut self, command: u8, attributes: &Attributes) -> io::Result<Vec<u8>> {
        self.sequence = self.sequence.wrapping_add(1);
        let message = message(self.family, self.sequence, command, &attributes.0);
        send(&self.socket, &message, SendFlags::empty())?;
        let mut answer = Vec::new();
        loop {
            let mut buf = vec![0; ANSWER_LEN_MAX];
            let (_, len) = recv(&self.socket, buf.as_mut_slice(), RecvFlags::TRUNC)?;
            let received = buf.get(..len).ok_or(io::ErrorKind::InvalidData)?;
            for part in messages(received) {
                match part {
                    Part::Acknowledged(0) => return Ok(answer),
                    Part::Acknowledged(code) => {
                        return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                    }
                    Part::Attributes(bytes) => answer = bytes.to_vec(),
                }
            }
        }
    }
}

/// Attributes of a message under construction.
#[derive(Debug, Default)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    pub(super) fn put(&mut self, number: u16, content: &[u8]) {
        let len = u16::try_from(ATTRIBUTE_LEN + content.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&number.to_ne_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    pub(super) fn u32(&mut self, number: u16, value: u32) {
        self.put(number, &value.to_ne_bytes());
    }

    pub(super) fn u64(&mut self, number: u16, value: u64) {
        self.put(number, &value.to_ne_bytes());
    }

    pub(super) fn nest(&mut self, number: u16, inner: &Self) {
        self.put(number | NESTED, &inner.0);
    }
}

/// A number of four bytes among attributes.
pub(super) fn find_u32(attributes: &[u8], number: u16) -> Option<u32> {
    find(attributes, number)?
        .try_into()
        .ok()
        .map(u32::from_ne_bytes)
}

fn message(family: u16, sequence: u32, command: u8, attributes: &[u8]) -> Vec<u8> {
    let len = u32::try_from(HEADERS_LEN + attributes.len()).unwrap_or(u32::MAX);
    let mut message = len.to_ne_bytes().to_vec();
    message.extend_from_slice(&family.to_ne_bytes());
    message.extend_from_slice(&REQUEST.to_ne_bytes());
    message.extend_from_slice(&sequence.to_ne_bytes());
    message.extend_from_slice(&[0; 4]); // the kernel knows who sends
    message.extend_from_slice(&[command, 1, 0, 0]); // version 1
    message.extend_from_slice(attributes);
    message
}

/// What one message of the kernel says.
#[derive(Debug, PartialEq, Eq)]
enum Part<'a> {
    /// How the request ended: 0, or a negative errno.
    Acknowledged(i32),
    Attributes(&'a [u8]),
}

/// The messages in what was received; what is cut short ends them.
fn messages(mut received: &[u8]) -> Vec<Part<'_>> {
    let mut found = Vec::new();
    while let Some(len) = u32_at(received, 0) {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let Some(message) = received.get(..len).filter(|message| message.len() >= 16) else {
            break;
        };
        let kind = message.get(4..6).and_then(|kind| kind.try_into().ok());
        match kind.map(u16::from_ne_bytes) {
            Some(ACKNOWLEDGEMENT) => {
                let code = u32_at(message, 16).map_or(0, u32::cast_signed);
                found.push(Part::Acknowledged(code));
            }
            _ => found.push(Part::Attributes(
                message.get(HEADERS_LEN..).unwrap_or_default(),
            )),
        }
        received = received.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// The content of the first attribute of that number.
fn find(mut attributes: &[u8], number: u16) -> Option<&[u8]> {
    loop {
        let (head, _) = attributes.split_first_chunk::<ATTRIBUTE_LEN>()?;
        let (len, kind) = head.split_first_chunk::<2>()?;
        let len = usize::from(u16::from_ne_bytes(*len));
        let kind = u16::from_ne_bytes(kind.try_into().ok()?);
        let content = attributes.get(ATTRIBUTE_LEN..len)?;
        if kind & NUMBER == number {
            return Some(content);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_ne_bytes(field))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_again_and_wrong_lengths_end_the_search() {
        let mut inner = Attributes::default();
        inner.u32(1, 7);
        let mut outer = Attributes::default();
        outer.put(3, b"abc");
        outer.nest(4, &inner);
        outer.u64(5, 9);
        assert_eq!(outer.0.len(), 8 + 12 + 12);
        assert_eq!(find(&outer.0, 3), Some(&b"abc"[..]));
        assert_eq!(find_u32(find(&outer.0, 4).unwrap(), 1), Some(7));
        assert_eq!(find(&outer.0, 6), None);
        for len in [0_u16, 3, 99] {
            let mut wrong = outer.0.clone();
            wrong[..2].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(find(&wrong, 5), None, "{len}");
        }
    }

    #[test]
    fn answers_and_acknowledgements_are_told_apart() {
        let mut attributes = Attributes::default();
        attributes.u32(1, 7);
        let mut received = message(30, 1, 1, &attributes.0);
        let mut refusal = message(ACKNOWLEDGEMENT, 1, 0, &[0; 16]);
        refusal[16..20].copy_from_slice(&(-17_i32).to_ne_bytes());
        received.extend_from_slice(&refusal);
        assert_eq!(
            messages(&received),
            [Part::Attributes(&attributes.0), Part::Acknowledged(-17)]
        );
        assert_eq!(messages(&received[..10]), []);
        assert_eq!(messages(&[0; 16]), [], "a length of nothing");
    }

    #[test]
    fn a_family_that_is_not_there_is_no_entry() {
        let error = Netlink::to_family("tranship-none").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
    }
}
