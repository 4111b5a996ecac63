//! The repository that an image is in: what is asked of it before the image's chunks can come from anyone.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use tranship_format::{ByteRange, Digest};
use tranship_source::fetch::{BlobOrigin, RegistryOrigin};
use tranship_source::manifest::Manifest;
use tranship_source::registry::{RegistryClient, RegistryError, RegistryFailure};
use tranship_source::{ManifestSelector, RepoRef};

/// A repository of a registry.
#[derive(Clone, Debug)]
pub(crate) struct ImageOrigin {
    pub(crate) client: RegistryClient,
    pub(crate) repo: RepoRef,
}

impl ImageOrigin {
    pub(crate) async fn manifest(
        &self,
        which: &ManifestSelector,
    ) -> Result<Manifest, RegistryError> {
        self.client.manifest(&self.repo, which).await
    }

    /// Bytes of a blob, not verified. From a registry that ignores ranges the blob is read up to them.
    pub(crate) async fn range(
        &self,
        blob: &Digest,
        range: ByteRange,
    ) -> Result<Bytes, RegistryError> {
        let asked = self.client.blob_range(&self.repo, blob, range).await;
        match asked {
            Err(error) if matches!(error.failure(), RegistryFailure::RangeIgnored) => {
                self.up_to(blob, range).await
            }
            asked => asked,
        }
    }

    /// The same, all bytes before the range thrown away. It is shorter than asked if the blob is.
    async fn up_to(&self, blob: &Digest, range: ByteRange) -> Result<Bytes, RegistryError> {
        let mut stream = self.client.blob(&self.repo, blob).await?;
        let (mut skip, mut left) = (range.start, range.len());
        let mut wanted = BytesMut::new();
        while left > 0
            && let Some(mut piece) = stream.next().await?
        {
            let skipped = skip.min(piece.len() as u64);
            skip -= skipped;
            piece.advance(usize::try_from(skipped).unwrap_or(usize::MAX));
            piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left = left.saturating_sub(piece.len() as u64);
            wanted.extend_from_slice(&piece);
        }
        Ok(wanted.freeze())
    }

    /// The repository for the fetcher of chunks.
    pub(crate) fn of_chunks(&self) -> Arc<dyn BlobOrigin> {
        Arc::new(RegistryOrigin::new(self.client.clone(), self.repo.clone()))
    }
}
