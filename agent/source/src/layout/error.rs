//! What can go wrong with an image on disk.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

use tranship_format::{ByteRange, Digest};

/// A layout that could not be used; the source says why, and is a [`LayoutFailure`].
#[derive(Debug)]
pub struct LayoutError {
    path: PathBuf,
    deed: &'static str,
    pub(super) failure: Box<LayoutFailure>,
}

// Written by hand, because a derived source would be the box and not what is in it.
impl Error for LayoutError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.failure)
    }
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "could not {} OCI layout {}",
            self.deed,
            self.path.display()
        )
    }
}

impl LayoutError {
    pub(super) fn new(path: &Path, deed: &'static str, failure: LayoutFailure) -> Self {
        Self {
            path: path.to_owned(),
            deed,
            failure: Box::new(failure),
        }
    }

    /// The directory or the archive file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Why it failed.
    pub fn failure(&self) -> &LayoutFailure {
        &self.failure
    }
}

/// Why a layout could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutFailure {
    /// There is no `oci-layout` of a version we know.
    #[error("it is no OCI layout: it has no oci-layout file of version 1")]
    NotALayout,
    /// A directory that should become a layout holds other files.
    #[error("the directory holds other files; name an empty or a new one")]
    NotEmpty,
    /// A tar in gzip, zstd or the like.
    #[error("the archive is compressed, so parts of it cannot be read; decompress it first")]
    Compressed,
    /// The archive is no tar, or a broken one.
    #[error("the archive is no well-formed tar")]
    Tar(#[source] std::io::Error),
    /// The archive was opened for reading.
    #[error("an archive that exists is only read; write a new one")]
    ReadOnly,
    /// `index.json` is not what it should be.
    #[error("its index.json is not well formed")]
    Index(#[source] serde_json::Error),
    /// No image has that name.
    #[error("it has no image named {wanted:?}; it has {offered}")]
    NoSuchImage {
        /// The name asked for.
        wanted: String,
        /// The names that are there, for people.
        offered: String,
    },
    /// A name, or no name, means more than one image.
    #[error("which image is meant? It has {offered}; name one by tag or digest")]
    SeveralImages {
        /// The names that are there, for people.
        offered: String,
    },
    /// A blob is missing.
    #[error("blob {0} is not there")]
    NoSuchBlob(Digest),
    /// A blob's bytes are not what its name promises.
    #[error("the bytes have digest {got}, not {wanted}: they were damaged or exchanged")]
    WrongDigest {
        /// What they should have.
        wanted: Digest,
        /// What they have.
        got: Digest,
    },
    /// A blob has another length than was said.
    #[error("the blob has {got} bytes, not {wanted}")]
    WrongLength {
        /// Bytes said.
        wanted: u64,
        /// Bytes that came.
        got: u64,
    },
    /// A document is longer than documents are.
    #[error("it is longer than {limit} bytes, the most that belongs here")]
    TooLong {
        /// The most that was acceptable.
        limit: u64,
    },
    /// The blob ends before the range does.
    #[error("{range} lie beyond the end of the blob, which has {len} bytes")]
    BeyondEnd {
        /// What was asked for.
        range: ByteRange,
        /// The blob's length in bytes.
        len: u64,
    },
    /// The bytes to write could not be read.
    #[error("could not read the bytes to write")]
    ReadSource(#[source] std::io::Error),
    /// The disk failed.
    #[error("a file could not be read or written")]
    Io(#[source] std::io::Error),
}
