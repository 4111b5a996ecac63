//! OCI documents: image manifests, image indexes, image configurations.
//!
//! A document is known by the digest of its bytes, so the bytes as they came are kept and are what is
//! pushed, copied and verified; the parsed form is a view. Fields we do not know stay in `other`, so that a
//! document which is changed and written again loses nothing that somebody else put there.

use bytes::Bytes;
use tranship_format::Digest;

mod config;
mod document;
pub mod media_type;
mod platform;

pub use config::{ImageConfig, RootFs};
pub use document::{CONVERTED_TYPE, Descriptor, ImageIndex, ImageManifest, SOURCE_DIGEST};
pub use platform::{ParsePlatformError, Platform};

/// The longest manifest or index that is read or written, in bytes: the size every registry must accept.
pub const MANIFEST_LEN_MAX: u64 = 4 << 20;

/// One manifest or index: its bytes, what they are said to be, and their digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    bytes: Bytes,
    media_type: String,
    digest: Digest,
}

/// A parsed manifest.
#[derive(Clone, Debug, PartialEq)]
pub enum Document {
    /// One image for one platform.
    Image(Box<ImageManifest>),
    /// A list of manifests, usually one a platform.
    Index(Box<ImageIndex>),
}

/// A document that cannot be used as what it claims to be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not JSON, or fields of the wrong kind.
    #[error("{what} {digest} is not well formed")]
    Malformed {
        /// Kind of document.
        what: &'static str,
        /// Digest of its bytes.
        digest: Digest,
        /// What the parser found.
        #[source]
        source: serde_json::Error,
    },
    /// Both an image and an index, or neither: readers would differ about what it is, which attacks use.
    #[error(
        "manifest {digest} (media type {media_type:?}) is neither plainly an image manifest nor plainly an image index"
    )]
    Ambiguous {
        /// Digest of its bytes.
        digest: Digest,
        /// What the registry or the descriptor called it.
        media_type: String,
    },
    /// An image index where an image was needed, or the other way round.
    #[error("manifest {digest} is {found}, not {wanted}")]
    WrongKind {
        /// Digest of its bytes.
        digest: Digest,
        /// What it is.
        found: &'static str,
        /// What was needed.
        wanted: &'static str,
    },
    /// The index has no image for the platform asked for.
    #[error("the image index holds no image for {wanted}; it offers {offered}")]
    NoSuchPlatform {
        /// Platform asked for.
        wanted: String,
        /// Platforms in the index, for people.
        offered: String,
    },
    /// The document could not be written.
    #[error("could not write {what} as JSON")]
    Encode {
        /// Kind of document.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl Manifest {
    /// A manifest of these bytes; the digest is computed here, so it is always right.
    ///
    /// `media_type` is what a header or a descriptor said, or nothing, and then the document's own
    /// `mediaType` counts.
    pub fn new(bytes: Bytes, media_type: Option<&str>) -> Self {
        let media_type = media_type
            .map(str::to_owned)
            .or_else(|| document::own_media_type(&bytes))
            .unwrap_or_default();
        let digest = Digest::of(&bytes);
        Self {
            bytes,
            media_type,
            digest,
        }
    }

    /// Writes an image manifest.
    pub fn from_image(image: &ImageManifest) -> Result<Self, ManifestError> {
        let bytes = encode("image manifest", image)?;
        Ok(Self::new(bytes, Some(image.kind())))
    }

    /// Writes an image index.
    pub fn from_index(index: &ImageIndex) -> Result<Self, ManifestError> {
        let bytes = encode("image index", index)?;
        Ok(Self::new(bytes, Some(index.kind())))
    }

    /// The document as it came.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What it is said to be; empty if nobody said.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// The digest of [`bytes`](Self::bytes).
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// A descriptor that points at this manifest.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(&self.media_type, self.digest, self.bytes.len() as u64)
    }

    /// A descriptor for lists of what refers to another manifest: with the kind of artifact and the annotations, so that one
    /// can choose without reading each.
    pub fn referrer_descriptor(&self) -> Descriptor {
        let mut descriptor = self.descriptor();
        match self.parse() {
            Ok(Document::Image(image)) => {
                let kind = image.artifact_type.unwrap_or(image.config.media_type);
                descriptor.artifact_type = Some(kind);
                descriptor.annotations = image.annotations;
            }
            Ok(Document::Index(index)) => {
                descriptor.artifact_type = index.artifact_type;
                descriptor.annotations = index.annotations;
            }
            Err(_) => {}
        }
        descriptor
    }

    /// The digest of the manifest that it refers to, if it refers to one.
    pub fn subject(&self) -> Option<Digest> {
        let subject = match self.parse().ok()? {
            Document::Image(image) => image.subject,
            Document::Index(index) => index.subject,
        };
        subject.map(|subject| subject.digest)
    }

    /// Parses it, as whichever kind it is.
    pub fn parse(&self) -> Result<Document, ManifestError> {
        document::parse(self)
    }

    /// Parses it, and it must be an image manifest.
    pub fn image(&self) -> Result<ImageManifest, ManifestError> {
        match self.parse()? {
            Document::Image(image) => Ok(*image),
            Document::Index(_) => Err(ManifestError::WrongKind {
                digest: self.digest,
                found: "an image index",
                wanted: "an image manifest",
            }),
        }
    }

    /// Parses it, and it must be an image index.
    pub fn index(&self) -> Result<ImageIndex, ManifestError> {
        match self.parse()? {
            Document::Index(index) => Ok(*index),
            Document::Image(_) => Err(ManifestError::WrongKind {
                digest: self.digest,
                found: "an image manifest",
                wanted: "an image index",
            }),
        }
    }
}

fn encode(what: &'static str, value: &impl serde::Serialize) -> Result<Bytes, ManifestError> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|source| ManifestError::Encode { what, source })
}

#[cfg(test)]
mod tests;
