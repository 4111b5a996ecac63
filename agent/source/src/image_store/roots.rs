//! All that a place holds under names: where one looks for what was made there before.

use super::{ImageStore, ImageStoreError};
use crate::manifest::Manifest;
use crate::reference::ManifestSelector;

impl ImageStore {
    /// The manifests and indexes that have a name here, at most `limit` of them: what the reference names first, then the
    /// others from the last one on, since names are mostly given in a rising order. What cannot be read is left out.
    pub async fn roots(&self, limit: usize) -> Result<Vec<Manifest>, ImageStoreError> {
        let mut roots: Vec<Manifest> = Vec::new();
        let add = |roots: &mut Vec<Manifest>, manifest: Manifest| {
            if roots
                .iter()
                .all(|known| known.digest() != manifest.digest())
            {
                roots.push(manifest);
            }
        };
        if let Ok(named) = self.root().await {
            add(&mut roots, named);
        }
        match self {
            Self::Registry { client, reference } => {
                let tags = match client.tags(&reference.repo).await {
                    Ok(tags) => tags,
                    Err(error) => {
                        let error = ImageStoreError::from(error);
                        if error.is_not_found() {
                            return Ok(roots);
                        }
                        return Err(error);
                    }
                };
                for tag in tags.into_iter().rev().take(limit) {
                    let which = ManifestSelector::Tag(tag);
                    if let Ok(manifest) = client.manifest(&reference.repo, &which).await {
                        add(&mut roots, manifest);
                    }
                }
            }
            Self::Layout { layout, .. } => {
                for entry in layout.images().await?.into_iter().rev().take(limit) {
                    let which = ManifestSelector::Digest(entry.digest);
                    if let Ok(manifest) = layout.manifest(Some(&which)).await {
                        add(&mut roots, manifest);
                    }
                }
            }
        }
        roots.truncate(limit);
        Ok(roots)
    }
}
