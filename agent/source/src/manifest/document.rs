//! The parsed forms of manifests and of what they are made of.
//!
//! These are our own structs and not `oci-spec`'s, because those drop the fields they do not know.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tranship_format::Digest;
use tranship_format::annotation::ACCELERATION_LAYER;

use super::{Document, Manifest, ManifestError, Platform, media_type};

/// The only schema version that images are written in today.
const SCHEMA_VERSION: u32 = 2;

/// The annotation that names the manifest from which an image was converted: on its manifest, and on its entry in an index.
pub const SOURCE_DIGEST: &str = "containerd.io/snapshot/tranship/source-digest";
/// The type of artifact of a converted image that refers to its original.
pub const CONVERTED_TYPE: &str = "application/vnd.tranship.image.v1+json";

/// What annotation marks a manifest that speaks about another one (buildkit's attestations).
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// Points at a blob or a manifest: what, which bytes, how many.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the bytes are.
    pub media_type: String,
    /// Which bytes.
    pub digest: Digest,
    /// How many bytes.
    pub size: u64,
    /// For which platform, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// The kind of artifact, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Keys and values of anyone.
    #[serde(
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Fields that are not ours to know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Descriptor {
    /// A descriptor with nothing beyond what it must have.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            platform: None,
            artifact_type: None,
            annotations: BTreeMap::new(),
            other: Map::new(),
        }
    }

    /// Whether it points at an attestation about another manifest of the same index, and not at an image.
    pub fn is_attestation(&self) -> bool {
        self.annotations.contains_key(REFERENCE_TYPE)
            || self.platform.as_ref().is_some_and(Platform::is_unknown)
    }
}

/// One image for one platform: its configuration and its layers, lowest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageManifest {
    /// Always 2.
    pub schema_version: u32,
    /// What the document says it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The kind of artifact, if it is more than an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image configuration.
    pub config: Descriptor,
    /// Lowest layer first.
    pub layers: Vec<Descriptor>,
    /// The manifest this one refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Keys and values of anyone.
    #[serde(
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Fields that are not ours to know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl ImageManifest {
    /// A manifest in OCI's form.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            media_type: Some(media_type::OCI_MANIFEST.to_owned()),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
            other: Map::new(),
        }
    }

    /// Its media type; OCI's where it does not say.
    pub fn kind(&self) -> &str {
        self.media_type
            .as_deref()
            .unwrap_or(media_type::OCI_MANIFEST)
    }

    /// The layers that make the device of a converted image, lowest first: all but overlaybd's acceleration layer, which
    /// stands on top of them and holds a trace of reads.
    pub fn device_layers(&self) -> &[Descriptor] {
        match self.layers.split_last() {
            Some((top, below)) if is_acceleration_layer(top) && !below.is_empty() => below,
            _ => &self.layers,
        }
    }
}

fn is_acceleration_layer(layer: &Descriptor) -> bool {
    layer
        .annotations
        .get(ACCELERATION_LAYER)
        .is_some_and(|said| said == "yes")
}

/// A list of manifests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageIndex {
    /// Always 2.
    pub schema_version: u32,
    /// What the document says it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The kind of artifact, if it is more than a list of images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// In the order in which their author prefers them.
    pub manifests: Vec<Descriptor>,
    /// The manifest this index refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Keys and values of anyone.
    #[serde(
        default,
        deserialize_with = "null_is_empty",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Fields that are not ours to know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl ImageIndex {
    /// An index in OCI's form.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            media_type: Some(media_type::OCI_INDEX.to_owned()),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
            other: Map::new(),
        }
    }

    /// Its media type; OCI's where it does not say.
    pub fn kind(&self) -> &str {
        self.media_type.as_deref().unwrap_or(media_type::OCI_INDEX)
    }

    /// The image in this index that suits `wanted` best; attestations are passed over.
    pub fn select(&self, wanted: &Platform) -> Result<&Descriptor, ManifestError> {
        super::platform::select(&self.manifests, wanted)
    }
}

/// The fields by which kinds of documents are told apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: u32,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
}

/// The media type that a document gives itself, if it is a document at all.
pub(super) fn own_media_type(bytes: &Bytes) -> Option<String> {
    let shape: Shape = serde_json::from_slice(bytes).ok()?;
    shape.media_type.or_else(
        || match (shape.manifests.is_some(), shape.layers.is_some()) {
            (true, false) => Some(media_type::OCI_INDEX.to_owned()),
            (false, true) => Some(media_type::OCI_MANIFEST.to_owned()),
            (true, true) | (false, false) => None,
        },
    )
}

pub(super) fn parse(manifest: &Manifest) -> Result<Document, ManifestError> {
    let malformed = |source| ManifestError::Malformed {
        what: "manifest",
        digest: manifest.digest,
        source,
    };
    let shape: Shape = serde_json::from_slice(&manifest.bytes).map_err(malformed)?;
    let said = |is_kind: fn(&str) -> bool| {
        shape.media_type.as_deref().is_none_or(is_kind)
            && (manifest.media_type.is_empty() || is_kind(&manifest.media_type))
    };
    let has_image = shape.layers.is_some() || shape.config.is_some();
    let has_index = shape.manifests.is_some();
    if shape.schema_version == SCHEMA_VERSION {
        if has_image && !has_index && said(media_type::is_manifest) {
            return serde_json::from_slice(&manifest.bytes)
                .map(|image| Document::Image(Box::new(image)))
                .map_err(malformed);
        }
        if has_index && !has_image && said(media_type::is_index) {
            return serde_json::from_slice(&manifest.bytes)
                .map(|index| Document::Index(Box::new(index)))
                .map_err(malformed);
        }
    }
    Err(ManifestError::Ambiguous {
        digest: manifest.digest,
        media_type: manifest.media_type.clone(),
    })
}

/// Some builders write `"annotations": null`.
fn null_is_empty<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
