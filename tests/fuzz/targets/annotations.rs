//! The annotations of a layer: one value a line, an empty line for a key that is not there.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use tranship_format::LayerAnnotations;
use tranship_format::annotation::{
    BLOB_DIGEST, BLOB_FS_TYPE, BLOB_SIZE, CHUNKS_DIGEST, CHUNKS_OFFSET, CHUNKS_SIZE,
    OVERLAYBD_VERSION, VERSION,
};

const KEYS: [&str; 8] = [
    BLOB_DIGEST,
    BLOB_SIZE,
    BLOB_FS_TYPE,
    OVERLAYBD_VERSION,
    VERSION,
    CHUNKS_DIGEST,
    CHUNKS_OFFSET,
    CHUNKS_SIZE,
];

fuzz_target!(|data: &str| {
    let map: BTreeMap<String, String> = KEYS
        .iter()
        .zip(data.split('\n'))
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| ((*key).to_owned(), value.to_owned()))
        .collect();
    if let Ok(Some(read)) = LayerAnnotations::from_map(&map) {
        if let Some(chunks) = read.chunks {
            assert!(chunks.range().end <= read.blob_size);
        }
        assert_eq!(LayerAnnotations::from_map(&read.to_map()), Ok(Some(read)));
    }
});
