//! A front end and a guest of the vhost-user server that say anything: the first byte says which of the two it is.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match bytes.split_first() {
        Some((0, messages)) => tranship_device::fuzz::vhost_user_messages(messages),
        Some((_, memory)) => tranship_device::fuzz::vhost_user_ring(memory),
        None => {}
    }
});
