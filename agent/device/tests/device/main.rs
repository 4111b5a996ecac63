//! Front ends against the kernel and against independent clients.
//!
//! Most of it needs root and parts of the kernel; what cannot be tried on a machine says so on standard error.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::host_endian_bytes,
    clippy::print_stderr,
    reason = "a test stops at the first surprise, and says what it leaves out"
)]

mod crash;
mod doomed;
mod fuse_file;
mod ground;
mod keeper;
mod keeper_versions;
mod kernel_nbd;
mod loop_device;
mod mounts;
mod nbd_server;
mod ublk;
mod vhost_user;
