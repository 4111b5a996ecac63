//! A client of the NBD server that says anything: options, and requests if it gets as far.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    tranship_device::fuzz::nbd_client(bytes);
});
