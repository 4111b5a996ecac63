//! A converted image, opened for looking at: its documents, its layers, and its filesystem read lazily.

pub(crate) mod converted;

use std::sync::Arc;

use tranship_format::erofs::Filesystem;
use tranship_format::{Digest, Disk, LayerAnnotations, ReadAt};
use tranship_source::manifest::{
    Descriptor, Document, ImageConfig, ImageManifest, Manifest, Platform,
};
use tranship_source::{ImageReference, ImageStore};

use crate::blob::LazyBlob;
use crate::cli::RegistryArgs;
use crate::failure::{Exit, Explain, Failure, Outcome};
use crate::place;

/// Decompressed blocks that are kept while a filesystem is read.
const BLOCK_CACHE_LEN: u64 = 64 << 20;

/// An image's documents and where its blobs are.
#[derive(Debug)]
pub(crate) struct Image {
    /// The reference, as the user wrote it.
    pub(crate) named: String,
    /// Where the blobs are.
    pub(crate) store: ImageStore,
    /// What the reference names: an index, or the manifest itself.
    pub(crate) root: Manifest,
    /// The manifest, as it came.
    pub(crate) manifest: Manifest,
    /// The manifest, parsed.
    pub(crate) document: ImageManifest,
    /// Descriptors beside the chosen one in the index: attestations and other platforms.
    pub(crate) siblings: Vec<Descriptor>,
}

/// A layer in overlaybd's form.
#[derive(Clone, Debug)]
pub(crate) struct LayerBlob {
    /// The blob's digest.
    pub(crate) digest: Digest,
    /// The blob's length in bytes.
    pub(crate) len: u64,
    /// The manifest's descriptor.
    pub(crate) descriptor: Descriptor,
    /// What its annotations say.
    pub(crate) annotations: LayerAnnotations,
}

/// An image's filesystem over its merged layers.
pub(crate) type ImageFilesystem = Filesystem<Arc<Disk>>;

/// Parses a reference; a wrong one is the user's mistake.
pub(crate) fn parse_reference(text: &str) -> Outcome<ImageReference> {
    text.parse()
        .explain_as(Exit::Usage, || format!("cannot use the reference `{text}`"))
        .map_err(|failure| {
            failure.next("write docker://HOST/REPO:TAG, oci:DIR[:TAG] or oci-archive:FILE[:TAG]")
        })
}

impl Image {
    /// Pulls an image's manifest; of an index the entry for `platform`, and in place of an original the converted image that
    /// stands beside it, if one does.
    pub(crate) async fn open(
        named: &str,
        platform: Option<&Platform>,
        args: &RegistryArgs,
    ) -> Outcome<Self> {
        let original = Self::open_original(named, platform, args).await?;
        Ok(converted::beside(&original).await.unwrap_or(original))
    }

    /// Pulls an image's manifest; of an index the entry for `platform`. What was converted from it is passed over.
    pub(crate) async fn open_original(
        named: &str,
        platform: Option<&Platform>,
        args: &RegistryArgs,
    ) -> Outcome<Self> {
        let reference = parse_reference(named)?;
        let store = place::open(&reference, args).await?;
        let wanted = platform.cloned().unwrap_or_else(Platform::of_this_machine);
        let found = store.image(&wanted).await;
        let found = found.map_err(|error| {
            place::failure(format!("cannot read the manifest of {named}"), &error)
        })?;
        let siblings = match found.root.parse() {
            Ok(Document::Index(index)) => index.manifests,
            Ok(Document::Image(_)) | Err(_) => Vec::new(),
        };
        let chosen = found.manifest.digest();
        Ok(Self {
            named: named.to_owned(),
            store,
            root: found.root,
            manifest: found.manifest,
            document: found.image,
            siblings: siblings
                .into_iter()
                .filter(|sibling| sibling.digest != chosen)
                .collect(),
        })
    }

    /// Pulls the config and checks its digest.
    pub(crate) async fn config(&self) -> Outcome<ImageConfig> {
        let what = || format!("cannot read the config of {}", self.named);
        let bytes = self
            .store
            .config(&self.document)
            .await
            .map_err(|error| place::failure(what(), &error))?;
        ImageConfig::parse(&bytes).explain_as(Exit::Unsupported, what)
    }

    /// The layers, bottom first, if all are in overlaybd's form.
    pub(crate) fn layers(&self) -> Outcome<Vec<LayerBlob>> {
        let mut layers = Vec::new();
        for (number, descriptor) in self.document.device_layers().iter().enumerate() {
            let what = || {
                format!(
                    "layer {number} of {} ({}) cannot be used",
                    self.named, descriptor.digest
                )
            };
            let annotations = LayerAnnotations::from_map(&descriptor.annotations)
                .explain_as(Exit::Unsupported, what)?
                .ok_or_else(|| {
                    Failure::new(
                        Exit::Unsupported,
                        format!("{} is not converted", self.named),
                    )
                    .why(format!(
                        "layer {number} ({}) is no overlaybd layer",
                        descriptor.digest
                    ))
                    .next(format!(
                        "`tranship convert {} DST` makes one that is",
                        self.named
                    ))
                })?;
            if annotations.blob_digest != descriptor.digest
                || annotations.blob_size != descriptor.size
            {
                return Err(Failure::new(Exit::Verification, what())
                    .why("its annotations and its descriptor name different blobs"));
            }
            let (digest, len, descriptor) =
                (descriptor.digest, descriptor.size, descriptor.clone());
            layers.push(LayerBlob {
                digest,
                len,
                descriptor,
                annotations,
            });
        }
        if layers.is_empty() {
            return Err(Failure::new(
                Exit::Unsupported,
                format!("{} has no layers", self.named),
            ));
        }
        Ok(layers)
    }

    /// Opens the merged device; only indexes and chunk tables are read.
    pub(crate) async fn disk(&self) -> Outcome<Arc<Disk>> {
        let mut blobs: Vec<Arc<dyn ReadAt>> = Vec::new();
        for layer in self.layers()? {
            let blob = LazyBlob::open(&self.store, &layer)
                .await
                .map_err(|error| self.read_failure(&format!("layer {}", layer.digest), &error))?;
            blobs.push(Arc::new(blob));
        }
        let disk = blocking(move || Disk::open(blobs, BLOCK_CACHE_LEN)).await?;
        disk.map(Arc::new)
            .map_err(|error| self.read_failure("the layers", &error))
    }

    /// Opens the filesystem over the merged device.
    pub(crate) async fn filesystem(&self) -> Outcome<ImageFilesystem> {
        let layers = self.layers()?;
        if let Some(other) = layers
            .iter()
            .find(|layer| layer.annotations.fs_name() != "erofs")
        {
            return Err(Failure::new(
                Exit::Unsupported,
                format!("cannot look into {}", self.named),
            )
            .why(format!(
                "its filesystem is {}, and this reads erofs",
                other.annotations.fs_name()
            ))
            .next("`tranship mount` shows it through an agent; without one, `tranship export --raw FILE` writes the device"));
        }
        let disk = self.disk().await?;
        let filesystem = blocking(move || Filesystem::open(disk)).await?;
        filesystem.map_err(|error| self.read_failure("the filesystem", &error))
    }

    /// An error of reading this image, told by its cause: wrong bytes are another matter than an absent registry.
    pub(crate) fn read_failure(
        &self,
        part: &str,
        error: &(dyn std::error::Error + 'static),
    ) -> Failure {
        place::failure(format!("cannot read {part} of {}", self.named), error)
    }
}

/// Runs work that blocks (reads chunks, decompresses) on a thread for that.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Outcome<T> {
    tokio::task::spawn_blocking(work)
        .await
        .explain(|| "a working thread died".into())
}
