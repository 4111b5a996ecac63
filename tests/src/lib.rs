//! The harness of the system tests: real registries, real images, real processes.
//!
//! Everything here owns what it starts: dropping a value ends its processes, mounts and folders, so that a
//! test that fails leaves the machine as it found it.

#![expect(
    clippy::missing_panics_doc,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unnecessary_debug_formatting,
    reason = "a harness that cannot do its part should stop the test at once, with the place named; paths are shown quoted, since names are odd on purpose"
)]

pub mod awkward;
pub mod call_relay;
pub mod cluster;
pub mod command;
pub mod compare;
pub mod containerd;
pub mod debian;
pub mod events;
pub mod gate;
pub mod guest;
pub mod independent;
pub mod layout;
pub mod leftovers;
pub mod node;
pub mod pods;
pub mod registry;
pub mod relay;
pub mod snapshots;
pub mod stock;
pub mod systemd;
pub mod web;

pub use cluster::{Agent, AgentOptions, Cluster, Tracker};
pub use command::{binary, need_tools, run, tranship};
pub use guest::{Guest, Kernel};
pub use node::Node;
pub use relay::Relay;
pub use systemd::Systemd;
