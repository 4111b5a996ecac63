//! From known layers to a disk that can be read.

use std::io;
use std::sync::Arc;

use futures::future::{TryFutureExt, try_join_all};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tranship_format::annotation::LayerAnnotations;
use tranship_format::{Disk, Layer, OpenLayerError, ReadAt};
use tranship_source::net::OpenImage;
use tranship_store::BlobStore;

use super::{Image, Images, OpenImageError, Resolved, Voucher};
use crate::control::Unserved;
use crate::disk::ImageDisk;
use crate::lazy::{LazyBlob, LazyContext, Opening};
use crate::trace::FirstReads;
use crate::waits::Waits;
use crate::whole_check::WholeCheck;

/// Chunks that may be read ahead for one image at one time, over all its readers.
const AHEAD_AT_ONCE: usize = 32;

impl Images {
    /// Opens the image: its chunk tables, its part in the swarm, and its layers' indexes, layers side by side.
    /// `unserved` is what its reads do that nobody serves.
    pub(crate) async fn open(
        &self,
        resolved: &Resolved,
        unserved: Unserved,
    ) -> Result<Image, OpenImageError> {
        // Boxed: rarely needed, and larger than all the rest of an attach.
        let proofs = Box::pin(self.proofs(resolved)).await;
        let blobs = try_join_all(
            resolved
                .layers
                .iter()
                .map(|layer| self.blob(resolved, layer, &proofs)),
        )
        .await?;
        let part = OpenImage {
            manifest: resolved.manifest,
            registry: resolved.origin.repo.host().to_owned(),
            repository: resolved.origin.repo.path().to_owned(),
            blobs: blobs.clone(),
            origin: resolved.origin.of_chunks(),
        };
        self.net
            .open(part)
            .await
            .map_err(|_| OpenImageError::Stopping)?;
        if self.leave_idle(resolved.manifest) {
            self.net.close(resolved.manifest).await;
        }
        let context = LazyContext {
            fetcher: self.net.fetcher().clone(),
            runtime: self.runtime.clone(),
            waits: Waits::new(
                self.options.read_deadline,
                unserved,
                resolved.origin.repo.host(),
            ),
            read_ahead: self.options.read_ahead,
            ahead: Arc::new(Semaphore::new(AHEAD_AT_ONCE)),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        let layers: Vec<Arc<LazyBlob>> = blobs
            .into_iter()
            .zip(resolved.shown())
            .map(|(blob, layer)| {
                let check = self.whole_check(layer, &blob);
                Arc::new(LazyBlob::new(blob, check, context.clone()))
            })
            .collect();
        match self.merge(&layers).await {
            Ok(disk) => {
                self.pin(layers.iter().map(|layer| layer.blob().digest()));
                let counts = layers.iter().map(|layer| layer.blob().table().count());
                let first_reads = Arc::new(FirstReads::of(counts));
                let disk = ImageDisk::new(
                    disk,
                    layers.clone(),
                    self.runtime.clone(),
                    Arc::clone(&self.reads),
                    Arc::clone(&first_reads),
                );
                let image = Image {
                    manifest: resolved.manifest,
                    fs_name: resolved.fs_name().to_owned(),
                    disk: Arc::new(disk),
                    layers,
                    waits: context.waits,
                    first_reads,
                    stop: context.stop,
                    tasks: context.tasks,
                };
                // It may have become whole when no device read it.
                image.check_whole();
                Ok(image)
            }
            Err(source) => {
                context.stop.cancel();
                self.net.close(resolved.manifest).await;
                Err(OpenImageError::Layer {
                    reference: resolved.reference.clone(),
                    source,
                })
            }
        }
    }

    /// What a blob must still pass that is read by somebody's proof.
    fn whole_check(&self, layer: &LayerAnnotations, blob: &BlobStore) -> Option<WholeCheck> {
        if layer.chunks.is_some() {
            return None;
        }
        let voucher = self.vouchers.of(&blob.digest(), blob.table())?;
        (voucher != Voucher::Digest).then(|| {
            let (vouchers, reads) = (Arc::clone(&self.vouchers), Arc::clone(&self.reads));
            WholeCheck::new(blob.clone(), voucher, vouchers, reads)
        })
    }

    /// Opens the layers side by side and makes one device of them.
    async fn merge(&self, layers: &[Arc<LazyBlob>]) -> Result<Disk, OpenLayerError> {
        let openings = layers.iter().enumerate().map(|(position, layer)| {
            let layer = Arc::clone(layer);
            async move {
                layer
                    .gather_ends()
                    .await
                    .map_err(|error| OpenLayerError::Read {
                        what: "ends",
                        source: io::Error::other(error),
                    })?;
                opening(move || Layer::open(Opening::new(layer)).map(with_blob)).await
            }
            .map_err(move |source| OpenLayerError::Position {
                position,
                source: Box::new(source),
            })
        });
        let layers = try_join_all(openings).await?;
        let cache_len = self.options.block_cache_len;
        opening(move || Disk::of_layers(layers, cache_len)).await
    }
}

/// What is read from now on is read as devices do.
fn with_blob(layer: Layer<Opening>) -> Layer<Arc<dyn ReadAt>> {
    layer.map_blob(Opening::into_blob)
}

async fn opening<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OpenLayerError> + Send + 'static,
) -> Result<T, OpenLayerError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            Err(OpenLayerError::Read {
                what: "index",
                source: io::Error::other(error),
            })
        })
}
