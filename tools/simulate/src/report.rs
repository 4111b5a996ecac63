//! What came of a scenario, in the figures that the documents quote.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;
use tranship_swarm::node::Counters;

use crate::plot;
use crate::world::World;

/// Seconds until ready, over all containers of hosts that lived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ReadySeconds {
    /// Half of them are ready by then.
    pub p50: f64,
    /// 99 in 100 are.
    pub p99: f64,
    /// All are.
    pub max: f64,
}

/// The figures of one run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The scenario's sentence.
    pub about: String,
    /// The seed that repeats it.
    pub seed: u64,
    /// Hosts.
    pub hosts: u32,
    /// Bytes that a start reads.
    pub unique_bytes: u64,
    /// Bytes read from the registry over the unique ones.
    pub origin_amplification: f64,
    /// From the first start to the last chunk read, over `optimum_seconds`.
    pub makespan_over_optimum: f64,
    /// From the first start to the last chunk read.
    pub makespan_seconds: f64,
    /// (F/u)(1 + ⌊log2 N⌋/M): no way to bring M chunks of F bytes to N hosts with links of u is faster.
    pub optimum_seconds: f64,
    /// Living hosts with a container that is not ready.
    pub unfinished_nodes: u32,
    /// From a container's start until it has read all, plus the scenario's constant.
    pub ready_seconds: ReadySeconds,
    /// From the first container that is ready to the last.
    pub first_to_last_seconds: f64,
    /// Requests to the tracker for each chunk that a host read.
    pub messages_per_chunk: f64,
    /// Bytes that the busiest host sent over the mean.
    pub upload_skew: f64,
    /// Second requests in all requests to peers.
    pub hedged_share: f64,
    /// Reads of containers that failed.
    pub read_errors: u64,
    /// Bytes between zones over the unique ones.
    pub between_zones_amplification: f64,
    /// Registry reads.
    pub registry_reads: u64,
    /// Registry reads that were refused.
    pub refused_reads: u64,
    /// Chunks read from the registry without a lease.
    pub origin_overrides: u64,
    /// Chunks that came when nobody waited for them any more.
    pub late_chunks: u64,
    /// BUSY answers for each hundred requests to peers.
    pub busy_percent: f64,
    /// Requests to the tracker.
    pub tracker_messages: u64,
    /// Events lived through.
    pub events: u64,
    #[serde(skip)]
    ready: Vec<Duration>,
}

impl Report {
    pub(crate) fn of(world: &World, seed: u64) -> Self {
        let scenario = &world.scenario;
        let constant = scenario.containers.constant;
        let unique = world.order.len() as u64 * scenario.image.chunk.as_u64();
        let mut ready = Vec::new();
        let (mut first_start, mut first_ready, mut last_ready) =
            (Duration::MAX, Duration::MAX, Duration::ZERO);
        let mut unfinished_nodes = 0;
        let agents = world.hosts.iter().filter(|host| !host.is_seed());
        for host in agents.filter(|host| host.is_alive) {
            unfinished_nodes += u32::from(!host.is_ready());
            for reader in host.readers.iter().filter(|reader| reader.is_container()) {
                first_start = first_start.min(reader.starts_at);
                let at = reader.ready_at.unwrap_or(world.now);
                first_ready = first_ready.min(at);
                last_ready = last_ready.max(at);
                ready.push(at.saturating_sub(reader.starts_at) + constant);
            }
        }
        ready.sort_unstable();
        let at = |permille: usize| {
            let place = ready.len().saturating_sub(1) * permille / 1_000;
            ready.get(place).map_or(0.0, Duration::as_secs_f64)
        };
        let total = |of: fn(&Counters) -> u64| -> u64 {
            let now = world.hosts.iter().map(|host| of(host.node.counters()));
            let before = world.totals.counters.iter().map(of);
            now.chain(before).sum()
        };
        let sent = world
            .hosts
            .iter()
            .filter(|host| !host.is_seed())
            .map(|host| host.up.sent_len);
        let (most, all) = sent.fold((0, 0), |(most, all), len| (len.max(most), all + len));
        let makespan = last_ready.saturating_sub(first_start).as_secs_f64();
        let optimum = optimum(world);
        let requests = total(|counters| counters.requests);
        Self {
            about: scenario.about.clone(),
            seed,
            hosts: scenario.hosts.count,
            unique_bytes: unique,
            origin_amplification: ratio(world.registry.sent_len, unique),
            makespan_over_optimum: rounded(makespan / optimum),
            makespan_seconds: rounded(makespan),
            optimum_seconds: rounded(optimum),
            unfinished_nodes,
            ready_seconds: ReadySeconds {
                p50: rounded(at(500)),
                p99: rounded(at(990)),
                max: rounded(at(1_000)),
            },
            first_to_last_seconds: rounded(last_ready.saturating_sub(first_ready).as_secs_f64()),
            messages_per_chunk: ratio(world.totals.tracker_messages, world.totals.chunk_reads),
            upload_skew: ratio(most * u64::from(scenario.hosts.count), all),
            hedged_share: ratio(total(|counters| counters.hedges), requests),
            read_errors: world.totals.read_errors,
            between_zones_amplification: ratio(world.totals.between_len, unique),
            registry_reads: world.totals.registry_reads,
            refused_reads: world.totals.refused_reads,
            origin_overrides: total(|counters| counters.origin_overrides),
            late_chunks: world.totals.late_chunks,
            busy_percent: ratio(total(|counters| counters.busy_sent) * 100, requests),
            tracker_messages: world.totals.tracker_messages,
            events: world.totals.events,
            ready,
        }
    }

    /// The figures with their names, for a table.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let seconds = |value: f64| format!("{value:.3} s");
        vec![
            ("hosts", self.hosts.to_string()),
            ("seed", self.seed.to_string()),
            (
                "working set",
                bytesize::ByteSize::b(self.unique_bytes)
                    .display()
                    .iec()
                    .to_string(),
            ),
            (
                "origin amplification",
                format!("{:.3}", self.origin_amplification),
            ),
            (
                "makespan over optimum",
                format!("{:.3}", self.makespan_over_optimum),
            ),
            ("makespan", seconds(self.makespan_seconds)),
            ("optimum", seconds(self.optimum_seconds)),
            ("unfinished nodes", self.unfinished_nodes.to_string()),
            ("ready, p50", seconds(self.ready_seconds.p50)),
            ("ready, p99", seconds(self.ready_seconds.p99)),
            ("ready, last", seconds(self.ready_seconds.max)),
            ("first ready to last", seconds(self.first_to_last_seconds)),
            (
                "tracker messages per chunk",
                format!("{:.4}", self.messages_per_chunk),
            ),
            ("upload skew", format!("{:.2}", self.upload_skew)),
            ("hedged share", format!("{:.4}", self.hedged_share)),
            ("read errors", self.read_errors.to_string()),
            (
                "between zones",
                format!("{:.3}", self.between_zones_amplification),
            ),
            ("registry reads", self.registry_reads.to_string()),
            ("refused reads", self.refused_reads.to_string()),
            ("origin overrides", self.origin_overrides.to_string()),
            ("late chunks", self.late_chunks.to_string()),
            ("busy answers per cent", format!("{:.2}", self.busy_percent)),
            ("events", self.events.to_string()),
        ]
    }

    /// How many containers were ready when, as a picture in text.
    pub fn plot(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "containers ready after");
        text.push_str(&plot::rising(&self.ready));
        text
    }
}

fn optimum(world: &World) -> f64 {
    let hosts = &world.scenario.hosts;
    let link = hosts.down.unwrap_or(hosts.up).min(hosts.up);
    let unique = world.order.len() as u64 * world.scenario.image.chunk.as_u64();
    let hops = hosts.count.checked_ilog2().unwrap_or(0);
    link.time_for(unique).as_secs_f64() * (1.0 + ratio(u64::from(hops), world.order.len() as u64))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a ratio is read to three digits"
)]
fn ratio(of: u64, to: u64) -> f64 {
    if to == 0 {
        0.0
    } else {
        rounded(of as f64 / to as f64)
    }
}

/// To six digits behind the point: the same text on every machine.
fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}
