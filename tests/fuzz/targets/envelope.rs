//! The tar envelope: any three headers in front of a layer file that is right.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tranship_fuzz::{mend_tar, read_layer};

static INNER: LazyLock<Vec<u8>> =
    LazyLock::new(|| include_bytes!("../corpus/lsmt/plain-layer-file").to_vec());

fuzz_target!(|data: &[u8]| {
    let mut blob = [data, INNER.as_slice(), &[0; 1024]].concat();
    mend_tar(&mut blob);
    let _ = read_layer(&blob);
});
