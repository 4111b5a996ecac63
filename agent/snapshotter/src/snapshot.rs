//! What is known of one snapshot.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The label with which containerd asks whether a snapshot can be had without unpacking its layer; its value is the
/// snapshot's name for containerd, the chain of the layers' digests.
pub(crate) const REF_LABEL: &str = "containerd.io/snapshot.ref";

/// What may be done with a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Looked at, and never changed.
    View,
    /// Written to, by a container or by whoever unpacks a layer.
    Active,
    /// Finished; others stand on it.
    Committed,
}

/// What a snapshot takes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes of blocks.
    pub len: u64,
    /// Files and folders.
    pub inode_count: u64,
}

/// The bottom `layer_count` layers of a converted image, which are shown and not unpacked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LazyLayers {
    /// The image as containerd was asked for it.
    pub reference: String,
    /// The digest of the converted image's manifest.
    pub manifest: String,
    /// How many of its layers, from the bottom.
    pub layer_count: u32,
}

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Names its folder; never used twice.
    pub id: u64,
    /// The name by which containerd's metadata knows it.
    pub name: String,
    /// The name of the one it stands on; empty for none.
    pub parent: String,
    /// What may be done with it.
    pub kind: Kind,
    /// Keys and values of others.
    pub labels: BTreeMap<String, String>,
    /// When it was made, since 1970.
    pub created_at: Duration,
    /// When it was last changed, since 1970.
    pub updated_at: Duration,
    /// What it takes itself, once it is committed.
    pub usage: Usage,
    /// Where its files come from, if nobody unpacked it.
    pub lazy: Option<LazyLayers>,
}

impl Snapshot {
    /// A snapshot that is being made.
    pub(crate) fn new(id: u64, name: &str, parent: &str, kind: Kind) -> Self {
        let now = now();
        Self {
            id,
            name: name.to_owned(),
            parent: parent.to_owned(),
            kind,
            labels: BTreeMap::new(),
            created_at: now,
            updated_at: now,
            usage: Usage::default(),
            lazy: None,
        }
    }
}

/// Since 1970; a clock that stands before that counts as standing there.
pub(crate) fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
