//! What refers to an image in the same place: conversions, signatures, bills of materials.

use tranship_format::Digest;

use super::{ImageStore, ImageStoreError};
use crate::manifest::{Descriptor, Manifest};

impl ImageStore {
    /// What refers to the manifest `subject` here; with `artifact_type` only what is of that type. Anybody who may push here
    /// may add to it, and nothing that one trusts `subject` for covers it.
    pub async fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, ImageStoreError> {
        Ok(match self {
            Self::Registry { client, reference } => {
                client
                    .referrers(&reference.repo, subject, artifact_type)
                    .await?
            }
            Self::Layout { layout, .. } => {
                let mut found = layout.referrers(subject).await?;
                if let Some(wanted) = artifact_type {
                    found.retain(|entry| entry.artifact_type.as_deref() == Some(wanted));
                }
                found
            }
        })
    }

    /// Puts a manifest here that refers to another one, under the reference's name too if it is to have one.
    pub async fn push_referrer(
        &self,
        manifest: &Manifest,
        is_named: bool,
    ) -> Result<(), ImageStoreError> {
        match self {
            Self::Registry { client, reference } => {
                client.push_referrer(&reference.repo, manifest).await?;
                if is_named {
                    self.push_root(manifest).await?;
                }
            }
            Self::Layout { layout, reference } => {
                let name = reference.tag.as_deref().filter(|_| is_named);
                layout.push_referrer(manifest, name).await?;
            }
        }
        Ok(())
    }
}
