//! The image configuration, as far as distribution needs it.
//!
//! Entry point, environment and history are the runtime's business: they stay in `other`, untouched.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tranship_format::Digest;

use super::{ManifestError, encode};

/// An image configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Processor architecture, in Go's names.
    pub architecture: String,
    /// Operating system, in Go's names.
    pub os: String,
    /// The layers' uncompressed digests.
    pub rootfs: RootFs,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What a root filesystem is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digest of each layer's uncompressed tar, lowest first.
    pub diff_ids: Vec<Digest>,
}

impl ImageConfig {
    /// Parses a configuration blob whose digest was verified.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        serde_json::from_slice(bytes).map_err(|source| ManifestError::Malformed {
            what: "image configuration",
            digest: Digest::of(bytes),
            source,
        })
    }

    /// Writes it.
    pub fn encode(&self) -> Result<Bytes, ManifestError> {
        encode("image configuration", self)
    }
}
