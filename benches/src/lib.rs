//! Measurements: what a figure needs to be worth quoting.
//!
//! A figure is a median of several runs, stands beside what it is compared with in the same run, and is given with
//! the CPU time and the memory that it cost, as the kernel accounts them.

pub mod chunks;
pub mod compression;
pub mod convert;
pub mod cost;
pub mod device;
pub mod format;
pub mod readiness;
pub mod reading;
pub mod swarm;
pub mod tracker;
pub mod transport;
