//! The daemon of a node: it owns the store, takes part in the swarm, and turns image references into devices and mounts.
//!
//! Everything here is composition. What a layer is stands in `format`, what is on this disk in `store`, whom to ask in
//! `swarm`, how to ask in `source`, and how the kernel sees the answer in `device`; this crate ties them together, and
//! is the only one that knows the configuration file and the environment.

#![forbid(unsafe_code)]

mod agent;
pub mod config;
pub mod control;
mod devices;
mod disk;
mod fill;
mod front_end;
mod http;
mod image;
mod image_service;
mod keeping;
mod lazy;
mod metrics;
mod mounts;
mod origin;
mod plain;
pub mod process;
mod recent;
mod records;
mod sentence;
mod snapshots;
mod stale;
mod trace;
mod waits;
mod whole_check;

pub use agent::{Agent, StartError};
pub use devices::DeviceError;
pub use front_end::FrontEndError;
pub use image::{OpenImageError, StartImagesError};
pub use lazy::LazyReadError;
pub use tranship_snapshotter::SnapshotError;
