//! A reader that does not end well unless its bytes had the right digest.

use std::fmt;
use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tranship_format::{Digest, DigestWriter};

use super::LayoutFailure;
use crate::blob::AnyReader;

/// Reads a blob and, at its end, fails if the bytes were not the ones that the digest names.
///
/// The bytes are only known to be right when the reader has ended: keep nothing of them that outlives a failure.
pub struct CheckedReader {
    inner: AnyReader,
    /// Taken when the end was reached.
    hasher: Option<DigestWriter<io::Sink>>,
    digest: Digest,
}

impl CheckedReader {
    pub(super) fn new(inner: AnyReader, digest: Digest) -> Self {
        Self {
            inner,
            hasher: Some(DigestWriter::new(io::sink())),
            digest,
        }
    }
}

impl fmt::Debug for CheckedReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckedReader")
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for CheckedReader {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let had_room = buf.remaining() > 0;
        ready!(Pin::new(&mut this.inner).poll_read(context, buf))?;
        let read = buf.filled().get(before..).unwrap_or_default();
        if let Some(hasher) = &mut this.hasher {
            hasher.write_all(read)?;
        }
        if read.is_empty()
            && had_room
            && let Some(hasher) = this.hasher.take()
        {
            let (_, got, _) = hasher.finish();
            if got != this.digest {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    LayoutFailure::WrongDigest {
                        wanted: this.digest,
                        got,
                    },
                )));
            }
        }
        Poll::Ready(Ok(()))
    }
}
