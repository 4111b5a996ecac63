//! Who has what, and the seed beside the registry.
//!
//! The tracker lets nodes in, decides for each stripe who reads the registry and
//! who gets it from whom, and keeps chunks near the registry for whoever comes
//! later. All it knows is soft state in memory, learnt again from the nodes after
//! a restart; on disk are its key, its tokens, its bans and the seed's chunks.
//! The decisions themselves are `tranship_swarm::tracker`; here are the sockets.
#![forbid(unsafe_code)]

pub mod client;
pub mod config;
mod http;
mod join;
pub mod message;
mod metrics;
mod page;
mod proofs;
mod rights;
mod secret;
mod seed;
mod server;
mod service;
mod status;
mod tables;

pub use config::Config;
pub use service::{Ready, Service, StartError};
pub use status::{BlobStatus, ImageStatus, MemberStatus, SeedStatus, Status};
