//! The daemon as its own process, against a scripted registry on this machine: images become devices, devices become
//! mounts, and what is killed comes back. Needs root, for FUSE, loop devices and mounts.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

mod daemon;
mod devices;
mod image;
mod opening;
mod proofs;
mod refusals;
mod registry;
mod restart;
mod settings;
mod sockets;
mod versions;
