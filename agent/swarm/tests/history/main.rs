//! Histories: small random swarms lived through by a hand-turned clock, thousands of them, and a large
//! one. What must always hold is asserted while they live and after.
//!
//! A failing seed prints the command that repeats it. `TRANSHIP_SWARM_SEED=n` lives through one seed;
//! `TRANSHIP_SWARM_SEEDS=n` sets how many are tried; `TRANSHIP_SWARM_NODES=n` sets the size of the
//! flash crowd; `TRANSHIP_SWARM_TELL=1` prints every event.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test stops at what it did not expect, and tells what it measured"
)]

mod crowd;
mod random;
mod small;
mod world;

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}
