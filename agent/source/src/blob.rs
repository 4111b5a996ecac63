//! The bytes of a blob that is to be pushed: from memory, from a file, or from somewhere once.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::io::AsyncRead;

/// A source of bytes, as it is handed around.
pub(crate) type AnyReader = Box<dyn AsyncRead + Send + Unpin>;

/// The bytes of a blob that is to be pushed.
///
/// Bytes and files can be read again, so a push of them survives a broken connection; a reader cannot.
pub struct BlobBody(Body);

enum Body {
    Bytes(Bytes),
    File(PathBuf),
    HashedFile(PathBuf),
    Reader(Option<AnyReader>),
}

impl BlobBody {
    /// Bytes in memory.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self(Body::Bytes(bytes.into()))
    }

    /// A file, from its start.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Body::File(path.into()))
    }

    /// A file, from its start, of which the caller has just taken the digest and which nobody will change any more: best one
    /// without a name. A layout does not hash it a second time, and may make it its own.
    pub fn hashed_file(path: impl Into<PathBuf>) -> Self {
        Self(Body::HashedFile(path.into()))
    }

    /// The file, if its digest is known to be right.
    pub(crate) fn hashed(&self) -> Option<&Path> {
        match &self.0 {
            Body::HashedFile(path) => Some(path),
            _ => None,
        }
    }

    /// Bytes that can be read once.
    pub fn reader(reader: impl AsyncRead + Send + Unpin + 'static) -> Self {
        Self(Body::Reader(Some(Box::new(reader))))
    }

    /// Whether [`open`](Self::open) would succeed again after it did.
    pub(crate) fn is_repeatable(&self) -> bool {
        !matches!(self.0, Body::Reader(_))
    }

    /// The bytes from the start.
    pub(crate) async fn open(&mut self) -> io::Result<AnyReader> {
        match &mut self.0 {
            Body::Bytes(bytes) => Ok(Box::new(io::Cursor::new(bytes.clone()))),
            Body::File(path) | Body::HashedFile(path) => {
                Ok(Box::new(tokio::fs::File::open(path).await?))
            }
            Body::Reader(reader) => reader
                .take()
                .ok_or_else(|| io::Error::other("its bytes could be read only once")),
        }
    }
}

impl fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Body::Bytes(bytes) => write!(f, "BlobBody({} bytes)", bytes.len()),
            Body::File(path) | Body::HashedFile(path) => write!(f, "BlobBody({})", path.display()),
            Body::Reader(_) => f.write_str("BlobBody(reader)"),
        }
    }
}
