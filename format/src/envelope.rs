//! The tar envelope around a layer, as overlaybd writes it: one entry `overlaybd.commit` whose size stands in a PAX record.
//!
//! Registries and tools want layers to be tar files. Our own layers carry a second entry with the chunk table, where stock
//! readers never look.

use std::io;

use crate::address::ByteRange;
use crate::error::{DecodeError, Fault};
use crate::field::put;
use crate::read_at::ReadAt;

/// Bytes before the payload in the envelopes that are written: PAX header, PAX record, header.
pub(crate) const HEADER_LEN: usize = 3 * BLOCK_LEN;

/// Bytes of a tar block.
pub(crate) const BLOCK_LEN: usize = 512;

/// Bytes that end an archive: two blocks of zeros.
pub(crate) const END_LEN: usize = 2 * BLOCK_LEN;

/// The entry that holds the layer; overlaybd's own name for it.
const COMMIT_NAME: &str = "overlaybd.commit";
/// The PAX entry before it.
const PAX_NAME: &str = "overlaybd.pax";
/// The entry that holds the chunk table.
const CHUNKS_NAME: &str = "tranship.chunks";

/// Bytes of PAX records that are read; overlaybd writes less than 40.
const MAX_PAX_LEN: u64 = 64 << 10;

/// The name of the structure in errors.
const WHAT: &str = "tar envelope";

/// What may go wrong while looking for an envelope.
pub(crate) enum EnvelopeError {
    Read(io::Error),
    Decode(DecodeError),
}

impl From<DecodeError> for EnvelopeError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

/// Which bytes of the blob are the payload: all of them if there is no envelope. What does not begin with a tar header
/// whose checksum is right is no envelope.
pub(crate) fn payload<R: ReadAt>(blob: &R) -> Result<ByteRange, EnvelopeError> {
    let whole = ByteRange::new(0, blob.len());
    let Some(first) = read_header(blob, 0)? else {
        return Ok(whole);
    };
    let mut data_start = BLOCK_LEN as u64;
    let mut len = first.len;
    if first.is_pax {
        if first.len > MAX_PAX_LEN {
            return Err(fault(
                124,
                Fault::Field {
                    name: "PAX length",
                    value: first.len,
                    must: "at most 64 KiB",
                },
            )
            .into());
        }
        let mut records = vec![0; usize::try_from(first.len).unwrap_or(0)];
        blob.read_exact_at(data_start, &mut records)
            .map_err(EnvelopeError::Read)?;
        let header_at = data_start.saturating_add(padded(first.len));
        let Some(second) = read_header(blob, header_at)? else {
            return Err(fault(
                header_at,
                Fault::Rule("no tar header follows the PAX records"),
            )
            .into());
        };
        len = pax_size(&records)?.unwrap_or(second.len);
        data_start = header_at.saturating_add(BLOCK_LEN as u64);
    }
    let payload = ByteRange::at(data_start, len).filter(|payload| whole.contains_range(*payload));
    payload.ok_or_else(|| {
        let have = whole.end.saturating_sub(data_start);
        fault(data_start, Fault::Truncated { need: len, have }).into()
    })
}

struct Header {
    is_pax: bool,
    len: u64,
}

/// The tar header at `at`, if there is one and its checksum is right.
fn read_header<R: ReadAt>(blob: &R, at: u64) -> Result<Option<Header>, EnvelopeError> {
    let fits = at
        .checked_add(BLOCK_LEN as u64)
        .is_some_and(|end| end <= blob.len());
    if !fits {
        return Ok(None);
    }
    let mut header = [0; BLOCK_LEN];
    blob.read_exact_at(at, &mut header)
        .map_err(EnvelopeError::Read)?;
    let is_ustar = header.get(257..262) == Some(b"ustar");
    let stored = header.get(148..156).and_then(octal);
    if !is_ustar || stored != Some(checksum(&header)) {
        return Ok(None);
    }
    let is_pax = header.get(156) == Some(&b'x');
    let len = header.get(124..136).and_then(number).ok_or_else(|| {
        fault(
            at.saturating_add(124),
            Fault::Rule("the size is not a number"),
        )
    })?;
    Ok(Some(Header { is_pax, len }))
}

/// The sum of all bytes of a header, its checksum field taken as spaces.
fn checksum(header: &[u8; BLOCK_LEN]) -> u64 {
    let byte_at = |(at, byte): (usize, &u8)| {
        if (148..156).contains(&at) {
            u64::from(b' ')
        } else {
            u64::from(*byte)
        }
    };
    header.iter().enumerate().map(byte_at).sum()
}

/// An octal field, padded with spaces or NULs on either side.
fn octal(field: &[u8]) -> Option<u64> {
    let text = str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    if text.is_empty() {
        Some(0)
    } else {
        u64::from_str_radix(text, 8).ok()
    }
}

/// A size field: octal, or GNU's binary form for what octal cannot hold.
fn number(field: &[u8]) -> Option<u64> {
    match field.split_first() {
        Some((0x80, rest)) => rest.iter().try_fold(0_u64, |value, byte| {
            value.checked_mul(256)?.checked_add(u64::from(*byte))
        }),
        _ => octal(field),
    }
}

/// The value of the last `size` record, if there is any.
fn pax_size(records: &[u8]) -> Result<Option<u64>, DecodeError> {
    let malformed = || fault(BLOCK_LEN as u64, Fault::Rule("a PAX record is malformed"));
    let mut size = None;
    let mut rest = str::from_utf8(records).map_err(|_| malformed())?;
    while !rest.trim_matches('\0').is_empty() {
        let (len, _) = rest.split_once(' ').ok_or_else(malformed)?;
        let record_len: usize = len.parse().map_err(|_| malformed())?;
        let (record, after) = rest.split_at_checked(record_len).ok_or_else(malformed)?;
        let body = record
            .get(len.len().saturating_add(1)..)
            .and_then(|body| body.strip_suffix('\n'))
            .ok_or_else(malformed)?;
        if let Some(value) = body.strip_prefix("size=") {
            size = Some(value.parse().map_err(|_| malformed())?);
        }
        rest = after;
    }
    Ok(size)
}

/// The envelope's first bytes, for a payload of `payload_len` bytes: exactly what overlaybd writes.
pub(crate) fn header(payload_len: u64) -> [u8; HEADER_LEN] {
    let record = pax_record(payload_len);
    let mut pax = [0; BLOCK_LEN];
    put(&mut pax, 0, PAX_NAME.as_bytes());
    seal_header(&mut pax, record.len() as u64, b'x');
    let mut bytes = [0; HEADER_LEN];
    put(&mut bytes, 0, &pax);
    put(&mut bytes, BLOCK_LEN, record.as_bytes());
    put(&mut bytes, 2 * BLOCK_LEN, &file_header(COMMIT_NAME, 0));
    bytes
}

/// The header of the entry with the chunk table of `len` bytes.
pub(crate) fn chunks_header(len: u64) -> [u8; BLOCK_LEN] {
    file_header(CHUNKS_NAME, len)
}

/// A PAX record counts its own length, digits included.
fn pax_record(size: u64) -> String {
    let body = format!(" size={size}\n");
    let mut len = body.len();
    while len != body.len().saturating_add(len.to_string().len()) {
        len = body.len().saturating_add(len.to_string().len());
    }
    format!("{len}{body}")
}

fn file_header(name: &str, len: u64) -> [u8; BLOCK_LEN] {
    let mut header = [0; BLOCK_LEN];
    put(&mut header, 0, name.as_bytes());
    put(&mut header, 100, b"100644 \0");
    put(&mut header, 108, b"     0 \0");
    put(&mut header, 116, b"     0 \0");
    put(&mut header, 136, b"          0 ");
    put(&mut header, 265, b"root");
    put(&mut header, 297, b"root");
    seal_header(&mut header, len, b'0');
    header
}

/// Size, kind, magic, and last the checksum over all of it.
fn seal_header(header: &mut [u8; BLOCK_LEN], len: u64, kind: u8) {
    put(header, 124, format!("{len:11o} ").as_bytes());
    put(header, 156, &[kind]);
    put(header, 257, b"ustar\x0000");
    let sum = checksum(header);
    put(header, 148, format!("{sum:6o} \0").as_bytes());
}

/// `len` rounded up to whole tar blocks.
pub(crate) fn padded(len: u64) -> u64 {
    len.checked_next_multiple_of(BLOCK_LEN as u64)
        .unwrap_or(u64::MAX)
}

fn fault(offset: u64, why: Fault) -> DecodeError {
    DecodeError::new(WHAT, offset, why)
}

#[cfg(test)]
mod tests;
