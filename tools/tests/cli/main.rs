//! The command line as a user and a script see it: what it prints, and with which code it ends.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should stop where it is"
)]

mod convert;
mod damage;
mod deploy;
mod diff;
mod disk;
mod errors;
mod fixture;
mod look;
mod modes;
mod nested;
mod node;
mod proof;
mod snapshotter;
mod swarm;
