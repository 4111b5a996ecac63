//! Where the bytes of a blob lie: a file, or a part of an archive.

use std::fs::File;
use std::io::{self, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tranship_format::{ByteRange, Digest, DigestWriter};

use super::LayoutFailure;
use super::checked::CheckedReader;

/// A run of bytes of a file that is said to be a blob.
#[derive(Debug)]
pub(super) struct StoredBlob {
    file: File,
    start: u64,
    len: u64,
    digest: Digest,
}

impl StoredBlob {
    pub(super) fn new(file: File, range: ByteRange, digest: Digest) -> Self {
        Self {
            file,
            start: range.start,
            len: range.len(),
            digest,
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Exactly these bytes of the blob.
    pub(super) fn read_range(&self, range: ByteRange) -> Result<Bytes, LayoutFailure> {
        let beyond = || LayoutFailure::BeyondEnd {
            range,
            len: self.len,
        };
        if range.end > self.len {
            return Err(beyond());
        }
        let len = usize::try_from(range.len()).map_err(|_| beyond())?;
        let at = self.start.checked_add(range.start).ok_or_else(beyond)?;
        let mut bytes = vec![0; len];
        self.file
            .read_exact_at(&mut bytes, at)
            .map_err(LayoutFailure::Io)?;
        Ok(bytes.into())
    }

    /// All of it, if it is at most `limit` bytes and has its digest.
    pub(super) fn read_checked(&self, limit: u64) -> Result<Bytes, LayoutFailure> {
        if self.len > limit {
            return Err(LayoutFailure::TooLong { limit });
        }
        let bytes = self.read_range(ByteRange::new(0, self.len))?;
        let got = Digest::of(&bytes);
        if got == self.digest {
            Ok(bytes)
        } else {
            Err(LayoutFailure::WrongDigest {
                wanted: self.digest,
                got,
            })
        }
    }

    /// A reader of all of it that checks the digest.
    pub(super) async fn reader(self) -> io::Result<CheckedReader> {
        let mut file = tokio::fs::File::from_std(self.file);
        file.seek(SeekFrom::Start(self.start)).await?;
        Ok(CheckedReader::new(
            Box::new(file.take(self.len)),
            self.digest,
        ))
    }
}

/// What was written, if it is what was promised.
pub(super) fn check<W: Write>(
    writer: DigestWriter<W>,
    wanted: Digest,
    wanted_len: u64,
) -> Result<(), LayoutFailure> {
    let (_, got, got_len) = writer.finish();
    if got_len != wanted_len {
        return Err(LayoutFailure::WrongLength {
            wanted: wanted_len,
            got: got_len,
        });
    }
    if got != wanted {
        return Err(LayoutFailure::WrongDigest { wanted, got });
    }
    Ok(())
}
