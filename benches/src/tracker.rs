//! The tracker under the load of a thousand nodes that start one image at once: the pure decisions alone, then the whole
//! service over real connections.
//!
//! Calls a second are counted against the processor time that the tracker spends, not against the clock: the clients share
//! the machine with it. The clients say what nodes say in a start (OPEN, a LOOKUP and an ANNOUNCE for each stripe, PROGRESS
//! of leases, heartbeats) and carry no chunks.

mod caller;
mod machine;
mod script;
mod service;

use anyhow::Result;
use serde_json::{Value, json};

pub use service::serve;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Nodes that start the image.
    pub nodes: usize,
    /// Stripes of the image, 64 chunks each.
    pub stripes: u32,
}

/// Name of the subcommand that is the tracker in a process of its own.
pub const SERVICE: &str = "tracker-service";

/// All figures.
///
/// # Errors
/// When a part of it cannot be set up, or the tracker answers with something else than it should.
pub fn measure(load: Load) -> Result<Value> {
    let machine = machine::measure(load)?;
    let service = service::measure(load)?;
    Ok(json!({
        "nodes": load.nodes,
        "stripes": load.stripes,
        "machine_calls_per_cpu_s": machine.calls_per_cpu_s,
        "machine_calls": machine.calls,
        "service_calls_per_cpu_s": service.calls_per_cpu_s,
        "service_calls_per_s": service.calls_per_s,
        "service_calls": service.calls,
        "service_peak_rss_mib": service.peak_rss_mib,
        "service_joined_rss_mib": service.joined_rss_mib,
        "service_idle_cpu_share": service.idle_cpu_share,
        "service_abandoned_cpu_share": service.abandoned_cpu_share,
        "script_messages_per_chunk": script::messages_per_chunk(load, machine.calls),
    }))
}
