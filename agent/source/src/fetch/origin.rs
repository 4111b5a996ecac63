//! Where a blob can be read when nobody in the swarm has it.
//!
//! A registry, usually; an image layout on this machine for images that were
//! never pushed; a script in tests. What comes is unverified and comes in pieces
//! of any length, so that the first chunk of a long read need not wait for the last.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, TryFutureExt};
use futures::stream::{BoxStream, TryStreamExt};
use thiserror::Error;
use tranship_format::wire::PullProof;
use tranship_format::{ByteRange, Digest};

use crate::counters::Source;
use crate::reference::RepoRef;
use crate::registry::{RegistryClient, RegistryError, RegistryFailure};
use crate::verdict::Verdict;

/// The bytes of one read in order, as they come in. An error ends it.
pub type BlobPieces = BoxStream<'static, Result<Bytes, OriginError>>;

/// Reads ranges of blobs.
pub trait BlobOrigin: fmt::Debug + Send + Sync {
    /// Under which name its bytes are counted.
    fn source(&self) -> Source;

    /// Starts to read `range` of a blob's stored bytes. The read ends when the
    /// stream is dropped.
    fn read(&self, blob: Digest, range: ByteRange) -> BlobPieces;

    /// Starts to read all of a blob's stored bytes: what is left when
    /// [`ranges_ignored`](OriginError::ranges_ignored) ended a read before its first byte.
    fn read_whole(&self, blob: Digest) -> BlobPieces;

    /// A proof that we may read there, if one is at hand that the tracker can be shown.
    fn pull_proof_at_hand(&self) -> PullProof {
        PullProof::None
    }

    /// The same for the image `manifest`, got from the origin if none is at hand.
    fn pull_proof(&self, _manifest: Digest) -> BoxFuture<'static, PullProof> {
        Box::pin(std::future::ready(PullProof::None))
    }

    /// What came of a blob was wrong: it should come from elsewhere the next time, if there is an elsewhere.
    fn refuse(&self, _blob: &Digest) {}
}

/// Why an origin does not go on.
#[derive(Debug, Error)]
#[error("read the blob at its origin")]
pub struct OriginError {
    /// How long the origin asks to be left alone, if it does.
    pub retry_after: Option<Duration>,
    /// Whether asking again is pointless: the blob is not there, or not for us.
    pub permanent: bool,
    /// Whether the origin answers a range with the whole blob.
    pub ranges_ignored: bool,
    /// What went wrong.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// A repository in a registry.
#[derive(Clone, Debug)]
pub struct RegistryOrigin {
    client: RegistryClient,
    repo: RepoRef,
}

impl RegistryOrigin {
    /// Reads blobs of `repo` with the client's credentials.
    pub fn new(client: RegistryClient, repo: RepoRef) -> Self {
        Self { client, repo }
    }
}

impl BlobOrigin for RegistryOrigin {
    fn source(&self) -> Source {
        Source::Registry
    }

    fn read(&self, blob: Digest, range: ByteRange) -> BlobPieces {
        let pieces = self.client.blob_range_stream(&self.repo, blob, range);
        Box::pin(pieces.map_err(OriginError::from))
    }

    fn read_whole(&self, blob: Digest) -> BlobPieces {
        let (client, repo) = (self.client.clone(), self.repo.clone());
        let opening = async move {
            let stream = client.blob(&repo, &blob).await?;
            Ok::<_, RegistryError>(stream.into_stream())
        };
        Box::pin(opening.try_flatten_stream().map_err(OriginError::from))
    }

    fn pull_proof_at_hand(&self) -> PullProof {
        self.client.pull_proof_at_hand(&self.repo)
    }

    fn pull_proof(&self, manifest: Digest) -> BoxFuture<'static, PullProof> {
        let (client, repo) = (self.client.clone(), self.repo.clone());
        Box::pin(async move { client.pull_proof(&repo, manifest).await })
    }

    fn refuse(&self, blob: &Digest) {
        self.client.refuse(blob);
    }
}

impl From<RegistryError> for OriginError {
    fn from(error: RegistryError) -> Self {
        let (retry_after, permanent) = match error.verdict() {
            // Where the registry does not ask for a pause, the pace is the swarm's.
            Verdict::TryAgain { .. } => (error.failure().asked_pause(), false),
            // There is no other registry to go to.
            Verdict::TryElsewhere | Verdict::GiveUp => (None, true),
            Verdict::Ban => (None, false),
        };
        Self {
            retry_after,
            permanent,
            ranges_ignored: matches!(error.failure(), RegistryFailure::RangeIgnored),
            source: Box::new(error),
        }
    }
}
