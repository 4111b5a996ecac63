//! A kernel that says anything to a FUSE server, and memory of a predecessor that holds anything: what is answered is a reply.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    tranship_device::fuzz::fuse_requests(bytes);
});
