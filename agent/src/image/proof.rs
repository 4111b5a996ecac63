//! Tables of layers that came without one, from proofs that lie beside the image.
//!
//! Only where the operator trusts them: nothing that the manifest's digest covers vouches for a proof. A lying one makes
//! wrong bytes right, so without that trust a blob is read whole and its own digest decides.

use std::collections::BTreeMap;

use tranship_format::annotation::LayerAnnotations;
use tranship_format::{ChunkTable, Digest};
use tranship_source::proof::find_proofs;

use super::{Images, Resolved};

impl Images {
    /// The trusted proofs of the layers that have no table and are not known here. Without them, or when they cannot be
    /// had, the blobs are read whole: that takes longer, and proves more.
    pub(super) async fn proofs(&self, image: &Resolved) -> BTreeMap<Digest, ChunkTable> {
        let bare =
            |layer: &&LayerAnnotations| layer.chunks.is_none() && self.known_whole(layer).is_none();
        let blobs: BTreeMap<Digest, u64> = image
            .layers
            .iter()
            .filter(bare)
            .map(|layer| (layer.blob_digest, layer.blob_size))
            .collect();
        let repo = &image.origin.repo;
        if blobs.is_empty() || !self.options.trusted_proofs.covers(repo) {
            return BTreeMap::new();
        }
        let found = find_proofs(&image.origin.client, repo, &image.manifest, &blobs).await;
        found.unwrap_or_else(|error| {
            tracing::warn!(
                reference = image.reference,
                error = &error as &dyn std::error::Error,
                "the proofs of an image are of no use; its layers are read whole"
            );
            BTreeMap::new()
        })
    }
}
