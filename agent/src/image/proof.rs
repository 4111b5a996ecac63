//! Tables of layers that came without one, from proofs: those that lie beside the image, and those that the tracker lends.
//!
//! Only where the operator trusts their writers: nothing that the manifest's digest covers vouches for a proof. A lying one
//! makes wrong bytes right, so without that trust a blob is read whole and its own digest decides. With it, the digest
//! decides once all of the blob is here ([`crate::whole_check`]); what it said is kept, and so is whose word counted before.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::path::PathBuf;

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tranship_format::annotation::LayerAnnotations;
use tranship_format::wire::ImageSource;
use tranship_format::{ChunkTable, Digest};
use tranship_source::proof::find_proofs;
use tranship_store::BlobStore;

use super::{Images, Resolved};
use crate::records::Records;

/// Whose word a table counts on that no manifest names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Voucher {
    /// The blob's own digest: all of its bytes were seen under the table.
    Digest,
    /// Whoever may push to the image's repository.
    Registry,
    /// The tracker.
    Tracker,
    /// Nobody's: the blob under the table has another digest.
    Nobody,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct ProofRecord {
    /// Digest of the encoded table.
    table: Digest,
    voucher: Voucher,
}

/// What is remembered of proofs, by blob.
#[derive(Debug)]
pub(crate) struct Vouchers(Records<ProofRecord>);

impl Vouchers {
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        Records::open(dir).map(Self)
    }

    /// Whose word counts for this table; `None` if nothing is remembered of it.
    pub(crate) fn of(&self, blob: &Digest, table: &ChunkTable) -> Option<Voucher> {
        let record = self.0.load(&blob.hex())?;
        (record.table == Digest::of(&table.encode())).then_some(record.voucher)
    }

    /// Whether some table of the blob was found to lie.
    pub(crate) fn has_lie(&self, blob: &Digest) -> bool {
        let record = self.0.load(&blob.hex());
        record.is_some_and(|record| record.voucher == Voucher::Nobody)
    }

    pub(crate) fn note(&self, blob: &Digest, table: &ChunkTable, voucher: Voucher) {
        let table = Digest::of(&table.encode());
        if let Err(error) = self.0.save(&blob.hex(), &ProofRecord { table, voucher }) {
            tracing::warn!(%blob, %error, "what is known of a blob's proof could not be kept; it is found out again");
        }
    }
}

impl Images {
    /// The blob as the store has it, if it is under a table for all of it that counts for this image.
    pub(super) fn known_whole(
        &self,
        image: &Resolved,
        layer: &LayerAnnotations,
    ) -> Option<BlobStore> {
        let len = layer.blob_size;
        let known = self.store.known(&layer.blob_digest)?;
        if known.len() != len || known.table().covered_len() != len {
            return None;
        }
        let counts = match self.vouchers.of(&layer.blob_digest, known.table())? {
            Voucher::Digest => true,
            Voucher::Registry => self.options.trusted_proofs.covers(&image.origin.repo),
            Voucher::Tracker => self.options.trust_tracker,
            Voucher::Nobody => false,
        };
        counts.then_some(known)
    }

    /// The trusted proofs of the layers that have no table and are not known here. Without them, or when they cannot be
    /// had, the blobs are read whole: that takes longer, and proves more.
    pub(super) async fn proofs(&self, image: &Resolved) -> BTreeMap<Digest, ChunkTable> {
        let bare = |layer: &&LayerAnnotations| {
            layer.chunks.is_none()
                && self.known_whole(image, layer).is_none()
                && !self.vouchers.has_lie(&layer.blob_digest)
        };
        let mut blobs: BTreeMap<Digest, u64> = image
            .layers
            .iter()
            .filter(bare)
            .map(|layer| (layer.blob_digest, layer.blob_size))
            .collect();
        let mut found = BTreeMap::new();
        if !blobs.is_empty() && self.options.trusted_proofs.covers(&image.origin.repo) {
            found = self.proofs_beside(image, &blobs).await;
        }
        for (blob, table) in &found {
            self.vouchers.note(blob, table, Voucher::Registry);
            blobs.remove(blob);
        }
        if !blobs.is_empty() && self.options.trust_tracker {
            for (blob, table) in self.lent_proofs(image, &blobs).await {
                self.vouchers.note(&blob, &table, Voucher::Tracker);
                found.insert(blob, table);
            }
        }
        found
    }

    async fn proofs_beside(
        &self,
        image: &Resolved,
        blobs: &BTreeMap<Digest, u64>,
    ) -> BTreeMap<Digest, ChunkTable> {
        let origin = &image.origin;
        let found = find_proofs(&origin.client, &origin.repo, &image.manifest, blobs).await;
        found.unwrap_or_else(|error| {
            tracing::warn!(
                reference = image.reference,
                error = &error as &dyn Error,
                "the proofs beside an image are of no use"
            );
            BTreeMap::new()
        })
    }

    /// Layers side by side: the tracker reads those that it has to make at one time, too.
    async fn lent_proofs(
        &self,
        image: &Resolved,
        blobs: &BTreeMap<Digest, u64>,
    ) -> BTreeMap<Digest, ChunkTable> {
        let source = ImageSource {
            registry: image.origin.repo.host().to_owned(),
            repository: image.origin.repo.path().to_owned(),
            manifest: image.manifest,
        };
        let (source, origin) = (&source, image.origin.of_chunks());
        let origin = &*origin;
        let asking = blobs.iter().map(|(&blob, &len)| async move {
            match self.net.lent_proof(source, origin, blob, len).await {
                Ok(table) => Some((blob, table)),
                Err(error) => {
                    tracing::info!(%blob, error = &error as &dyn Error, "the tracker lends no proof of a layer; it is read whole");
                    None
                }
            }
        });
        join_all(asking).await.into_iter().flatten().collect()
    }
}
