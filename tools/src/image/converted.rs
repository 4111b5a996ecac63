//! Finding the converted image that stands beside its original: in the same index, or as something that refers to it.
//!
//! An index is covered by its digest, so whoever trusts the reference trusts what it lists. A list of referrers is covered by
//! nothing: anybody who may push to the repository may add to it, and so the image that it names is taken only
//! when it says itself from which original it was converted.

use tranship_format::{Digest, LayerAnnotations};
use tranship_source::ImageStore;
pub(crate) use tranship_source::manifest::{CONVERTED_TYPE as ARTIFACT_TYPE, SOURCE_DIGEST};
use tranship_source::manifest::{Descriptor, ImageManifest};

use super::Image;

/// What a host must know to run a converted image, in an index: others pass it over and run the original.
pub(crate) const OS_FEATURE: &str = "tranship.v1";

/// Entries of one index or list that are looked at.
const MAX_CANDIDATES: usize = 8;

/// Whether all layers are in overlaybd's form.
pub(crate) fn is_converted(document: &ImageManifest) -> bool {
    let mut layers = document.device_layers().iter();
    !document.layers.is_empty()
        && layers.all(|layer| matches!(LayerAnnotations::from_map(&layer.annotations), Ok(Some(_))))
}

/// Whether an entry of an index was converted from another one.
pub(crate) fn is_conversion(entry: &Descriptor) -> bool {
    let features = entry.platform.iter().flat_map(|it| &it.os_features);
    entry.annotations.contains_key(SOURCE_DIGEST)
        || features.into_iter().any(|feature| feature == OS_FEATURE)
}

/// The image converted from `original`, if its index lists one or one refers to it.
pub(super) async fn beside(original: &Image) -> Option<Image> {
    if is_converted(&original.document) {
        return None;
    }
    let digest = original.manifest.digest();
    let listed = original
        .siblings
        .iter()
        .filter(|entry| is_conversion(entry));
    let listed: Vec<Digest> = listed
        .filter(|entry| names(&entry.annotations, &digest))
        .map(|entry| entry.digest)
        .collect();
    if let Some(found) = first_of(original, &listed).await {
        return Some(found);
    }
    first_of(original, &attached(&original.store, &digest).await).await
}

/// What was converted from `original` and refers to it. A place that cannot tell has none.
pub(crate) async fn attached(store: &ImageStore, original: &Digest) -> Vec<Digest> {
    match store.referrers(original, Some(ARTIFACT_TYPE)).await {
        Ok(found) => found.iter().map(|entry| entry.digest).collect(),
        Err(error) => {
            tracing::debug!(%error, %original, "referrers cannot be listed");
            Vec::new()
        }
    }
}

async fn first_of(original: &Image, candidates: &[Digest]) -> Option<Image> {
    for digest in candidates.iter().take(MAX_CANDIDATES) {
        let Ok(manifest) = original.store.manifest(digest).await else {
            continue;
        };
        let Ok(document) = manifest.image() else {
            continue;
        };
        if is_converted(&document) && names(&document.annotations, &original.manifest.digest()) {
            return Some(Image {
                named: original.named.clone(),
                store: original.store.clone(),
                root: original.root.clone(),
                manifest,
                document,
                siblings: original.siblings.clone(),
            });
        }
    }
    None
}

fn names(annotations: &std::collections::BTreeMap<String, String>, original: &Digest) -> bool {
    annotations.get(SOURCE_DIGEST) == Some(&original.to_string())
}
