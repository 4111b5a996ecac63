//! System tests: every part real, in its own process, against other people's tools.
//!
//! One binary with a module a subject. They need root, since images have owners and devices, and mounts are
//! what is tested; run them one at a time (`--test-threads=1`), since each uses the whole machine.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that cannot go on should stop, with the place named; what was measured is shown"
)]

mod bench;
mod containerd;
mod convert;
mod demo;
mod devices;
mod disk;
mod faults;
mod foreign;
mod graduation;
mod guests;
mod hanging;
mod image;
mod midway;
mod node;
mod restart;
mod stock;
mod swarm;
mod systemd;

/// The encoder of overlaybd's formats that the format's own tests use.
#[path = "../../format/tests/stock/encoder.rs"]
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "one file for two crates of tests, of which this one needs a part"
)]
mod encoder;
