//! The layer file without compression: header, index and trailer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tranship_fuzz::read_layer;

fuzz_target!(|data: &[u8]| {
    let _ = read_layer(data);
});
