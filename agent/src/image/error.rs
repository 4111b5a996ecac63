//! Why an image does not open, with what to do about it.

use std::io;

use tranship_format::annotation::AnnotationError;
use tranship_format::{DecodeError, Digest, OpenLayerError};
use tranship_source::ParseReferenceError;
use tranship_source::manifest::ManifestError;
use tranship_source::registry::{RegistryError, RegistryFailure};
use tranship_store::StoreError;

/// Why an image does not open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenImageError {
    /// The reference cannot be read.
    #[error("{reference:?} is no reference of an image")]
    Reference {
        /// What was given.
        reference: String,
        /// What is wrong with it.
        #[source]
        source: ParseReferenceError,
    },
    /// The reference names an image that is not in a registry.
    #[error(
        "{reference:?} is not in a registry, and devices are made of images in registries only"
    )]
    NotInRegistry {
        /// What was given.
        reference: String,
    },
    /// The manifest could not be read, and this node has no earlier copy of it.
    #[error("the manifest of {reference} could not be read")]
    Resolve {
        /// The image.
        reference: String,
        /// What the registry said.
        #[source]
        source: RegistryError,
    },
    /// The manifest is not one.
    #[error("the manifest of {reference} cannot be used")]
    Manifest {
        /// The image.
        reference: String,
        /// What is wrong with it.
        #[source]
        source: Box<ManifestError>,
    },
    /// Its layers are tars: it was never converted.
    #[error("{reference} is not made of block-device layers")]
    NotConverted {
        /// The image.
        reference: String,
    },
    /// A layer's annotations contradict themselves.
    #[error("the annotations of layer {layer} of {reference} cannot be used")]
    Annotations {
        /// The image.
        reference: String,
        /// The layer's number, the bottom one 0.
        layer: usize,
        /// What is wrong with them.
        #[source]
        source: AnnotationError,
    },
    /// A chunk table could not be read.
    #[error("the chunk table of blob {blob} could not be read")]
    ReadTable {
        /// The layer's blob.
        blob: Digest,
        /// What the registry said.
        #[source]
        source: RegistryError,
    },
    /// A chunk table is not the one that the manifest names.
    #[error("the chunk table of blob {blob} has digest {found}, and the manifest says {wanted}")]
    WrongTable {
        /// The layer's blob.
        blob: Digest,
        /// What the manifest says.
        wanted: Digest,
        /// What came.
        found: Digest,
    },
    /// A chunk table has the right digest and is not one.
    #[error("the chunk table of blob {blob} cannot be read")]
    BadTable {
        /// The layer's blob.
        blob: Digest,
        /// What is wrong with it.
        #[source]
        source: DecodeError,
    },
    /// A blob without a chunk table could not be read whole.
    #[error("blob {blob} could not be read whole")]
    ReadWhole {
        /// The layer's blob.
        blob: Digest,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The store does not take a blob.
    #[error("the store does not take a blob of {reference}")]
    Store {
        /// The image.
        reference: String,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// A layer is not what it should be, or its bytes cannot be had.
    #[error("the layers of {reference} do not open")]
    Layer {
        /// The image.
        reference: String,
        /// Why.
        #[source]
        source: OpenLayerError,
    },
    /// The HTTP client does not start.
    #[error("the registry client does not start")]
    Client(#[source] Box<RegistryFailure>),
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
}

impl OpenImageError {
    /// What to do about it; empty when there is nothing to say.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Reference { .. } | Self::NotInRegistry { .. } => {
                "name it as HOST/REPOSITORY:TAG or HOST/REPOSITORY@sha256:…"
            }
            Self::Resolve { source, .. } | Self::ReadTable { source, .. } => match source.failure()
            {
                RegistryFailure::NotFound(_) => {
                    "check the reference; is the image pushed, and the tag spelled right?"
                }
                RegistryFailure::Unauthorized(_) | RegistryFailure::Denied(_) => {
                    "log in to the registry and point registry.docker_config at the file with the credentials"
                }
                RegistryFailure::Tls { .. } => {
                    "if the registry speaks plain HTTP, put its host and port into registry.plain_http"
                }
                _ => "is the registry reachable from this node?",
            },
            Self::NotConverted { .. } => "convert it first: tranship convert SOURCE DESTINATION",
            Self::WrongTable { .. } | Self::BadTable { .. } => {
                "the registry gave bytes that the manifest does not vouch for; convert and push the image again, and look into that registry"
            }
            Self::Store { .. } => {
                "is another image with the same layers attached, or the disk full?"
            }
            Self::Manifest { .. }
            | Self::Annotations { .. }
            | Self::ReadWhole { .. }
            | Self::Layer { .. }
            | Self::Client(_)
            | Self::Stopping => "",
        }
    }

    /// Whose fault it is, as an HTTP status: the caller's, the registry's, or this node's.
    pub fn status(&self) -> u16 {
        match self {
            Self::Reference { .. } | Self::NotInRegistry { .. } => 400,
            Self::Resolve { source, .. } | Self::ReadTable { source, .. } => match source.failure()
            {
                RegistryFailure::NotFound(_) => 404,
                RegistryFailure::Unauthorized(_) | RegistryFailure::Denied(_) => 403,
                _ => 502,
            },
            Self::Manifest { .. }
            | Self::NotConverted { .. }
            | Self::Annotations { .. }
            | Self::Layer { .. } => 422,
            Self::WrongTable { .. } | Self::BadTable { .. } | Self::ReadWhole { .. } => 502,
            Self::Store { .. } => 507,
            Self::Client(_) => 500,
            Self::Stopping => 503,
        }
    }
}
