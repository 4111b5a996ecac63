//! One header block of 512 bytes, in its V7, ustar, star and GNU forms.

use std::ops::Range;

use super::error::{ReadTarError, shown};
use super::pax::Extended;
use super::sparse::{self, Run};
use super::{Timestamp, number};

/// Length in bytes of a tar block.
pub(super) const BLOCK_LEN: usize = 512;

/// Where the fields stand.
mod at {
    use std::ops::Range;
    pub(super) const NAME: Range<usize> = 0..100;
    pub(super) const MODE: Range<usize> = 100..108;
    pub(super) const UID: Range<usize> = 108..116;
    pub(super) const GID: Range<usize> = 116..124;
    pub(super) const SIZE: Range<usize> = 124..136;
    pub(super) const MTIME: Range<usize> = 136..148;
    pub(super) const CHECKSUM: Range<usize> = 148..156;
    pub(super) const KIND: usize = 156;
    pub(super) const LINK: Range<usize> = 157..257;
    pub(super) const MAGIC: Range<usize> = 257..265;
    pub(super) const MAJOR: Range<usize> = 329..337;
    pub(super) const MINOR: Range<usize> = 337..345;
    pub(super) const PREFIX: Range<usize> = 345..500;
    /// star keeps times where ustar's prefix ends.
    pub(super) const STAR_PREFIX: Range<usize> = 345..476;
    pub(super) const STAR_TRAILER: Range<usize> = 508..512;
    pub(super) const GNU_SPARSE: Range<usize> = 386..482;
    pub(super) const GNU_GOES_ON: usize = 482;
    pub(super) const GNU_REAL_SIZE: Range<usize> = 483..495;
}

/// A header whose checksum is right.
#[derive(Debug)]
pub(super) struct Header {
    block: [u8; BLOCK_LEN],
}

impl Header {
    /// Checks the checksum of `block`, which stands at `offset` of the tar.
    pub(super) fn new(block: &[u8; BLOCK_LEN], offset: u64) -> Result<Self, ReadTarError> {
        let header = Self { block: *block };
        let stated = number::field(header.bytes(at::CHECKSUM));
        let (mut unsigned, mut signed) = (0, 0);
        for (place, byte) in block.iter().enumerate() {
            // The field itself counts as spaces.
            let byte = if at::CHECKSUM.contains(&place) {
                b' '
            } else {
                *byte
            };
            unsigned += i64::from(byte);
            // Old writers summed signed characters.
            signed += i64::from(byte.cast_signed());
        }
        if stated == Some(unsigned) || stated == Some(signed) {
            return Ok(header);
        }
        Err(ReadTarError::Header {
            offset,
            why: "its checksum is wrong",
        })
    }

    fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.block.get(range).unwrap_or_default()
    }

    fn text(&self, range: Range<usize>) -> &[u8] {
        let mut parts = self.bytes(range).split(|byte| *byte == 0);
        parts.next().unwrap_or_default()
    }

    /// The type's code; 0 is a regular file in the oldest form.
    pub(super) fn kind(&self) -> u8 {
        self.block.get(at::KIND).copied().unwrap_or_default()
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let name = self.text(at::NAME);
        let has_prefix = self.bytes(at::MAGIC).starts_with(b"ustar\0");
        let has_times = self.bytes(at::STAR_TRAILER) == b"tar\0";
        let prefix = match (has_prefix, has_times) {
            (true, true) => self.text(at::STAR_PREFIX),
            (true, false) => self.text(at::PREFIX),
            (false, _) => &[],
        };
        if prefix.is_empty() {
            name.to_vec()
        } else {
            [prefix, b"/", name].concat()
        }
    }

    pub(super) fn link_name(&self) -> Vec<u8> {
        self.text(at::LINK).to_vec()
    }

    fn number(
        &self,
        range: Range<usize>,
        field: &'static str,
        path: &[u8],
    ) -> Result<i64, ReadTarError> {
        number::field(self.bytes(range)).ok_or_else(|| ReadTarError::Number {
            entry: shown(path),
            field,
        })
    }

    fn unsigned<T: TryFrom<i64>>(
        &self,
        range: Range<usize>,
        field: &'static str,
        path: &[u8],
    ) -> Result<T, ReadTarError> {
        T::try_from(self.number(range, field, path)?).map_err(|_| ReadTarError::Number {
            entry: shown(path),
            field,
        })
    }

    /// The permission bits. Some writers put the kind into the mode as well: the type's code decides.
    pub(super) fn permissions(&self, path: &[u8]) -> Result<u16, ReadTarError> {
        let mode = self.number(at::MODE, "mode", path)?;
        Ok(u16::try_from(mode & 0o7777).unwrap_or_default())
    }

    pub(super) fn uid(&self, path: &[u8]) -> Result<u32, ReadTarError> {
        self.unsigned(at::UID, "owner", path)
    }

    pub(super) fn gid(&self, path: &[u8]) -> Result<u32, ReadTarError> {
        self.unsigned(at::GID, "group", path)
    }

    /// Bytes stored behind this header.
    pub(super) fn size(&self) -> Result<u64, ReadTarError> {
        self.unsigned(at::SIZE, "size", &self.path())
    }

    pub(super) fn mtime(&self, path: &[u8]) -> Result<Timestamp, ReadTarError> {
        Ok(Timestamp {
            seconds: self.number(at::MTIME, "time", path)?,
            nanoseconds: 0,
        })
    }

    /// Major and minor number of a device.
    pub(super) fn device(
        &self,
        extended: &Extended,
        path: &[u8],
    ) -> Result<(u32, u32), ReadTarError> {
        let major = || self.unsigned(at::MAJOR, "major number", path);
        let minor = || self.unsigned(at::MINOR, "minor number", path);
        Ok((
            extended.major.map_or_else(major, Ok)?,
            extended.minor.map_or_else(minor, Ok)?,
        ))
    }

    /// The part of an old GNU sparse map that fits into the header, and the file's real size.
    pub(super) fn old_sparse(&self, path: &[u8]) -> Result<(Vec<Run>, u64), ReadTarError> {
        if self.bytes(at::MAGIC) != b"ustar  \0" {
            return Err(ReadTarError::Sparse {
                entry: shown(path),
                why: "the header is not GNU's",
            });
        }
        let mut runs = Vec::new();
        sparse::old_records(self.bytes(at::GNU_SPARSE), &mut runs, path)?;
        let size = self.unsigned(at::GNU_REAL_SIZE, "real size", path)?;
        Ok((runs, size))
    }

    /// Whether blocks with more of the sparse map follow.
    pub(super) fn old_sparse_goes_on(&self) -> bool {
        self.block
            .get(at::GNU_GOES_ON)
            .is_some_and(|byte| *byte != 0)
    }
}
