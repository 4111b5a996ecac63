//! A whole blob as a stream that is checked, and that goes on where it broke.

use std::io::{self, Write};

use bytes::Bytes;
use futures::stream::{Stream, TryStreamExt};
use reqwest::Method;
use reqwest::header::RANGE;
use tranship_format::{ByteRange, Digest, DigestWriter};

use super::auth::{Access, Scope};
use super::endpoint::Endpoint;
use super::error::{RegistryError, RegistryFailure, Request};
use super::exchange::{Ask, exchange};
use super::hosts::Need;
use super::http::Response;
use super::retry::Retry;
use super::{RegistryClient, answer, range};

/// A blob on its way from a registry.
///
/// The bytes are only known to be right when the stream has ended without an error: keep nothing of
/// them that outlives a failure.
#[derive(Debug)]
pub struct BlobStream {
    client: RegistryClient,
    request: Request,
    digest: Digest,
    hasher: Option<DigestWriter<io::Sink>>,
    response: Option<Response>,
    /// Bytes given out.
    offset: u64,
    /// Bytes still to be thrown away, after a registry began from the start again.
    skip: u64,
    len: Option<u64>,
    retry: Retry,
}

impl BlobStream {
    /// Opens the blob; the first bytes are on their way when this returns.
    pub(super) async fn open(
        client: RegistryClient,
        request: Request,
        digest: Digest,
    ) -> Result<Self, RegistryError> {
        let retry = client.inner.retry();
        let mut stream = Self {
            client,
            request,
            digest,
            hasher: Some(DigestWriter::new(io::sink())),
            response: None,
            offset: 0,
            skip: 0,
            len: None,
            retry,
        };
        while stream.response.is_none() {
            if let Err(failure) = stream.connect().await {
                stream.rest(failure).await?;
            }
        }
        Ok(stream)
    }

    /// The blob's length in bytes, if the registry told it.
    pub fn told_len(&self) -> Option<u64> {
        self.len
    }

    /// The next bytes; `None` after the last, and then the digest was right.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            match self.step().await {
                Ok(Some(bytes)) if bytes.is_empty() => {}
                Ok(bytes) => return Ok(bytes),
                Err(failure) => {
                    if self.response.take().is_some() {
                        let mirrors = &self.client.inner.mirrors;
                        mirrors.disappointed(&self.digest, &failure);
                    }
                    self.rest(failure).await?;
                }
            }
        }
    }

    /// All bytes at once, if they are at most `limit`.
    pub async fn collect(mut self, limit: u64) -> Result<Bytes, RegistryError> {
        let mut all = bytes::BytesMut::new();
        while let Some(bytes) = self.next().await? {
            if (all.len() as u64).saturating_add(bytes.len() as u64) > limit {
                return Err(RegistryError::new(
                    &self.request,
                    RegistryFailure::LongBody { limit },
                ));
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all.freeze())
    }

    /// The same as a [`Stream`].
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, RegistryError>> + Send {
        futures::stream::try_unfold(self, async |mut stream| {
            Ok(stream.next().await?.map(|bytes| (bytes, stream)))
        })
    }

    /// The same as a reader, whose errors hold the [`RegistryError`].
    pub fn into_reader(self) -> impl tokio::io::AsyncRead + Send + Unpin {
        tokio_util::io::StreamReader::new(Box::pin(self.into_stream().map_err(io::Error::other)))
    }

    async fn rest(&mut self, failure: RegistryFailure) -> Result<(), RegistryError> {
        let paused = self.retry.pause(failure).await;
        paused.map_err(|failure| RegistryError::new(&self.request, failure))
    }

    async fn step(&mut self) -> Result<Option<Bytes>, RegistryFailure> {
        if self.hasher.is_none() {
            return Ok(None);
        }
        let Some(response) = &mut self.response else {
            if self.len == Some(self.offset) {
                // The connection broke after the last byte.
                return self.end().map(|()| None);
            }
            self.connect().await?;
            return Ok(Some(Bytes::new()));
        };
        let Some(mut bytes) = response.next().await? else {
            return self.end().map(|()| None);
        };
        let skipped = usize::try_from(self.skip).map_or(bytes.len(), |skip| skip.min(bytes.len()));
        let _ = bytes.split_to(skipped);
        self.skip = self.skip.saturating_sub(skipped as u64);
        let offset = self.offset.saturating_add(bytes.len() as u64);
        if let Some(limit) = self.len.filter(|len| offset > *len) {
            return Err(RegistryFailure::LongBody { limit });
        }
        if let Some(hasher) = &mut self.hasher {
            hasher
                .write_all(&bytes)
                .map_err(RegistryFailure::ReadSource)?;
        }
        if !bytes.is_empty() {
            self.offset = offset;
            self.retry.reset();
        }
        Ok(Some(bytes))
    }

    /// The body is over: was it all, and was it right?
    fn end(&mut self) -> Result<(), RegistryFailure> {
        if let Some(wanted) = self.len.filter(|len| self.offset < *len) {
            return Err(RegistryFailure::ShortBody {
                got: self.offset,
                wanted,
            });
        }
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

    /// Asks for the bytes from `offset` on. Mirrors come first.
    async fn connect(&mut self) -> Result<(), RegistryFailure> {
        let (client, repo) = (self.client.clone(), self.request.repo.clone());
        let (inner, digest) = (&client.inner, self.digest);
        let asked = inner.asked(&repo, Need::Pull, Some(&digest)).await?;
        let mut failed = None;
        for mirror in &asked.mirrors {
            let opening = Box::pin(self.connect_to(mirror));
            match inner.patiently(mirror, opening).await {
                Ok(()) => {
                    inner.mirrors.answers(&digest, Some(mirror));
                    return Ok(());
                }
                Err(failure) => failed = Some(inner.mirrors.failed(mirror, Some(&digest), failure)),
            }
        }
        inner.mirrors.answers(&digest, None);
        self.connect_to(&asked.registry(failed)?).await
    }

    async fn connect_to(&mut self, endpoint: &Endpoint) -> Result<(), RegistryFailure> {
        let inner = &self.client.inner;
        let scope = Scope::new(endpoint.repo(), Access::Pull);
        let mut ask = Ask::new(Method::GET, endpoint.blob_url(&self.digest), &scope);
        let rest = self.len.map(|len| ByteRange::new(self.offset, len));
        let asked = rest.filter(|rest| rest.start > 0 && !rest.is_empty());
        if let Some(range) = asked {
            ask.headers.insert(RANGE, range::header(range)?);
        }
        let response = exchange(endpoint, &inner.auth, ask).await?;
        match (response.status().as_u16(), asked) {
            (206, Some(range)) => {
                range::check_content_range(&response, range)?;
                self.skip = 0;
            }
            (200, _) => {
                self.skip = self.offset;
                self.len = self.len.or_else(|| response.told_len());
            }
            _ => return Err(answer::failure(response).await),
        }
        self.response = Some(response);
        Ok(())
    }
}
