//! A layer's tar out of the bytes that a registry keeps: gzip (any number of members), zstd (any number of frames) or
//! plain, told by its first bytes.
//!
//! The media type says what a layer should be; the first bytes say what it is. Registries hold layers whose media type
//! says gzip and whose bytes are a plain tar or zstd; every runtime looks at the bytes, and the diff id proves the tar
//! that comes out, so the bytes decide here too.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

const BUFFER_LEN: usize = 256 << 10;
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Zstd allows frames to be skipped before the first one with data; the low four bits are free.
const ZSTD_SKIPPABLE: &[u8] = &[0x2a, 0x4d, 0x18];

/// How a layer's tar is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    /// Not at all.
    Plain,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// What the first bytes tell.
    fn of(begin: &[u8]) -> Self {
        if begin.starts_with(GZIP_MAGIC) {
            Self::Gzip
        } else if begin.starts_with(ZSTD_MAGIC)
            || (begin.get(1..4) == Some(ZSTD_SKIPPABLE) && begin.first() >= Some(&0x50))
        {
            Self::Zstd
        } else {
            Self::Plain
        }
    }
}

/// Reads a layer's tar.
pub(super) enum Inflate<R: Read> {
    Plain(BufReader<R>),
    Gzip(Box<MultiGzDecoder<BufReader<R>>>),
    Zstd(Box<zstd::Decoder<'static, BufReader<R>>>),
}

impl<R: Read> Inflate<R> {
    /// Looks at the first bytes and sets up what reads the rest.
    ///
    /// # Errors
    /// The first bytes cannot be read.
    pub(super) fn new(stored: R) -> io::Result<Self> {
        let mut stored = BufReader::with_capacity(BUFFER_LEN, stored);
        Ok(match Compression::of(stored.fill_buf()?) {
            Compression::Plain => Self::Plain(stored),
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(stored))),
            Compression::Zstd => Self::Zstd(Box::new(zstd::Decoder::with_buffer(stored)?)),
        })
    }

    /// Whether the stored bytes are the tar itself.
    pub(super) const fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// Reads what is left of the stored bytes, since their digest covers what no decoder asks for too.
    ///
    /// # Errors
    /// The stored bytes cannot be read.
    pub(super) fn drain(self) -> io::Result<()> {
        let mut rest = match self {
            Self::Plain(rest) => rest,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
        };
        io::copy(&mut rest, &mut io::sink()).map(|_| ())
    }
}

impl<R: Read> Read for Inflate<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stored) => stored.read(buf),
            Self::Gzip(decoder) => decoder.read(buf),
            Self::Zstd(decoder) => decoder.read(buf),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn inflated(stored: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Inflate::new(stored)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn every_member_of_a_gzip_is_read() {
        assert_eq!(
            inflated(&[gzip(b"one "), gzip(b"two")].concat()).unwrap(),
            b"one two"
        );
    }

    #[test]
    fn every_frame_of_a_zstd_is_read() {
        let frame = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        let skippable = [&[0x5e, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
        assert_eq!(
            inflated(&[skippable, frame(b"one "), frame(b"two")].concat()).unwrap(),
            b"one two"
        );
    }

    #[test]
    fn a_plain_tar_passes_through() {
        assert_eq!(inflated(b"etc/passwd\0\0").unwrap(), b"etc/passwd\0\0");
        assert_eq!(inflated(b"").unwrap(), b"");
    }

    #[test]
    fn a_cut_gzip_is_an_error() {
        let stored = gzip(&vec![7; 100_000]);
        assert!(inflated(&stored[..stored.len() - 5]).is_err());
    }
}
