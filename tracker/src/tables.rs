//! The chunk tables of an image, read from its registry and checked against its manifest.
//!
//! The manifest digest vouches for the manifest, its annotations for each table,
//! each table for its chunks: so the seed trusts no more than a node does.

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;
use tranship_format::{ChunkTable, DecodeError, Digest, LayerAnnotations};
use tranship_source::manifest::ManifestError;
use tranship_source::proof::{ProofError, TrustedProofs, find_proofs};
use tranship_source::reference::{ManifestSelector, ParseReferenceError};
use tranship_source::{RegistryClient, RegistryError, RepoRef};

use crate::proofs::Proofs;

/// Longest table that is read, which is far more than a blob of 1 TiB needs.
const MAX_TABLE_LEN: u64 = 256 << 20;

/// A layer that can be fetched by chunks.
#[derive(Debug)]
pub(crate) struct LayerTable {
    pub(crate) digest: Digest,
    pub(crate) len: u64,
    pub(crate) table: ChunkTable,
}

/// Why an image's tables cannot be had.
#[derive(Debug, Error)]
pub(crate) enum TableError {
    #[error("understand the repository's name")]
    Reference(#[source] ParseReferenceError),
    #[error("read from the registry")]
    Registry(#[source] RegistryError),
    #[error("understand the manifest")]
    Manifest(#[source] ManifestError),
    #[error("understand the annotations of layer {layer}")]
    Annotations {
        layer: Digest,
        #[source]
        source: tranship_format::AnnotationError,
    },
    #[error("the chunk table of layer {layer} has {len} bytes, more than {MAX_TABLE_LEN}")]
    TooLong { layer: Digest, len: u64 },
    #[error("the chunk table of layer {layer} is not the one that the manifest names")]
    WrongDigest { layer: Digest },
    #[error("use the proofs of layers without a chunk table")]
    Proofs(#[source] ProofError),
    #[error("decode the chunk table of layer {layer}")]
    Decode {
        layer: Digest,
        #[source]
        source: DecodeError,
    },
}

/// The tables of all layers that have one in their blob, bottom first, and then of those that were proven here or have a
/// trusted proof beside the image.
pub(crate) async fn read(
    client: &RegistryClient,
    repo: &RepoRef,
    manifest: Digest,
    (trusted, ours): (&TrustedProofs, &Arc<Proofs>),
) -> Result<Vec<LayerTable>, TableError> {
    let which = ManifestSelector::Digest(manifest);
    let manifest_digest = manifest;
    let manifest = client.manifest(repo, &which).await;
    let image = manifest
        .map_err(TableError::Registry)?
        .image()
        .map_err(TableError::Manifest)?;
    let mut tables = Vec::new();
    let mut bare = BTreeMap::new();
    for descriptor in image.device_layers() {
        let layer = descriptor.digest;
        let annotations = LayerAnnotations::from_map(&descriptor.annotations)
            .map_err(|source| TableError::Annotations { layer, source })?;
        let Some(at) = annotations.and_then(|annotations| annotations.chunks) else {
            bare.insert(layer, descriptor.size);
            continue;
        };
        if at.len > MAX_TABLE_LEN {
            return Err(TableError::TooLong { layer, len: at.len });
        }
        let mut bytes = client.blob_range(repo, &layer, at.range()).await;
        if bytes
            .as_ref()
            .is_ok_and(|bytes| Digest::of(bytes) != at.digest)
        {
            // A mirror may have lied; the registry or another one is asked then.
            client.refuse(&layer);
            bytes = client.blob_range(repo, &layer, at.range()).await;
        }
        let bytes = bytes.map_err(TableError::Registry)?;
        if Digest::of(&bytes) != at.digest {
            return Err(TableError::WrongDigest { layer });
        }
        let table =
            ChunkTable::decode(&bytes).map_err(|source| TableError::Decode { layer, source })?;
        tables.push(LayerTable {
            digest: layer,
            len: descriptor.size,
            table,
        });
    }
    for (digest, len) in bare.clone() {
        let (ours, registry) = (Arc::clone(ours), repo.host().to_owned());
        let proven = tokio::task::spawn_blocking(move || ours.table(&registry, &digest, len)).await;
        if let Ok(Some(table)) = proven {
            bare.remove(&digest);
            tables.push(LayerTable { digest, len, table });
        }
    }
    if !bare.is_empty() && trusted.covers(repo) {
        let proofs = find_proofs(client, repo, &manifest_digest, &bare).await;
        for (digest, table) in proofs.map_err(TableError::Proofs)? {
            let len = table.covered_len();
            tables.push(LayerTable { digest, len, table });
        }
    }
    Ok(tables)
}
