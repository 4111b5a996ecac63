//! Copying whole images and indexes, byte by byte: whoever signed the original finds it as it was.

use tranship_format::Digest;

use super::{ImageStore, ImageStoreError, NESTING_MAX};
use crate::manifest::{Descriptor, Document, ImageManifest, Manifest};
use crate::reference::ManifestSelector;

impl ImageStore {
    /// Whether a registry has the manifest here, and so all that it points at. Layouts promise nothing of that kind.
    async fn keeps(&self, digest: &Digest) -> Result<bool, ImageStoreError> {
        Ok(match self {
            Self::Registry { client, reference } => {
                let which = ManifestSelector::Digest(*digest);
                let found = client.find_manifest(&reference.repo, &which).await?;
                found.is_some()
            }
            Self::Layout { .. } => false,
        })
    }

    /// Brings a manifest of `from` here, with everything that it points at, to be found by digest. What is here already is
    /// not sent again.
    pub async fn copy_manifest(
        &self,
        from: &Self,
        manifest: &Manifest,
    ) -> Result<(), ImageStoreError> {
        let root = manifest.digest();
        // A stack and not recursion; an index is put only when all that it lists is here.
        let mut pending = vec![(manifest.clone(), 0, false)];
        while let Some((manifest, depth, is_complete)) = pending.pop() {
            if is_complete {
                self.push_manifest(&manifest).await?;
                continue;
            }
            if depth > NESTING_MAX {
                return Err(ImageStoreError::TooDeep(root));
            }
            if self.keeps(&manifest.digest()).await? {
                continue;
            }
            match manifest.parse()? {
                Document::Image(image) => {
                    self.copy_blobs(from, &image).await?;
                    self.push_manifest(&manifest).await?;
                }
                Document::Index(index) => {
                    pending.push((manifest, depth, true));
                    for entry in index.manifests.iter().rev() {
                        let listed = from.manifest(&entry.digest).await?;
                        let kind = Some(entry.media_type.as_str()).filter(|kind| !kind.is_empty());
                        let listed = Manifest::new(listed.bytes().clone(), kind);
                        pending.push((listed, depth + 1, false));
                    }
                }
            }
        }
        Ok(())
    }

    async fn copy_blobs(&self, from: &Self, image: &ImageManifest) -> Result<(), ImageStoreError> {
        for blob in image.layers.iter().chain([&image.config]) {
            match self.copy_blob(from, blob).await {
                // Such layers come from their maker alone, and no registry asks for them.
                Err(error) if error.is_not_found() && stays_with_its_maker(blob) => {}
                copied => copied?,
            }
        }
        Ok(())
    }
}

fn stays_with_its_maker(blob: &Descriptor) -> bool {
    let kind = blob.media_type.as_str();
    kind.contains("nondistributable") || kind.contains(".foreign.")
}
