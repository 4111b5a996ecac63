//! The layer file in compressed blocks: header, block table, blocks and trailer, with and without the tar envelope.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tranship_fuzz::read_layer;

fuzz_target!(|data: &[u8]| {
    let _ = read_layer(data);
});
