//! One image in one place, wherever that is: the same verbs over registries, layout directories and archives.
//!
//! An enum and not a trait: there are three kinds of place, all known here, and the tools that copy between any two
//! of them should not be generic for it.

use bytes::Bytes;
use tranship_format::{ByteRange, Digest};

use crate::blob::BlobBody;
use crate::layout::OciLayout;
use crate::manifest::{Descriptor, Document, ImageManifest, Manifest, Platform};
use crate::reference::{
    ImageReference, LayoutReference, ManifestSelector, RegistryReference, RepoRef,
};
use crate::registry::RegistryClient;

mod copy;
mod error;
mod reader;
mod referrers;
mod roots;

pub use error::ImageStoreError;
pub use reader::BlobReader;

/// The longest image configuration that is read, in bytes.
const CONFIG_LEN_MAX: u64 = 16 << 20;

/// How deep an index may lie in an index.
const NESTING_MAX: u32 = 3;

/// An image's place, open for reading or for writing. Cloning is cheap.
#[derive(Clone, Debug)]
pub enum ImageStore {
    /// A repository of a registry.
    Registry {
        /// The client to ask with.
        client: RegistryClient,
        /// Repository and tag or digest.
        reference: RegistryReference,
    },
    /// A layout on disk.
    Layout {
        /// The directory or archive.
        layout: OciLayout,
        /// Name or digest within it.
        reference: LayoutReference,
    },
}

/// An image that was found for a platform.
#[derive(Clone, Debug)]
pub struct FoundImage {
    /// What the reference names: an index, or the image's manifest itself.
    pub root: Manifest,
    /// The image's manifest.
    pub manifest: Manifest,
    /// The same, parsed.
    pub image: ImageManifest,
}

impl ImageStore {
    /// Opens the place of an image for reading. Registries are not asked yet.
    pub async fn open(
        reference: &ImageReference,
        client: &RegistryClient,
    ) -> Result<Self, ImageStoreError> {
        Ok(match reference {
            ImageReference::Registry(reference) => Self::registry(client, reference),
            ImageReference::OciDir(reference) => {
                Self::layout(OciLayout::open_dir(&reference.path).await?, reference)
            }
            ImageReference::OciArchive(reference) => {
                Self::layout(OciLayout::open_archive(&reference.path).await?, reference)
            }
        })
    }

    /// Opens the place of an image for writing; call [`finish`](Self::finish) at the end.
    pub async fn create(
        reference: &ImageReference,
        client: &RegistryClient,
    ) -> Result<Self, ImageStoreError> {
        Ok(match reference {
            ImageReference::Registry(reference) => Self::registry(client, reference),
            ImageReference::OciDir(reference) => {
                Self::layout(OciLayout::create_dir(&reference.path).await?, reference)
            }
            ImageReference::OciArchive(reference) => {
                Self::layout(OciLayout::create_archive(&reference.path).await?, reference)
            }
        })
    }

    fn registry(client: &RegistryClient, reference: &RegistryReference) -> Self {
        Self::Registry {
            client: client.clone(),
            reference: reference.clone(),
        }
    }

    fn layout(layout: OciLayout, reference: &LayoutReference) -> Self {
        Self::Layout {
            layout,
            reference: reference.clone(),
        }
    }

    /// The manifest or index that the reference names.
    pub async fn root(&self) -> Result<Manifest, ImageStoreError> {
        Ok(match self {
            Self::Registry { client, reference } => {
                client
                    .manifest(&reference.repo, &reference.selector())
                    .await?
            }
            Self::Layout { layout, reference } => {
                layout.manifest(reference.selector().as_ref()).await?
            }
        })
    }

    /// A manifest by digest.
    pub async fn manifest(&self, digest: &Digest) -> Result<Manifest, ImageStoreError> {
        let which = ManifestSelector::Digest(*digest);
        Ok(match self {
            Self::Registry { client, reference } => {
                client.manifest(&reference.repo, &which).await?
            }
            Self::Layout { layout, .. } => layout.manifest(Some(&which)).await?,
        })
    }

    /// The image that the reference means on `platform`, found through as many indexes as there are.
    pub async fn image(&self, platform: &Platform) -> Result<FoundImage, ImageStoreError> {
        let root = self.root().await?;
        let mut manifest = root.clone();
        for _ in 0..=NESTING_MAX {
            match manifest.parse()? {
                Document::Image(image) => {
                    return Ok(FoundImage {
                        root,
                        manifest,
                        image: *image,
                    });
                }
                Document::Index(index) => {
                    manifest = self.manifest(&index.select(platform)?.digest).await?;
                }
            }
        }
        Err(ImageStoreError::TooDeep(root.digest()))
    }

    /// The image configuration, verified.
    pub async fn config(&self, image: &ImageManifest) -> Result<Bytes, ImageStoreError> {
        let config = &image.config;
        let limit = config.size.min(CONFIG_LEN_MAX);
        self.blob_bytes(&config.digest, limit).await
    }

    /// A whole blob of at most `limit` bytes, verified.
    pub async fn blob_bytes(&self, digest: &Digest, limit: u64) -> Result<Bytes, ImageStoreError> {
        Ok(match self {
            Self::Registry { client, reference } => {
                client.blob_bytes(&reference.repo, digest, limit).await?
            }
            Self::Layout { layout, .. } => layout.blob_bytes(digest, limit).await?,
        })
    }

    /// A whole blob; the reader fails at its end if the digest is wrong.
    pub async fn blob(&self, digest: &Digest) -> Result<BlobReader, ImageStoreError> {
        Ok(BlobReader::new(match self {
            Self::Registry { client, reference } => {
                let stream = client.blob(&reference.repo, digest).await?;
                Box::new(stream.into_reader())
            }
            Self::Layout { layout, .. } => Box::new(layout.blob(digest).await?),
        }))
    }

    /// Exactly `range` of a blob, **not** verified.
    pub async fn blob_range(
        &self,
        digest: &Digest,
        range: ByteRange,
    ) -> Result<Bytes, ImageStoreError> {
        Ok(match self {
            Self::Registry { client, reference } => {
                client.blob_range(&reference.repo, digest, range).await?
            }
            Self::Layout { layout, .. } => layout.blob_range(digest, range).await?,
        })
    }

    /// Looks for a blob: its length in bytes, or `None` if it is not there.
    pub async fn blob_exists(&self, digest: &Digest) -> Result<Option<u64>, ImageStoreError> {
        Ok(match self {
            Self::Registry { client, reference } => {
                client.blob_exists(&reference.repo, digest).await?
            }
            Self::Layout { layout, .. } => layout.blob_exists(digest).await?,
        })
    }

    /// Puts a blob of `len` bytes here, unless it is here.
    pub async fn push_blob(
        &self,
        digest: &Digest,
        len: u64,
        body: BlobBody,
    ) -> Result<(), ImageStoreError> {
        match self {
            Self::Registry { client, reference } => {
                client.push_blob(&reference.repo, digest, len, body).await?;
            }
            Self::Layout { layout, .. } => layout.push_blob(digest, len, body).await?,
        }
        Ok(())
    }

    /// Brings a blob here from another place: not at all if it is here, by mounting if one registry has both,
    /// else by streaming.
    pub async fn copy_blob(&self, from: &Self, blob: &Descriptor) -> Result<(), ImageStoreError> {
        if self.blob_exists(&blob.digest).await?.is_some() {
            return Ok(());
        }
        if let (Some((client, repo)), Some((_, source))) = (self.repo(), from.repo())
            && client.mount_blob(repo, source, &blob.digest).await?
        {
            return Ok(());
        }
        if let Some(got) = from.blob_exists(&blob.digest).await?
            && got != blob.size
        {
            return Err(ImageStoreError::WrongLength {
                digest: blob.digest,
                wanted: blob.size,
                got,
            });
        }
        let body = BlobBody::reader(from.blob(&blob.digest).await?);
        self.push_blob(&blob.digest, blob.size, body).await
    }

    fn repo(&self) -> Option<(&RegistryClient, &RepoRef)> {
        match self {
            Self::Registry { client, reference } => Some((client, &reference.repo)),
            Self::Layout { .. } => None,
        }
    }

    /// Puts a manifest here that an index lists, to be found by digest. What it points at must be here already.
    pub async fn push_manifest(&self, manifest: &Manifest) -> Result<(), ImageStoreError> {
        match self {
            Self::Registry { client, reference } => {
                let which = ManifestSelector::Digest(manifest.digest());
                client
                    .push_manifest(&reference.repo, &which, manifest)
                    .await?;
            }
            Self::Layout { layout, .. } => layout.push_manifest(manifest).await?,
        }
        Ok(())
    }

    /// Puts a manifest here without a name, so that it is found by digest and, in a layout, in the list of images.
    pub async fn list_manifest(&self, manifest: &Manifest) -> Result<(), ImageStoreError> {
        if let Self::Layout { layout, .. } = self {
            layout.push_image(manifest, None).await?;
            return Ok(());
        }
        self.push_manifest(manifest).await
    }

    /// Puts the manifest or index here that the reference shall name. What it points at must be here already.
    pub async fn push_root(&self, manifest: &Manifest) -> Result<(), ImageStoreError> {
        match self {
            Self::Registry { client, reference } => {
                let which = reference.selector();
                client
                    .push_manifest(&reference.repo, &which, manifest)
                    .await?;
            }
            Self::Layout { layout, reference } => {
                layout
                    .push_image(manifest, reference.tag.as_deref())
                    .await?;
            }
        }
        Ok(())
    }

    /// Completes what was written here; until then an archive does not appear.
    pub async fn finish(self) -> Result<(), ImageStoreError> {
        match self {
            Self::Registry { .. } => Ok(()),
            Self::Layout { layout, .. } => Ok(layout.finish().await?),
        }
    }
}

#[cfg(test)]
mod tests;
