//! Reads and writes the fields of a message body.
//!
//! A list is read item by item into a vector that grows with the items, so that a count field can
//! never make a receiver allocate more than the bytes it was sent are worth.

use super::WireError;
use crate::Digest;

/// What is left of a body.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) const fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(WireError::Truncated { what })?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], WireError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(WireError::Truncated { what })?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, WireError> {
        Ok(u8::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u16(&mut self, what: &'static str) -> Result<u16, WireError> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    pub(super) fn digest(&mut self, what: &'static str) -> Result<Digest, WireError> {
        Ok(Digest::from_bytes(self.array(what)?))
    }

    /// A flag byte: 0 or 1, nothing else, so that each message has one encoding.
    pub(super) fn flag(&mut self, what: &'static str) -> Result<bool, WireError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(WireError::UnknownTag { what, value }),
        }
    }

    /// Bytes after a u16 length within `min..=max`.
    pub(super) fn bytes(
        &mut self,
        min: usize,
        max: usize,
        what: &'static str,
    ) -> Result<&'a [u8], WireError> {
        let len = usize::from(self.u16(what)?);
        in_bounds(len as u64, min as u64, max as u64, what)?;
        self.take(len, what)
    }

    /// Bytes after a u32 length of at most `max`.
    pub(super) fn long_bytes(
        &mut self,
        max: usize,
        what: &'static str,
    ) -> Result<&'a [u8], WireError> {
        let len = self.u32(what)?;
        in_bounds(u64::from(len), 0, max as u64, what)?;
        self.take(usize::try_from(len).unwrap_or(usize::MAX), what)
    }

    /// UTF-8 after a u16 length of at most `max`.
    pub(super) fn text(&mut self, max: usize, what: &'static str) -> Result<String, WireError> {
        let bytes = self.bytes(0, max, what)?;
        let text = std::str::from_utf8(bytes).map_err(|_| WireError::NotUtf8 { what })?;
        Ok(text.to_owned())
    }

    /// Items after a u16 count of at most `max`.
    pub(super) fn list<T>(
        &mut self,
        max: usize,
        what: &'static str,
        mut item: impl FnMut(&mut Self) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        let count = usize::from(self.u16(what)?);
        in_bounds(count as u64, 0, max as u64, what)?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    pub(super) fn end(self, what: &'static str) -> Result<(), WireError> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(WireError::TrailingBytes { what, count }),
        }
    }
}

pub(super) fn in_bounds(
    value: u64,
    min: u64,
    max: u64,
    what: &'static str,
) -> Result<(), WireError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(WireError::OutOfBounds {
            what,
            value,
            min,
            max,
        })
    }
}

pub(super) fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_digest(out: &mut Vec<u8>, digest: &Digest) {
    out.extend_from_slice(digest.bytes());
}

/// Writes a u16 length and at most `max` of the bytes.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8], max: usize) {
    let kept = bytes.get(..max).unwrap_or(bytes);
    put_count(out, kept.len());
    out.extend_from_slice(kept);
}

/// Writes a u32 length and at most `max` of the bytes; `max` is below 2^32.
pub(super) fn put_long_bytes(out: &mut Vec<u8>, bytes: &[u8], max: usize) {
    let kept = bytes.get(..max).unwrap_or(bytes);
    put_u32(out, u32::try_from(kept.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(kept);
}

/// Writes a u16 length and at most `max` bytes of the text, cut between characters.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str, max: usize) {
    let end = text.floor_char_boundary(max);
    put_bytes(out, text.as_bytes().get(..end).unwrap_or_default(), max);
}

/// Writes a u16 count and at most `max` of the items.
pub(super) fn put_list<'a, T>(
    out: &mut Vec<u8>,
    items: &'a [T],
    max: usize,
    mut item: impl FnMut(&mut Vec<u8>, &'a T),
) {
    let kept = items.get(..max).unwrap_or(items);
    put_count(out, kept.len());
    for each in kept {
        item(out, each);
    }
}

/// Every bound of the protocol is below 65,536, so a count always fits.
fn put_count(out: &mut Vec<u8>, count: usize) {
    put_u16(out, u16::try_from(count).unwrap_or(u16::MAX));
}
