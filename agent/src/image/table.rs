//! A layer's blob in the store, under a chunk table that the manifest vouches for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tranship_format::annotation::{ChunkTableRef, LayerAnnotations};
use tranship_format::{ChunkTable, Digest};
use tranship_source::WholeBlob;
use tranship_store::{BlobStore, StoreError};

use super::{Images, OpenImageError, Resolved, Voucher, ends};
use crate::origin::ImageOrigin;

/// The swarm lets go of an image some time after it was told to; so often and so long is that waited for.
const CLOSING_TRIES: u32 = 20;
const CLOSING_PAUSE: Duration = Duration::from_millis(50);

impl Images {
    /// Opens the blob of one layer: from what is here, else with its table read from the registry.
    pub(super) async fn blob(
        &self,
        image: &Resolved,
        layer: &LayerAnnotations,
        proofs: &BTreeMap<Digest, ChunkTable>,
    ) -> Result<BlobStore, OpenImageError> {
        match (layer.chunks, proofs.get(&layer.blob_digest)) {
            (Some(chunks), _) => self.blob_with_table(image, layer, chunks).await,
            (None, Some(proof)) => self.keep_blob(image, layer, proof.clone()).await,
            (None, None) => self.blob_without_table(image, layer).await,
        }
    }

    async fn blob_with_table(
        &self,
        image: &Resolved,
        layer: &LayerAnnotations,
        chunks: ChunkTableRef,
    ) -> Result<BlobStore, OpenImageError> {
        let blob = layer.blob_digest;
        if let Some(known) = self.store.known(&blob)
            && known.len() == layer.blob_size
            && Digest::of(&known.table().encode()) == chunks.digest
        {
            return Ok(known);
        }
        // With a swarm around, what others have is not asked of the registry a second time.
        let table_only = !self.net.status().trackers.is_empty();
        let read = || Box::pin(ends::read(&image.origin, blob, chunks, table_only));
        let mut ends = read().await;
        if matches!(ends, Err(OpenImageError::WrongTable { .. })) {
            // A mirror may have lied; the registry or another one is asked then.
            image.origin.client.refuse(&blob);
            ends = read().await;
        }
        let ends = ends?;
        let kept = self.keep_blob(image, layer, ends.table.clone()).await?;
        let (filling, counters) = (kept.clone(), Arc::clone(self.net.counters()));
        tokio::task::spawn_blocking(move || ends.keep(&filling, &counters))
            .await
            .map_err(|_| OpenImageError::Stopping)?;
        Ok(kept)
    }

    /// Reads the whole blob, which must have its digest, cuts it, and puts all of it into the store.
    async fn blob_without_table(
        &self,
        image: &Resolved,
        layer: &LayerAnnotations,
    ) -> Result<BlobStore, OpenImageError> {
        let blob = layer.blob_digest;
        if let Some(known) = self.known_whole(image, layer) {
            return Ok(known);
        }
        let unread = |source| OpenImageError::ReadWhole { blob, source };
        let ImageOrigin { client, repo } = &image.origin;
        let reading = WholeBlob::read(client, repo, &blob, layer.blob_size, &self.scratch, |_| {});
        let whole = reading.await.map_err(unread)?;
        let kept = self.keep_blob(image, layer, whole.table().clone()).await?;
        let filling = kept.clone();
        tokio::task::spawn_blocking(move || whole.keep(&filling))
            .await
            .map_err(|_| OpenImageError::Stopping)?
            .map_err(unread)?;
        self.vouchers.note(&blob, kept.table(), Voucher::Digest);
        Ok(kept)
    }

    async fn keep_blob(
        &self,
        image: &Resolved,
        layer: &LayerAnnotations,
        table: ChunkTable,
    ) -> Result<BlobStore, OpenImageError> {
        let (digest, len) = (layer.blob_digest, layer.blob_size);
        let mut kept = self.try_keep_blob(digest, len, table.clone()).await?;
        if matches!(kept, Err(StoreError::OtherTable { .. })) {
            // Perhaps only images that no device needs any more hold the blob under the other table.
            self.close_idle().await;
            for _ in 0..CLOSING_TRIES {
                kept = self.try_keep_blob(digest, len, table.clone()).await?;
                if !matches!(kept, Err(StoreError::OtherTable { .. })) {
                    break;
                }
                tokio::time::sleep(CLOSING_PAUSE).await;
            }
        }
        kept.map_err(|source| OpenImageError::Store {
            reference: image.reference.clone(),
            source,
        })
    }
}

impl Images {
    async fn try_keep_blob(
        &self,
        digest: Digest,
        len: u64,
        table: ChunkTable,
    ) -> Result<Result<BlobStore, StoreError>, OpenImageError> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || store.blob(digest, len, table))
            .await
            .map_err(|_| OpenImageError::Stopping)
    }
}
