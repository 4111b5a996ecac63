//! From a reference to the layers of one image.
//!
//! A digest is looked up here first: it means the same bytes for ever. A tag is asked of the registry, and only when that
//! cannot be reached does what it meant last time count, so that a node comes up while its registry is down.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use tranship_format::Digest;
use tranship_format::annotation::LayerAnnotations;
use tranship_source::manifest::{
    Descriptor, Document, ImageIndex, ImageManifest, Manifest, ManifestError,
};
use tranship_source::registry::{PlainHttp, RegistryClient};
use tranship_source::{ImageReference, ManifestSelector, Verdict};

use super::{ImageRecord, Images, OpenImageError, Resolved};
use crate::origin::ImageOrigin;

/// How long a registry is waited for when there is something else to go by.
const PATIENCE: Duration = Duration::from_secs(10);
/// References remembered for one manifest.
const MAX_REFERENCES: usize = 16;
/// Manifests of one index that are looked at for a converted one.
const MAX_CANDIDATES: usize = 8;

impl Images {
    /// Finds the image that a reference means now.
    pub(crate) async fn resolve(
        &self,
        reference: &str,
        plain_http: Option<bool>,
    ) -> Result<Resolved, OpenImageError> {
        let (name, origin) = self.origin(reference, plain_http)?;
        if let ManifestSelector::Digest(digest) = &name
            && let Some(manifest) = self.kept(*digest)
            && let Ok(Document::Image(image)) = manifest.parse()
        {
            return resolved(reference, manifest.digest(), &image, origin);
        }
        let (manifest, image) = self.find_or_last_known(reference, &name, &origin).await?;
        let resolved = resolved(reference, manifest.digest(), &image, origin)?;
        self.keep(reference, &manifest);
        Ok(resolved)
    }

    /// Asks the registry; what the reference meant last counts only while the registry cannot be reached, and saves the
    /// long wait for it.
    async fn find_or_last_known(
        &self,
        reference: &str,
        name: &ManifestSelector,
        origin: &ImageOrigin,
    ) -> Result<(Manifest, ImageManifest), OpenImageError> {
        let asking = self.find(reference, name, origin);
        let Some(kept) = self.last_known(reference) else {
            return asking.await;
        };
        match timeout(PATIENCE, asking).await {
            Ok(Err(OpenImageError::Resolve { source, .. }))
                if matches!(source.verdict(), Verdict::TryAgain { .. }) => {}
            Ok(found) => return found,
            Err(_) => {}
        }
        tracing::warn!(reference, manifest = %kept.0.digest(), "the registry cannot be reached; the reference is taken to mean what it meant last");
        Ok(kept)
    }

    /// The image of a manifest that was opened before, without asking anyone.
    pub(crate) fn recall(
        &self,
        reference: &str,
        plain_http: Option<bool>,
        manifest: Digest,
    ) -> Result<Option<Resolved>, OpenImageError> {
        let (_, origin) = self.origin(reference, plain_http)?;
        match self
            .kept(manifest)
            .and_then(|manifest| manifest.image().ok())
        {
            Some(image) => resolved(reference, manifest, &image, origin).map(Some),
            None => Ok(None),
        }
    }

    /// The image of a manifest in the repository of a reference, wherever that reference leads by now.
    pub(crate) async fn resolve_manifest(
        &self,
        reference: &str,
        plain_http: Option<bool>,
        manifest: Digest,
    ) -> Result<Resolved, OpenImageError> {
        if let Some(known) = self.recall(reference, plain_http, manifest)? {
            return Ok(known);
        }
        let (_, origin) = self.origin(reference, plain_http)?;
        let found = read(reference, &manifest.into(), &origin).await?;
        let image = found
            .image()
            .map_err(|source| unusable(reference, source))?;
        let resolved = resolved(reference, manifest, &image, origin)?;
        self.keep(reference, &found);
        Ok(resolved)
    }

    pub(super) fn origin(
        &self,
        reference: &str,
        plain_http: Option<bool>,
    ) -> Result<(ManifestSelector, ImageOrigin), OpenImageError> {
        let parsed: ImageReference =
            reference
                .parse()
                .map_err(|source| OpenImageError::Reference {
                    reference: reference.to_owned(),
                    source,
                })?;
        let ImageReference::Registry(parsed) = parsed else {
            return Err(OpenImageError::NotInRegistry {
                reference: reference.to_owned(),
            });
        };
        let mut client = self.client.clone();
        if plain_http == Some(true) {
            let mut options = self.options.registry.clone();
            options.plain_http = PlainHttp::Always(vec![parsed.repo.host().to_owned()]);
            client = RegistryClient::new(options)
                .map_err(|failure| OpenImageError::Client(Box::new(failure)))?;
        }
        let origin = ImageOrigin {
            client,
            repo: parsed.repo.clone(),
        };
        Ok((parsed.selector(), origin))
    }

    /// Asks the registry. Of an index it takes the image for this machine, and of several the one that is converted.
    async fn find(
        &self,
        reference: &str,
        name: &ManifestSelector,
        origin: &ImageOrigin,
    ) -> Result<(Manifest, ImageManifest), OpenImageError> {
        let manifest = read(reference, name, origin).await?;
        let parsed = manifest
            .parse()
            .map_err(|source| unusable(reference, source))?;
        let index = match parsed {
            Document::Image(image) => return Ok((manifest, *image)),
            Document::Index(index) => index,
        };
        let candidates = self
            .candidates(&index)
            .map_err(|source| unusable(reference, source))?;
        let mut first = None;
        for digest in candidates {
            let manifest = read(reference, &ManifestSelector::Digest(digest), origin).await?;
            let image = manifest
                .image()
                .map_err(|source| unusable(reference, source))?;
            if is_converted(&image) {
                return Ok((manifest, image));
            }
            first.get_or_insert((manifest, image));
        }
        first.ok_or_else(|| OpenImageError::NotConverted {
            reference: reference.to_owned(),
        })
    }

    /// The images of an index that this machine can run, the most fitting one first.
    pub(super) fn candidates(&self, index: &ImageIndex) -> Result<Vec<Digest>, Box<ManifestError>> {
        let best = index.select(&self.options.platform)?;
        let platform = |entry: &Descriptor| {
            entry
                .platform
                .as_ref()
                .map(|found| (found.os.clone(), found.architecture.clone()))
        };
        let others = index
            .manifests
            .iter()
            .filter(|entry| {
                entry.digest != best.digest
                    && !entry.is_attestation()
                    && platform(entry) == platform(best)
            })
            .map(|entry| entry.digest);
        Ok([best.digest]
            .into_iter()
            .chain(others)
            .take(MAX_CANDIDATES)
            .collect())
    }

    pub(super) fn keep(&self, reference: &str, manifest: &Manifest) {
        if let Err(error) = self.try_keep(reference, manifest) {
            tracing::warn!(reference, %error, "the manifest could not be kept; after a restart it must be read again");
        }
    }

    fn try_keep(&self, reference: &str, manifest: &Manifest) -> io::Result<()> {
        let name = manifest.digest().hex();
        let mut references = Vec::new();
        for (other, mut record) in self.records.load_all()? {
            if other == name {
                references = record.references;
            } else if record.references.iter().any(|known| known == reference) {
                // The tag has moved on from there.
                record.references.retain(|known| known != reference);
                self.records.save(&other, &record)?;
            }
        }
        references.retain(|known| known != reference);
        references.push(reference.to_owned());
        let surplus = references.len().saturating_sub(MAX_REFERENCES);
        references.drain(..surplus);
        let text = String::from_utf8(manifest.bytes().to_vec()).map_err(io::Error::other)?;
        let record = ImageRecord {
            references,
            manifest: text,
            media_type: manifest.media_type().to_owned(),
        };
        self.records.save(&name, &record)
    }

    pub(super) fn kept(&self, digest: Digest) -> Option<Manifest> {
        let record = self.records.load(&digest.hex())?;
        let manifest = Manifest::new(Bytes::from(record.manifest), Some(&record.media_type));
        (manifest.digest() == digest).then_some(manifest)
    }

    fn last_known(&self, reference: &str) -> Option<(Manifest, ImageManifest)> {
        let records = self.records.load_all().ok()?;
        let (name, _) = records
            .into_iter()
            .find(|(_, record)| record.references.iter().any(|known| known == reference))?;
        let manifest = self.kept(format!("sha256:{name}").parse().ok()?)?;
        let image = manifest.image().ok()?;
        Some((manifest, image))
    }
}

pub(super) async fn read(
    reference: &str,
    name: &ManifestSelector,
    origin: &ImageOrigin,
) -> Result<Manifest, OpenImageError> {
    origin
        .manifest(name)
        .await
        .map_err(|source| OpenImageError::Resolve {
            reference: reference.to_owned(),
            source,
        })
}

pub(super) fn unusable(reference: &str, source: impl Into<Box<ManifestError>>) -> OpenImageError {
    OpenImageError::Manifest {
        reference: reference.to_owned(),
        source: source.into(),
    }
}

pub(super) fn is_converted(image: &ImageManifest) -> bool {
    !image.layers.is_empty()
        && image
            .device_layers()
            .iter()
            .all(|layer| matches!(LayerAnnotations::from_map(&layer.annotations), Ok(Some(_))))
}

fn resolved(
    reference: &str,
    manifest: Digest,
    image: &ImageManifest,
    origin: ImageOrigin,
) -> Result<Resolved, OpenImageError> {
    let not_converted = || OpenImageError::NotConverted {
        reference: reference.to_owned(),
    };
    let mut layers = Vec::with_capacity(image.layers.len());
    for (number, layer) in image.device_layers().iter().enumerate() {
        let found = LayerAnnotations::from_map(&layer.annotations).map_err(|source| {
            OpenImageError::Annotations {
                reference: reference.to_owned(),
                layer: number,
                source,
            }
        })?;
        // A descriptor that names one blob and describes another would let a table vouch for bytes of something else.
        let found = found
            .filter(|found| found.blob_digest == layer.digest && found.blob_size == layer.size);
        layers.push(found.ok_or_else(not_converted)?);
    }
    if layers.is_empty() {
        return Err(not_converted());
    }
    Ok(Resolved {
        reference: reference.to_owned(),
        manifest,
        shown: layers.len(),
        layers,
        origin,
    })
}
