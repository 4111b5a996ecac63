//! What can go wrong with an image, wherever it is.

use tranship_format::Digest;

use super::NESTING_MAX;
use crate::layout::{LayoutError, LayoutFailure};
use crate::manifest::ManifestError;
use crate::registry::{RegistryError, RegistryFailure};

/// A place that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageStoreError {
    /// A registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A document in it.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Indexes within indexes without an image in sight.
    #[error("manifest {0} lists indexes in more than {NESTING_MAX} levels")]
    TooDeep(Digest),
    /// A blob whose length is not the one its descriptor gives.
    #[error("blob {digest} has {got} bytes where its descriptor says {wanted}")]
    WrongLength {
        /// The blob.
        digest: Digest,
        /// Bytes its descriptor gives.
        wanted: u64,
        /// Bytes it has.
        got: u64,
    },
}

impl ImageStoreError {
    /// Whether what was asked for is simply not there.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Registry(error) => matches!(error.failure(), RegistryFailure::NotFound(_)),
            Self::Layout(error) => matches!(
                error.failure(),
                LayoutFailure::NoSuchImage { .. } | LayoutFailure::NoSuchBlob(_)
            ),
            Self::Manifest(error) => matches!(error, ManifestError::NoSuchPlatform { .. }),
            Self::TooDeep(_) | Self::WrongLength { .. } => false,
        }
    }
}
