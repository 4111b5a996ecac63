//! What a layer's descriptor says of its blob: overlaybd's annotations and ours.
//!
//! They are the middle link of the chain of trust: the manifest's digest covers them, and they name the digest of the chunk
//! table. Keys under `containerd.io/snapshot/` are those that containerd hands to a snapshotter.

use std::collections::BTreeMap;

use crate::address::ByteRange;
use crate::chunk::{MAX_TABLE_LEN, TABLE_HEADER_LEN};
use crate::digest::{Digest, ParseDigestError};

/// The blob's digest, equal to the descriptor's. Its presence is what marks an overlaybd layer.
pub const BLOB_DIGEST: &str = "containerd.io/snapshot/overlaybd/blob-digest";
/// The blob's length in bytes, decimal.
pub const BLOB_SIZE: &str = "containerd.io/snapshot/overlaybd/blob-size";
/// The filesystem on the device.
pub const BLOB_FS_TYPE: &str = "containerd.io/snapshot/overlaybd/blob-fs-type";
/// overlaybd's version of the layer format.
pub const OVERLAYBD_VERSION: &str = "containerd.io/snapshot/overlaybd/version";
/// `yes` on a topmost layer that holds a recorded trace of reads, and nothing of the device.
pub const ACCELERATION_LAYER: &str = "containerd.io/snapshot/overlaybd/acceleration-layer";
/// Version of what stands under our keys.
pub const VERSION: &str = "containerd.io/snapshot/tranship/version";
/// SHA-256 digest of the chunk table's bytes.
pub const CHUNKS_DIGEST: &str = "containerd.io/snapshot/tranship/chunks-digest";
/// Where in the blob the chunk table begins, in bytes, decimal.
pub const CHUNKS_OFFSET: &str = "containerd.io/snapshot/tranship/chunks-offset";
/// Length of the chunk table in bytes, decimal.
pub const CHUNKS_SIZE: &str = "containerd.io/snapshot/tranship/chunks-size";

/// Keys that only `TurboOCI` layers have begin so; the second kind is the name that the form had before.
const TURBO_PREFIXES: [&str; 2] = [
    "containerd.io/snapshot/overlaybd/turbo-oci/",
    "containerd.io/snapshot/overlaybd/fastoci/",
];

/// The version that overlaybd's converters write on native layers.
const OVERLAYBD_NATIVE: &str = "0.1.0";
/// The one version of our keys.
const CURRENT: &str = "1";
/// What overlaybd takes the filesystem for when nothing is said.
const DEFAULT_FS_TYPE: &str = "ext4";

/// Where the chunk table lies in a blob, and the digest of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkTableRef {
    /// SHA-256 of the table's bytes.
    pub digest: Digest,
    /// Where they begin in the blob, in bytes; also the length that the chunks cover.
    pub offset: u64,
    /// How many there are.
    pub len: u64,
}

impl ChunkTableRef {
    /// Which bytes of the blob the table is.
    pub fn range(&self) -> ByteRange {
        ByteRange::new(self.offset, self.offset.saturating_add(self.len))
    }
}

/// What a layer's annotations say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerAnnotations {
    /// Digest of the whole blob.
    pub blob_digest: Digest,
    /// Length of the whole blob in bytes.
    pub blob_size: u64,
    /// The filesystem on the device, for example `erofs` or `ext4`; overlaybd may add mount options after a `;`.
    pub fs_type: String,
    /// overlaybd's version of the layer format, `0.1.0` for all native layers so far.
    pub overlaybd_version: String,
    /// The chunk table, if the blob carries one.
    pub chunks: Option<ChunkTableRef>,
}

impl LayerAnnotations {
    /// Annotations of a layer that this software wrote.
    pub fn new(
        blob_digest: Digest,
        blob_size: u64,
        fs_type: impl Into<String>,
        chunks: ChunkTableRef,
    ) -> Self {
        let overlaybd_version = OVERLAYBD_NATIVE.to_owned();
        Self {
            blob_digest,
            blob_size,
            fs_type: fs_type.into(),
            overlaybd_version,
            chunks: Some(chunks),
        }
    }

    /// The filesystem's name alone, without overlaybd's mount and mkfs options.
    pub fn fs_name(&self) -> &str {
        self.fs_type.split(';').next().unwrap_or(&self.fs_type)
    }

    /// Reads them from a descriptor's annotations (any string map); `None` if the layer is not of overlaybd's kind.
    ///
    /// Layers without our keys, as overlaybd's converters write them, have no chunk table.
    ///
    /// # Errors
    /// If a key that is there does not hold what it must, or the layer is of a kind that is not read here.
    pub fn from_map<'a>(
        map: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Result<Option<Self>, AnnotationError> {
        let map: BTreeMap<&str, &str> = map
            .into_iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        refuse_turbo(&map)?;
        let Some(blob_digest) = map.get(BLOB_DIGEST) else {
            return Ok(None);
        };
        let blob_digest = parse_digest(BLOB_DIGEST, blob_digest)?;
        let blob_size = required_number(&map, BLOB_SIZE)?;
        let fs_type = map
            .get(BLOB_FS_TYPE)
            .copied()
            .unwrap_or(DEFAULT_FS_TYPE)
            .to_owned();
        let overlaybd_version = map
            .get(OVERLAYBD_VERSION)
            .copied()
            .unwrap_or(OVERLAYBD_NATIVE)
            .to_owned();
        let chunks = chunk_table_ref(&map, blob_size)?;
        Ok(Some(Self {
            blob_digest,
            blob_size,
            fs_type,
            overlaybd_version,
            chunks,
        }))
    }

    /// The annotations as a descriptor holds them.
    pub fn to_map(&self) -> BTreeMap<String, String> {
        let mut map = BTreeMap::new();
        let mut put = |key: &str, value: String| map.insert(key.to_owned(), value);
        put(BLOB_DIGEST, self.blob_digest.to_string());
        put(BLOB_SIZE, self.blob_size.to_string());
        put(BLOB_FS_TYPE, self.fs_type.clone());
        put(OVERLAYBD_VERSION, self.overlaybd_version.clone());
        if let Some(chunks) = &self.chunks {
            put(VERSION, CURRENT.to_owned());
            put(CHUNKS_DIGEST, chunks.digest.to_string());
            put(CHUNKS_OFFSET, chunks.offset.to_string());
            put(CHUNKS_SIZE, chunks.len.to_string());
        }
        map
    }
}

/// A `TurboOCI` layer is not a device's bytes but an index over another layer's tar: read as a native one, it would show
/// garbage.
fn refuse_turbo(map: &BTreeMap<&str, &str>) -> Result<(), AnnotationError> {
    let version = map.get(OVERLAYBD_VERSION).copied().unwrap_or_default();
    let by_version = (version.contains("turbo") || version.contains("fastoci"))
        .then_some((OVERLAYBD_VERSION, version));
    let by_key = || {
        let is_turbo = |key: &str| TURBO_PREFIXES.iter().any(|prefix| key.starts_with(prefix));
        map.iter()
            .find(|(key, _)| is_turbo(key))
            .map(|(key, value)| (*key, *value))
    };
    match by_version.or_else(by_key) {
        Some((key, value)) => Err(AnnotationError::TurboOci {
            key: short(key),
            value: short(value),
        }),
        None => Ok(()),
    }
}

/// The three keys of the chunk table. All of them or none: a layer that names half a table is damaged, and reading it
/// without proof because of that would be what whoever damaged it wants.
fn chunk_table_ref(
    map: &BTreeMap<&str, &str>,
    blob_size: u64,
) -> Result<Option<ChunkTableRef>, AnnotationError> {
    if ![VERSION, CHUNKS_DIGEST, CHUNKS_OFFSET, CHUNKS_SIZE]
        .iter()
        .any(|key| map.contains_key(key))
    {
        return Ok(None);
    }
    let version = required(map, VERSION)?;
    if version != CURRENT {
        return Err(AnnotationError::Unsupported {
            key: VERSION,
            value: short(version),
        });
    }
    let digest = parse_digest(CHUNKS_DIGEST, required(map, CHUNKS_DIGEST)?)?;
    let offset = required_number(map, CHUNKS_OFFSET)?;
    let len = required_number(map, CHUNKS_SIZE)?;
    let within = offset.checked_add(len).is_some_and(|end| end <= blob_size);
    if !within || len < TABLE_HEADER_LEN as u64 || len > MAX_TABLE_LEN {
        return Err(AnnotationError::OutOfBounds {
            offset,
            len,
            blob_size,
        });
    }
    Ok(Some(ChunkTableRef {
        digest,
        offset,
        len,
    }))
}

fn required<'a>(
    map: &BTreeMap<&str, &'a str>,
    key: &'static str,
) -> Result<&'a str, AnnotationError> {
    map.get(key)
        .copied()
        .ok_or(AnnotationError::Missing { key })
}

fn required_number(map: &BTreeMap<&str, &str>, key: &'static str) -> Result<u64, AnnotationError> {
    let value = required(map, key)?;
    let digits_only = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    digits_only
        .then(|| value.parse().ok())
        .flatten()
        .ok_or_else(|| AnnotationError::NotANumber {
            key,
            value: short(value),
        })
}

fn parse_digest(key: &'static str, value: &str) -> Result<Digest, AnnotationError> {
    value
        .parse()
        .map_err(|source| AnnotationError::NotADigest { key, source })
}

/// Enough of an outsider's text for a message.
fn short(text: &str) -> String {
    text.chars().take(100).collect()
}

/// Annotations that mark an overlaybd layer and do not hold together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnnotationError {
    /// A key is not there although another needs it.
    #[error("annotation {key} is missing")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A value is not a decimal number of at most 64 bits.
    #[error("annotation {key} is {value:?}, not a decimal number")]
    NotANumber {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// A value is not a digest.
    #[error("annotation {key} is not a digest")]
    NotADigest {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        #[source]
        source: ParseDigestError,
    },
    /// A version or kind that is not read here.
    #[error("annotation {key} is {value:?}, which is not supported")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// A `TurboOCI` layer: an index over another layer, not a device's bytes.
    #[error(
        "annotation {key} is {value:?}: TurboOCI layers are not supported, convert the original image instead"
    )]
    TurboOci {
        /// The key that gives it away.
        key: String,
        /// Its value.
        value: String,
    },
    /// The chunk table is not within the blob, or of an impossible length.
    #[error(
        "the chunk table of {len} bytes at {offset} cannot be within a blob of {blob_size} bytes"
    )]
    OutOfBounds {
        /// Where it is said to begin.
        offset: u64,
        /// How long it is said to be.
        len: u64,
        /// Length of the blob.
        blob_size: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> LayerAnnotations {
        let chunks = ChunkTableRef {
            digest: Digest::of(b"table"),
            offset: 4096,
            len: 68,
        };
        LayerAnnotations::new(Digest::of(b"blob"), 8192, "erofs", chunks)
    }

    #[test]
    fn annotations_come_back_as_they_were() {
        let map = ours().to_map();
        assert_eq!(LayerAnnotations::from_map(&map), Ok(Some(ours())));
        let hashed: std::collections::HashMap<_, _> = map.into_iter().collect();
        assert_eq!(LayerAnnotations::from_map(&hashed), Ok(Some(ours())));
    }

    #[test]
    fn a_flipped_bit_in_a_value_is_refused_or_says_something_else() {
        for (key, value) in ours().to_map() {
            for bit in 0..value.len() * 8 {
                let mut bytes = value.clone().into_bytes();
                bytes[bit / 8] ^= 1 << (bit % 8);
                let Ok(flipped) = String::from_utf8(bytes) else {
                    continue;
                };
                let mut map = ours().to_map();
                map.insert(key.clone(), flipped);
                let read = LayerAnnotations::from_map(&map);
                assert_ne!(read, Ok(Some(ours())), "bit {bit} of {key}");
            }
        }
    }

    #[test]
    fn a_layer_of_another_kind_is_none_of_ours() {
        let other = BTreeMap::from([("org.example".to_owned(), "x".to_owned())]);
        assert_eq!(LayerAnnotations::from_map(&other), Ok(None));
    }

    #[test]
    fn a_stock_layer_has_no_chunk_table() {
        let mut map = LayerAnnotations {
            chunks: None,
            ..ours()
        }
        .to_map();
        map.insert(
            BLOB_FS_TYPE.to_owned(),
            "ext4;noatime;-O ^has_journal".to_owned(),
        );
        let read = LayerAnnotations::from_map(&map).unwrap().unwrap();
        assert_eq!((read.chunks, read.fs_name()), (None, "ext4"));
        map.remove(BLOB_FS_TYPE);
        map.remove(OVERLAYBD_VERSION);
        assert_eq!(
            LayerAnnotations::from_map(&map).unwrap().unwrap().fs_type,
            "ext4"
        );
    }

    #[test]
    fn a_missing_or_broken_key_is_refused() {
        for key in [
            BLOB_SIZE,
            VERSION,
            CHUNKS_DIGEST,
            CHUNKS_OFFSET,
            CHUNKS_SIZE,
        ] {
            let mut map = ours().to_map();
            map.remove(key);
            assert_eq!(
                LayerAnnotations::from_map(&map),
                Err(AnnotationError::Missing { key })
            );
            for broken in ["", "x", "-1", "+1", "18446744073709551616"] {
                map.insert(key.to_owned(), broken.to_owned());
                assert!(LayerAnnotations::from_map(&map).is_err(), "{key} {broken}");
            }
        }
    }

    #[test]
    fn a_table_outside_its_blob_is_refused() {
        for (offset, len) in [(8192, 68), (u64::MAX, 68), (0, 31), (0, u64::MAX)] {
            let chunks = ChunkTableRef {
                digest: Digest::of(b""),
                offset,
                len,
            };
            let map = LayerAnnotations {
                chunks: Some(chunks),
                ..ours()
            }
            .to_map();
            assert!(matches!(
                LayerAnnotations::from_map(&map),
                Err(AnnotationError::OutOfBounds { .. })
            ));
        }
    }

    #[test]
    fn turbo_layers_are_named_and_refused() {
        let map = LayerAnnotations {
            overlaybd_version: "0.1.0-turbo.ociv1".to_owned(),
            ..ours()
        }
        .to_map();
        assert!(matches!(
            LayerAnnotations::from_map(&map),
            Err(AnnotationError::TurboOci { .. })
        ));
    }
}
