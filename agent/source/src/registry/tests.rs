//! The client against a server that plays what registries do, and what they should not do.

mod auth;
mod blob;
mod hosts;
mod manifests;
mod mirrors;
mod pull_proof;
mod push;
mod range;
mod referrers;
mod renewal;
mod server;
mod tls;
