//! The body of a blob upload: streamed in small pieces, hashed on the way, and never completed if it is wrong.
//!
//! A registry checks digests too, but one that does not would keep wrong bytes under a right name. So the last
//! piece only leaves when the digest of all pieces is the promised one.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::stream::{Stream, try_unfold};
use tokio::io::AsyncReadExt;
use tranship_format::{Digest, DigestWriter};

use super::error::RegistryFailure;
use super::http::Progress;
use crate::blob::{AnyReader, BlobBody};

/// Bytes read and sent at a time: large enough for few calls, small enough to have many uploads at once.
const PIECE_LEN: usize = 128 << 10;

/// A blob that is being pushed, perhaps several times until it arrives.
#[derive(Debug)]
pub(super) struct Upload {
    body: BlobBody,
    digest: Digest,
    len: u64,
    /// What went wrong on our side while the body was sent: the HTTP client would only say that the body failed.
    fault: Arc<Mutex<Option<RegistryFailure>>>,
}

impl Upload {
    pub(super) fn new(body: BlobBody, digest: Digest, len: u64) -> Self {
        Self {
            body,
            digest,
            len,
            fault: Arc::default(),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn is_repeatable(&self) -> bool {
        self.body.is_repeatable()
    }

    /// What went wrong on our side, if that is why the request failed.
    pub(super) fn take_fault(&self) -> Option<RegistryFailure> {
        lock(&self.fault).take()
    }

    /// The body from its start.
    pub(super) async fn body(
        &mut self,
        progress: &Progress,
    ) -> Result<reqwest::Body, RegistryFailure> {
        let reader = self
            .body
            .open()
            .await
            .map_err(RegistryFailure::ReadSource)?;
        let mut pieces = Pieces {
            reader,
            hasher: Some(DigestWriter::new(io::sink())),
            digest: self.digest,
            left: self.len,
        };
        if self.len == 0 {
            // A body without bytes goes out without being asked for any.
            pieces.check()?;
        }
        let fault = Arc::clone(&self.fault);
        Ok(reqwest::Body::wrap_stream(
            pieces.stream(fault, progress.clone()),
        ))
    }
}

struct Pieces {
    reader: AnyReader,
    /// Taken when the last piece was checked.
    hasher: Option<DigestWriter<io::Sink>>,
    digest: Digest,
    left: u64,
}

impl Pieces {
    fn stream(
        self,
        fault: Arc<Mutex<Option<RegistryFailure>>>,
        progress: Progress,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send {
        try_unfold(
            (self, fault, progress),
            async |(mut pieces, fault, progress)| match pieces.next().await {
                Ok(None) => Ok(None),
                Ok(Some(bytes)) => {
                    progress.add(bytes.len());
                    Ok(Some((bytes, (pieces, fault, progress))))
                }
                Err(failure) => {
                    *lock(&fault) = Some(failure);
                    Err(io::Error::other("the body of the upload failed"))
                }
            },
        )
    }

    async fn next(&mut self) -> Result<Option<Bytes>, RegistryFailure> {
        if self.hasher.is_none() {
            return Ok(None);
        }
        let want = usize::try_from(self.left).map_or(PIECE_LEN, |left| left.min(PIECE_LEN));
        let mut piece = BytesMut::with_capacity(want);
        if want > 0 {
            let mut limited = (&mut self.reader).take(want as u64);
            let got = limited
                .read_buf(&mut piece)
                .await
                .map_err(RegistryFailure::ReadSource)?;
            if got == 0 {
                let left = self.left;
                let short = format!("they end {left} bytes before the length that was given");
                let error = io::Error::new(io::ErrorKind::UnexpectedEof, short);
                return Err(RegistryFailure::ReadSource(error));
            }
            self.left = self.left.saturating_sub(got as u64);
        }
        if let Some(hasher) = &mut self.hasher {
            hasher
                .write_all(&piece)
                .map_err(RegistryFailure::ReadSource)?;
        }
        if self.left == 0 {
            self.check()?;
        }
        Ok((!piece.is_empty()).then(|| piece.freeze()))
    }

    fn check(&mut self) -> Result<(), RegistryFailure> {
        let Some(hasher) = self.hasher.take() else {
            return Ok(());
        };
        let (_, got, _) = hasher.finish();
        if got == self.digest {
            Ok(())
        } else {
            Err(RegistryFailure::WrongDigest {
                wanted: self.digest,
                got,
            })
        }
    }
}

fn lock(
    fault: &Mutex<Option<RegistryFailure>>,
) -> std::sync::MutexGuard<'_, Option<RegistryFailure>> {
    fault.lock().unwrap_or_else(PoisonError::into_inner)
}
