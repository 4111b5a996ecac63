//! The repository that an image is in: what is asked of it before the image's chunks can come from anyone.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tranship_format::{ByteRange, Digest};
use tranship_source::fetch::{BlobOrigin, RegistryOrigin};
use tranship_source::manifest::Manifest;
use tranship_source::registry::{RegistryClient, RegistryError};
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

    /// Bytes of a blob, not verified.
    pub(crate) async fn range(
        &self,
        blob: &Digest,
        range: ByteRange,
    ) -> Result<Bytes, RegistryError> {
        self.client.blob_range(&self.repo, blob, range).await
    }

    /// A whole blob into `file`, verified when this returns.
    pub(crate) async fn whole(&self, blob: &Digest, file: &mut tokio::fs::File) -> io::Result<()> {
        let stream = self
            .client
            .blob(&self.repo, blob)
            .await
            .map_err(io::Error::other)?;
        let mut reader = Box::pin(stream.into_reader());
        tokio::io::copy(&mut reader, file).await?;
        Ok(())
    }

    /// The same for the fetcher of chunks.
    pub(crate) fn of_chunks(&self) -> Arc<dyn BlobOrigin> {
        Arc::new(RegistryOrigin::new(self.client.clone(), self.repo.clone()))
    }
}
