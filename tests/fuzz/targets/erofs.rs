//! The filesystem: any device.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tranship_fuzz::read_filesystem;

fuzz_target!(|data: &[u8]| {
    let _ = read_filesystem(data);
});
