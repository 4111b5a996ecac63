//! Digests of blobs and hashes of chunks.
//!
//! Two names for two jobs: a [`Digest`] is OCI's, always SHA-256, and names a whole blob; a [`ChunkHash`] checks one chunk
//! and may be of a faster algorithm, because no registry ever sees it.

use core::fmt;
use core::str::FromStr;
use std::io::{self, Read, Write};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// Bytes in a digest or a chunk hash.
pub const HASH_LEN: usize = 32;

/// An OCI digest by SHA-256: the name of a blob by its content. Prints as `sha256:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; HASH_LEN]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of all that `reader` gives, and how many bytes that were.
    ///
    /// # Errors
    /// The reader's own.
    pub fn from_reader(reader: impl Read) -> io::Result<(Self, u64)> {
        let mut writer = DigestWriter::new(io::sink());
        let mut reader = io::BufReader::with_capacity(READ_LEN, reader);
        io::copy(&mut reader, &mut writer)?;
        let (_, digest, len) = writer.finish();
        Ok((digest, len))
    }

    /// The digest whose 32 bytes are known.
    pub const fn from_bytes(bytes: [u8; HASH_LEN]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn bytes(&self) -> &[u8; HASH_LEN] {
        &self.0
    }

    /// The 64 lower-case hex digits, without the algorithm.
    pub fn hex(&self) -> String {
        Hex(&self.0).to_string()
    }
}

/// Bytes hashed at a time when reading: large enough that the calls do not count.
const READ_LEN: usize = 128 * 1024;

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", Hex(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not `sha256:` and 64 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a digest of the form sha256:<64 lower-case hex digits>")]
pub struct ParseDigestError {
    /// The text, cut short if it is long.
    pub text: String,
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    /// OCI asks for lower-case digits; another spelling would be another name for the same blob.
    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        text.strip_prefix("sha256:")
            .and_then(parse_hex)
            .map(Self)
            .ok_or_else(|| ParseDigestError {
                text: text.chars().take(100).collect(),
            })
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Passes on what is written and hashes it on the way.
#[derive(Debug)]
pub struct DigestWriter<W> {
    inner: W,
    hasher: Sha256,
    len: u64,
}

impl<W: Write> DigestWriter<W> {
    /// Hashes all that will be written to `inner` through this.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            len: 0,
        }
    }

    /// The writer, the digest of what went through, and its length in bytes.
    pub fn finish(self) -> (W, Digest, u64) {
        (self.inner, Digest(self.hasher.finalize().into()), self.len)
    }
}

impl<W: Write> Write for DigestWriter<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buf)?;
        self.hasher.update(buf.get(..count).unwrap_or(buf));
        self.len = self.len.saturating_add(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// How chunks are hashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum HashAlgorithm {
    /// BLAKE3 with 32 bytes of output, no key: what this software writes.
    #[default]
    Blake3 = 1,
    /// SHA-256, for where only that is approved.
    Sha256 = 2,
}

impl HashAlgorithm {
    /// The algorithm with this number in the format.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Blake3),
            2 => Some(Self::Sha256),
            _ => None,
        }
    }

    /// Its number in the format.
    pub const fn number(self) -> u8 {
        match self {
            Self::Blake3 => 1,
            Self::Sha256 => 2,
        }
    }

    /// The hash of `bytes`.
    pub fn hash(self, bytes: &[u8]) -> ChunkHash {
        match self {
            Self::Blake3 => ChunkHash(*blake3::hash(bytes).as_bytes()),
            Self::Sha256 => ChunkHash(Sha256::digest(bytes).into()),
        }
    }
}

/// The hash of one chunk's stored bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkHash([u8; HASH_LEN]);

impl ChunkHash {
    /// The hash whose 32 bytes are known.
    pub const fn from_bytes(bytes: [u8; HASH_LEN]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn bytes(&self) -> &[u8; HASH_LEN] {
        &self.0
    }
}

impl fmt::Display for ChunkHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Hex(&self.0), f)
    }
}

impl fmt::Debug for ChunkHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Bytes that BLAKE3 is given at once. Of a power of two it hashes many parts side by side; of the odd lengths of stored
/// blocks it hashes most parts alone, at a third of the speed.
const WIDE_LEN: usize = 64 << 10;

/// A chunk hash in the making.
#[derive(Clone, Debug)]
pub(crate) enum ChunkHasher {
    Blake3 {
        hasher: Box<blake3::Hasher>,
        /// Less than [`WIDE_LEN`] bytes that were not hashed yet.
        held: Vec<u8>,
    },
    Sha256(Sha256),
}

impl ChunkHasher {
    pub(crate) fn new(algorithm: HashAlgorithm) -> Self {
        match algorithm {
            HashAlgorithm::Blake3 => Self::Blake3 {
                hasher: Box::default(),
                held: Vec::with_capacity(WIDE_LEN),
            },
            HashAlgorithm::Sha256 => Self::Sha256(Sha256::new()),
        }
    }

    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        match self {
            Self::Blake3 { hasher, held } => {
                while !bytes.is_empty() {
                    let room = WIDE_LEN.saturating_sub(held.len());
                    let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
                    held.extend_from_slice(now);
                    if held.len() >= WIDE_LEN {
                        hasher.update(held);
                        held.clear();
                    }
                    bytes = later;
                }
            }
            Self::Sha256(hasher) => hasher.update(bytes),
        }
    }

    /// The hash of all since the last call, and a fresh start.
    pub(crate) fn take(&mut self) -> ChunkHash {
        match self {
            Self::Blake3 { hasher, held } => {
                let hash = ChunkHash(*hasher.update(held).finalize().as_bytes());
                held.clear();
                hasher.reset();
                hash
            }
            Self::Sha256(hasher) => ChunkHash(hasher.finalize_reset().into()),
        }
    }
}

/// Prints bytes as lower-case hex digits.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn parse_hex(text: &str) -> Option<[u8; HASH_LEN]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * HASH_LEN {
        return None;
    }
    let mut bytes = [0; HASH_LEN];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        *byte = hex_digit(high)? << 4 | hex_digit(low)?;
    }
    Some(bytes)
}

const fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_prints_and_parses_as_oci_spells_it() {
        let digest = Digest::of(b"");
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(EMPTY.parse(), Ok(digest));
        assert_eq!(
            serde_json::to_string(&digest).unwrap(),
            format!("{EMPTY:?}")
        );
        assert_eq!(
            serde_json::from_str::<Digest>(&format!("{EMPTY:?}")).unwrap(),
            digest
        );
    }

    #[test]
    fn other_spellings_are_not_digests() {
        for text in [
            "",
            "sha256:",
            &EMPTY[7..],
            &EMPTY.to_uppercase(),
            &EMPTY[..70],
            &format!("{EMPTY}0"),
            "sha512:00",
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
        assert!(
            format!("sha256:{}", "é".repeat(32))
                .parse::<Digest>()
                .is_err()
        );
    }

    #[test]
    fn a_digest_on_the_way_is_the_digest_of_the_whole() {
        let bytes = vec![7; 300_000];
        let mut writer = DigestWriter::new(Vec::new());
        for piece in bytes.chunks(1000) {
            writer.write_all(piece).unwrap();
        }
        assert_eq!(
            writer.finish(),
            (bytes.clone(), Digest::of(&bytes), 300_000)
        );
        assert_eq!(
            Digest::from_reader(bytes.as_slice()).unwrap(),
            (Digest::of(&bytes), 300_000)
        );
    }

    #[test]
    fn a_chunk_hash_in_pieces_is_the_hash_of_the_whole() {
        for algorithm in [HashAlgorithm::Blake3, HashAlgorithm::Sha256] {
            let mut hasher = ChunkHasher::new(algorithm);
            hasher.update(b"first");
            assert_eq!(hasher.take(), algorithm.hash(b"first"));
            hasher.update(b"se");
            hasher.update(b"cond");
            assert_eq!(hasher.take(), algorithm.hash(b"second"));
            let long: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
            long.chunks(7_001).for_each(|piece| hasher.update(piece));
            assert_eq!(hasher.take(), algorithm.hash(&long));
            hasher.update(&long);
            assert_eq!(hasher.take(), algorithm.hash(&long));
            assert_eq!(
                HashAlgorithm::from_number(algorithm.number()),
                Some(algorithm)
            );
        }
        assert_eq!(HashAlgorithm::from_number(0), None);
    }
}
