//! Proofs of layers that came without a chunk table: manifests that refer to the image's and carry one table a blob.
//!
//! The image's digest does not cover them. Whoever may push to the repository may push a proof, and a reader that believes
//! it believes its pusher; so nobody looks for proofs but where an operator has said that they are to be trusted.

use std::collections::BTreeMap;

use bytes::Bytes;
use tranship_format::chunk::{MAX_TABLE_LEN, PROOF_OF, PROOF_OF_SIZE, PROOF_TYPE};
use tranship_format::{ChunkTable, DecodeError, Digest};

use crate::manifest::{Descriptor, ImageManifest, Manifest, ManifestError, media_type};
use crate::places;
use crate::reference::{ManifestSelector, RepoRef};
use crate::registry::{RegistryClient, RegistryError};

/// The configuration of a proof's manifest, which has none.
pub const EMPTY_CONFIG: &[u8] = b"{}";

/// Manifests with proofs that are looked at for one image: more than one is already a sign of disorder.
const MAX_MANIFESTS: usize = 8;

/// Why the proofs of an image cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// The registry does not give them.
    #[error("the proofs could not be read")]
    Registry(#[from] RegistryError),
    /// What refers to the image is no manifest of proofs.
    #[error("the manifest of the proofs cannot be used")]
    Manifest(#[from] ManifestError),
    /// A proof is not one.
    #[error("the proof of blob {blob} cannot be used")]
    Decode {
        /// The blob.
        blob: Digest,
        /// What is wrong with it.
        #[source]
        source: DecodeError,
    },
    /// Two proofs of one blob say different things, and one of them lies.
    #[error("there are proofs of blob {blob} that contradict each other")]
    Contradiction {
        /// The blob.
        blob: Digest,
    },
}

/// Where proofs are trusted: registries (`registry.example:5000`) and parts of them (`registry.example/team`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProofs(Vec<String>);

impl TrustedProofs {
    /// Trust in these registries or repositories and all below them; in none if the list is empty.
    pub fn new(places: Vec<String>) -> Self {
        Self(places)
    }

    /// Whether who may push to `repo` is trusted with proofs.
    pub fn covers(&self, repo: &RepoRef) -> bool {
        places::cover(&self.0, repo)
    }
}

/// The manifest that carries proofs for layers of `image`, and the proofs' bytes, which are its layers in this order.
///
/// # Errors
/// If it cannot be written as JSON.
pub fn manifest_of_proofs(
    image: &Manifest,
    proofs: &[(Digest, ChunkTable)],
) -> Result<(Manifest, Vec<Bytes>), ManifestError> {
    let mut layers = Vec::new();
    let mut tables = Vec::new();
    for (blob, table) in proofs {
        let bytes = Bytes::from(table.encode());
        let mut layer = Descriptor::new(PROOF_TYPE, Digest::of(&bytes), bytes.len() as u64);
        layer
            .annotations
            .insert(PROOF_OF.to_owned(), blob.to_string());
        let len = table.covered_len().to_string();
        layer.annotations.insert(PROOF_OF_SIZE.to_owned(), len);
        layers.push(layer);
        tables.push(bytes);
    }
    let config = Descriptor::new(
        media_type::OCI_EMPTY,
        Digest::of(EMPTY_CONFIG),
        EMPTY_CONFIG.len() as u64,
    );
    let mut manifest = ImageManifest::new(config, layers);
    manifest.artifact_type = Some(PROOF_TYPE.to_owned());
    manifest.subject = Some(image.descriptor());
    Ok((Manifest::from_image(&manifest)?, tables))
}

/// The proofs that the repository has for these blobs (with their lengths) of the image `manifest`. Blobs without one are
/// left out.
///
/// # Errors
/// If they cannot be read, have not the form of a proof, or contradict each other.
pub async fn find_proofs(
    client: &RegistryClient,
    repo: &RepoRef,
    manifest: &Digest,
    blobs: &BTreeMap<Digest, u64>,
) -> Result<BTreeMap<Digest, ChunkTable>, ProofError> {
    let mut found = BTreeMap::new();
    let referrers = client.referrers(repo, manifest, Some(PROOF_TYPE)).await?;
    for referrer in referrers.iter().take(MAX_MANIFESTS) {
        let which = ManifestSelector::Digest(referrer.digest);
        let document = client.manifest(repo, &which).await?.image()?;
        let about = document.subject.as_ref().map(|subject| subject.digest);
        if about != Some(*manifest) {
            continue;
        }
        for layer in &document.layers {
            let Some((blob, len)) = subject_of(layer, blobs) else {
                continue;
            };
            let limit = layer.size.min(MAX_TABLE_LEN);
            let bytes = client.blob_bytes(repo, &layer.digest, limit).await?;
            let table = ChunkTable::decode_proof(&bytes, len)
                .map_err(|source| ProofError::Decode { blob, source })?;
            if *found.entry(blob).or_insert_with(|| table.clone()) != table {
                return Err(ProofError::Contradiction { blob });
            }
        }
    }
    Ok(found)
}

/// The blob that a proof is about, if it is one of `blobs`.
fn subject_of(layer: &Descriptor, blobs: &BTreeMap<Digest, u64>) -> Option<(Digest, u64)> {
    let blob: Digest = layer.annotations.get(PROOF_OF)?.parse().ok()?;
    let len: u64 = layer.annotations.get(PROOF_OF_SIZE)?.parse().ok()?;
    let is_wanted = layer.media_type == PROOF_TYPE && blobs.get(&blob) == Some(&len);
    is_wanted.then_some((blob, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_ends_at_a_whole_component() {
        let trusted = TrustedProofs::new(vec!["a.example/team/".into(), "b.example:5000".into()]);
        let covers = |name: &str| trusted.covers(&name.parse().unwrap());
        assert!(covers("a.example/team") && covers("a.example/team/app"));
        assert!(covers("b.example:5000/any"));
        assert!(!covers("a.example/teammates/app") && !covers("a.example/other"));
        assert!(!covers("b.example/any"));
        let empty = TrustedProofs::new(vec![String::new(), "/".into()]);
        assert!(!empty.covers(&"a.example/team".parse().unwrap()));
    }

    #[test]
    fn a_manifest_of_proofs_names_image_and_blobs() {
        let empty = Descriptor::new(media_type::OCI_EMPTY, Digest::of(EMPTY_CONFIG), 2);
        let image = Manifest::from_image(&ImageManifest::new(empty, Vec::new())).unwrap();
        let (blob, table) = (
            Digest::of(b"blob"),
            ChunkTable::proof(b"blob".as_slice()).unwrap(),
        );
        let (manifest, tables) = manifest_of_proofs(&image, &[(blob, table)]).unwrap();
        let document = manifest.image().unwrap();
        assert_eq!(document.subject.unwrap().digest, image.digest());
        assert_eq!(document.artifact_type.as_deref(), Some(PROOF_TYPE));
        let [layer] = document.layers.as_slice() else {
            panic!("one layer")
        };
        assert_eq!(layer.digest, Digest::of(&tables[0]));
        let wanted = BTreeMap::from([(blob, 4)]);
        assert_eq!(subject_of(layer, &wanted), Some((blob, 4)));
        assert_eq!(subject_of(layer, &BTreeMap::from([(blob, 5)])), None);
    }
}
