//! Proofs of layers without a chunk table: the seed reads the blob whole, once for all who ask, and has it from then on.
//!
//! Whoever asks may have the blob: that was judged before. The seed reads with credentials of its own, as all that it reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tranship_format::wire::{ErrorCode, ImageSource, ProofState, TrackerReply};
use tranship_format::{Digest, LayerAnnotations};
use tranship_source::manifest::Descriptor;
use tranship_source::{ManifestSelector, WholeBlob};

use super::{Seed, SeedError};
use crate::proofs::{Asked, Known, Proofs};
use crate::tables::TableError;

/// A proof that is being made is asked for again after so long.
const RETRY_MS: u32 = 200;

impl Seed {
    /// The answer to a node that asks for a proof and may have the blob. Who asks first makes the seed read it.
    pub(crate) async fn prove(
        self: &Arc<Self>,
        image: ImageSource,
        blob: Digest,
        len: u64,
    ) -> TrackerReply {
        let is_too_long = len > Proofs::max_blob_len(self.store.options().quota_len);
        if image.registry.is_empty() || is_too_long || self.repo_of(&image).is_err() {
            tracing::debug!(%blob, len, "the seed may not read a blob for its proof, or it is too long");
            return unproven();
        }
        // What the operator has not ordered is not read where that is how he wants it.
        let may_begin = self.opens_all || self.job(&image.manifest).is_some();
        let asked = Asked {
            registry: image.registry.clone(),
            manifest: image.manifest,
            blob,
            len,
        };
        let (proofs, about) = (Arc::clone(&self.proofs), asked.clone());
        let known = tokio::task::spawn_blocking(move || proofs.ask(&about, may_begin)).await;
        let done_len = match known {
            Ok(Known::Ready(proof)) => return TrackerReply::Proof(ProofState::Ready(proof)),
            Ok(Known::Making(done_len)) => done_len,
            Ok(Known::Begin(progress)) => {
                let seed = Arc::clone(self);
                self.tasks.spawn(async move {
                    // Boxed: it is large, and most tasks of the seed are not.
                    let making = Box::pin(seed.make_proof(&image, (blob, len), &progress));
                    let made = seed.stop.run_until_cancelled(making).await;
                    seed.proofs.ended(&asked, matches!(made, Some(Ok(()))));
                    tell_of_proof(&image, &blob, made);
                });
                0
            }
            Ok(Known::Failed) | Err(_) => return unproven(),
        };
        TrackerReply::Proof(ProofState::Making {
            done_len,
            retry_ms: RETRY_MS,
        })
    }

    /// Reads the blob whole, proves it, and has the seed give its chunks.
    async fn make_proof(
        &self,
        image: &ImageSource,
        (blob, len): (Digest, u64),
        progress: &AtomicU64,
    ) -> Result<(), SeedError> {
        let repo = self.repo_of(image)?;
        let _turn = self.proofs.turns.acquire().await;
        let which = ManifestSelector::Digest(image.manifest);
        let manifest = self.client.manifest(&repo, &which).await;
        let manifest = manifest
            .map_err(|error| SeedError::Tables(TableError::Registry(error)))?
            .image()
            .map_err(|error| SeedError::Tables(TableError::Manifest(error)))?;
        if !manifest
            .device_layers()
            .iter()
            .any(|layer| layer.digest == blob && layer.size == len && !has_table(layer))
        {
            return Err(SeedError::NoSuchLayer);
        }
        let came = |came_len| progress.store(came_len, Relaxed);
        let reading = WholeBlob::read(&self.client, &repo, &blob, len, &self.scratch, came);
        let whole = reading.await.map_err(SeedError::Whole)?;
        let (store, proofs) = (self.store.clone(), Arc::clone(&self.proofs));
        let registry = image.registry.clone();
        let keeping = tokio::task::spawn_blocking(move || {
            let in_store = store
                .blob(blob, len, whole.table().clone())
                .map_err(SeedError::Store)
                .and_then(|kept| whole.keep(&kept).map_err(SeedError::Whole));
            // The proof stands whether the seed has room for the chunks or not. It comes after them: with it another layer's
            // making may open this blob, and tell what is here of it then.
            proofs
                .keep(&registry, blob, whole.table())
                .map_err(SeedError::Keep)?;
            in_store
        });
        keeping.await.map_err(|_| SeedError::Stopped)??;
        // An image that was opened before had to do without this blob.
        self.join_image(image).await?;
        Ok(())
    }
}

fn has_table(layer: &Descriptor) -> bool {
    let annotations = LayerAnnotations::from_map(&layer.annotations);
    annotations.is_ok_and(|found| found.is_some_and(|found| found.chunks.is_some()))
}

fn tell_of_proof(image: &ImageSource, blob: &Digest, made: Option<Result<(), SeedError>>) {
    match made {
        Some(Ok(())) => tracing::info!(%blob, "proved a blob that has no chunk table"),
        Some(Err(error)) => tracing::warn!(
            registry = image.registry,
            repository = image.repository,
            %blob,
            error = &error as &dyn std::error::Error,
            "a blob that has no chunk table is not proven"
        ),
        None => {}
    }
}

/// The one answer to whoever gets no proof, whatever the reason: a blob that is not there, one that cannot be proven, and
/// one that the sender may not have look alike.
pub(crate) fn unproven() -> TrackerReply {
    TrackerReply::Error {
        code: ErrorCode::UnknownBlob,
        text: "no proof of such a blob".to_owned(),
    }
}
