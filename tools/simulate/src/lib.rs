//! Swarms of thousands of nodes in virtual time, driven by the very decisions that drive the real ones.
//!
//! `tranship_swarm` decides and is told; everything else is modelled here: links, a registry, a tracker's processor,
//! containers that read, and what goes wrong. One seed gives one swarm, on every machine, so a figure can be repeated and
//! a rule be judged by what it changes. What the model leaves out stands in `docs/performance.md` beside its figures.
#![forbid(unsafe_code)]

mod host;
mod link;
mod plot;
mod queue;
mod random;
mod rate;
mod report;
mod scenario;
mod world;

pub use rate::{BadRate, Rate};
pub use report::{ReadySeconds, Report};
pub use scenario::{Scenario, ScenarioError};

use world::World;

/// Lives through a scenario. `seed` stands in for the scenario's own.
pub fn simulate(scenario: &Scenario, seed: Option<u64>) -> Report {
    let seed = seed.unwrap_or(scenario.seed);
    let mut world = World::new(scenario.clone(), seed);
    world.run();
    Report::of(&world, seed)
}
