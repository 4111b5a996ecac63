//! What shows the same files as an image that containerd is about to unpack, without unpacking.
//!
//! That is the image itself, if it is converted, or the one converted from it: listed beside it in the index by which containerd came to it,
//! or, where an operator trusts those who push there, attached to it. An index is covered by its digest; a list of referrers is covered by
//! nothing.

use std::time::Duration;

use tokio::time::timeout;
use tranship_format::Digest;
use tranship_source::ManifestSelector;
use tranship_source::manifest::{CONVERTED_TYPE, Document, ImageManifest, Manifest, SOURCE_DIGEST};

use super::resolve::{is_converted, read, unusable};
use super::{Images, OpenImageError};
use crate::origin::ImageOrigin;
use crate::sentence::sentence;

/// How long a registry is asked before containerd, which asks it too, is left to unpack.
const PATIENCE: Duration = Duration::from_secs(20);
/// Manifests of one index, or of one list of referrers, that are looked at.
const MAX_CANDIDATES: usize = 8;

/// A converted image, as an answer to what containerd asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LazyForm {
    /// The digest of the converted image's manifest.
    pub(crate) manifest: Digest,
    /// The layers as containerd names them, the bottom one first.
    pub(crate) layers: Vec<Digest>,
    /// How many layers make the device.
    pub(crate) shown: u32,
    /// How it was found, in one word: `converted`, `sibling`, `referrer`.
    pub(crate) how: &'static str,
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotLazy {
    /// The registry, or the image in it.
    #[error("the image cannot be looked at: {0}")]
    Unreadable(String),
    /// Nobody has converted it.
    #[error("it is not converted, and its index lists no image that was converted from it")]
    NotConverted,
    /// What was converted from it has other layers.
    #[error("what was converted from it has {converted} layers, and it has {original}")]
    OtherLayers {
        /// Layers of the converted image.
        converted: usize,
        /// Layers of the image.
        original: usize,
    },
    /// The layer that is asked for is none of the image's.
    #[error("the layer that is asked for is not one of the image's, which may have moved on")]
    OtherImage,
}

impl NotLazy {
    /// In one word, for counting.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "unreadable",
            Self::NotConverted => "not-converted",
            Self::OtherLayers { .. } => "other-layers",
            Self::OtherImage => "other-image",
        }
    }
}

impl Images {
    /// Finds what shows the image that containerd came to by `reference`, and of whose manifests it chose `manifest` if it says so. What is
    /// known here already needs no network.
    pub(crate) async fn lazy_form(
        &self,
        reference: &str,
        manifest: Option<Digest>,
        with_referrers: bool,
    ) -> Result<LazyForm, NotLazy> {
        if let Some(known) = manifest.and_then(|digest| self.kept(digest))
            && let Ok(image) = known.image()
            && is_converted(&image)
        {
            return Ok(itself(known.digest(), &image));
        }
        let asking = self.ask_lazy_form(reference, manifest, with_referrers);
        match timeout(PATIENCE, Box::pin(asking)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => Err(NotLazy::Unreadable(sentence(&error))),
            Err(_) => Err(NotLazy::Unreadable(format!(
                "the registry did not answer within {} s",
                PATIENCE.as_secs()
            ))),
        }
    }

    async fn ask_lazy_form(
        &self,
        reference: &str,
        chosen: Option<Digest>,
        with_referrers: bool,
    ) -> Result<Result<LazyForm, NotLazy>, OpenImageError> {
        let (name, origin) = self.origin(reference, None)?;
        let top = read(reference, &name, &origin).await?;
        let parsed = top.parse().map_err(|source| unusable(reference, source))?;
        let (digest, listed) = match parsed {
            Document::Image(_) => (chosen.unwrap_or(top.digest()), Vec::new()),
            Document::Index(index) => {
                let candidates = self
                    .candidates(&index)
                    .map_err(|source| unusable(reference, source))?;
                let first = candidates.first().copied();
                let digest = chosen.or(first).unwrap_or(top.digest());
                // Only what stands beside it in the same index counts.
                let is_listed = index.manifests.iter().any(|entry| entry.digest == digest);
                let claims_other = |candidate: &Digest| {
                    index.manifests.iter().any(|entry| {
                        entry.digest == *candidate && names_other(&entry.annotations, &digest)
                    })
                };
                let mut listed = candidates;
                listed.retain(|candidate| {
                    is_listed && *candidate != digest && !claims_other(candidate)
                });
                (digest, listed)
            }
        };
        let (original, image) = if digest == top.digest() {
            let image = image_of(reference, &top)?;
            (top, image)
        } else {
            self.manifest_of(reference, digest, &origin).await?
        };
        if is_converted(&image) {
            self.keep(reference, &original);
            return Ok(Ok(itself(digest, &image)));
        }
        let mut found = self
            .first_converted(reference, digest, &listed, &origin)
            .await?;
        let mut how = "sibling";
        if found.is_none() && with_referrers {
            let attached = origin
                .client
                .referrers(&origin.repo, &digest, Some(CONVERTED_TYPE))
                .await
                .map_err(|source| OpenImageError::Resolve {
                    reference: reference.to_owned(),
                    source,
                })?;
            let attached: Vec<Digest> = attached.iter().map(|entry| entry.digest).collect();
            found = self
                .first_converted(reference, digest, &attached, &origin)
                .await?;
            how = "referrer";
        }
        let Some((manifest, converted)) = found else {
            return Ok(Err(NotLazy::NotConverted));
        };
        let shown = converted.device_layers().len();
        if shown != image.layers.len() {
            return Ok(Err(NotLazy::OtherLayers {
                converted: shown,
                original: image.layers.len(),
            }));
        }
        self.keep(reference, &manifest);
        Ok(Ok(LazyForm {
            manifest: manifest.digest(),
            layers: image.layers.iter().map(|layer| layer.digest).collect(),
            shown: count(shown),
            how,
        }))
    }

    /// The first of the candidates that is converted, and not from another image.
    async fn first_converted(
        &self,
        reference: &str,
        original: Digest,
        candidates: &[Digest],
        origin: &ImageOrigin,
    ) -> Result<Option<(Manifest, ImageManifest)>, OpenImageError> {
        for candidate in candidates.iter().take(MAX_CANDIDATES) {
            let (manifest, image) = self.manifest_of(reference, *candidate, origin).await?;
            if is_converted(&image) && !names_other(&image.annotations, &original) {
                return Ok(Some((manifest, image)));
            }
        }
        Ok(None)
    }

    async fn manifest_of(
        &self,
        reference: &str,
        digest: Digest,
        origin: &ImageOrigin,
    ) -> Result<(Manifest, ImageManifest), OpenImageError> {
        let manifest = match self.kept(digest) {
            Some(kept) => kept,
            None => read(reference, &ManifestSelector::Digest(digest), origin).await?,
        };
        let image = image_of(reference, &manifest)?;
        Ok((manifest, image))
    }
}

fn image_of(reference: &str, manifest: &Manifest) -> Result<ImageManifest, OpenImageError> {
    manifest
        .image()
        .map_err(|source| unusable(reference, source))
}

/// Whether it says that it was converted from something else.
fn names_other(
    annotations: &std::collections::BTreeMap<String, String>,
    original: &Digest,
) -> bool {
    annotations
        .get(SOURCE_DIGEST)
        .is_some_and(|source| *source != original.to_string())
}

fn itself(manifest: Digest, image: &ImageManifest) -> LazyForm {
    LazyForm {
        manifest,
        layers: image.layers.iter().map(|layer| layer.digest).collect(),
        shown: count(image.device_layers().len()),
        how: "converted",
    }
}

fn count(layers: usize) -> u32 {
    u32::try_from(layers).unwrap_or(u32::MAX)
}
