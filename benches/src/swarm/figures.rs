//! From samples and counters to the figures of a run.

use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::reader::Sample;
use super::stranger::Findings;

/// Reads begun so long after an event must be as quick as before it.
const RECOVERY: Duration = Duration::from_secs(2);
/// A chunk, as the images of a run are cut.
const CHUNK_LEN: f64 = 262_144.0;

/// An agent's counters.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Counted {
    pub(super) peer_bytes: u64,
    pub(super) seed_bytes: u64,
    pub(super) registry_bytes: u64,
    pub(super) served_bytes: u64,
    pub(super) requests: u64,
    pub(super) hedged: u64,
    pub(super) busy: u64,
    pub(super) unleased_reads: u64,
    pub(super) refused_chunks: u64,
    pub(super) failed_reads: u64,
}

impl Counted {
    /// Takes the counters out of what Prometheus would scrape.
    pub(super) fn of(metrics: &str) -> Self {
        let fetched = |source: &str| {
            sample(
                metrics,
                &format!("tranship_fetched_bytes_total{{source=\"{source}\"}}"),
            )
        };
        Self {
            peer_bytes: fetched("peer"),
            seed_bytes: fetched("seed"),
            registry_bytes: fetched("registry"),
            served_bytes: sample(metrics, "tranship_served_bytes_total"),
            requests: sample(metrics, "tranship_peer_requests_total"),
            hedged: sample(metrics, "tranship_hedged_requests_total"),
            busy: sample(metrics, "tranship_busy_answers_total"),
            unleased_reads: sample(metrics, "tranship_unleased_reads_total"),
            refused_chunks: sample(metrics, "tranship_refused_chunks_total"),
            failed_reads: sample(metrics, "tranship_device_failed_reads_total"),
        }
    }

    /// What was counted since `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        Self {
            peer_bytes: self.peer_bytes - before.peer_bytes,
            seed_bytes: self.seed_bytes - before.seed_bytes,
            registry_bytes: self.registry_bytes - before.registry_bytes,
            served_bytes: self.served_bytes - before.served_bytes,
            requests: self.requests - before.requests,
            hedged: self.hedged - before.hedged,
            busy: self.busy - before.busy,
            unleased_reads: self.unleased_reads - before.unleased_reads,
            refused_chunks: self.refused_chunks - before.refused_chunks,
            failed_reads: self.failed_reads - before.failed_reads,
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.peer_bytes += other.peer_bytes;
        self.seed_bytes += other.seed_bytes;
        self.registry_bytes += other.registry_bytes;
        self.served_bytes += other.served_bytes;
        self.requests += other.requests;
        self.hedged += other.hedged;
        self.busy += other.busy;
        self.unleased_reads += other.unleased_reads;
        self.refused_chunks += other.refused_chunks;
        self.failed_reads += other.failed_reads;
    }
}

/// The value of the sample with this name and these labels; 0 where there is none.
pub(super) fn sample(metrics: &str, name: &str) -> u64 {
    let value = metrics.lines().find_map(|line| {
        let (found, value) = line.rsplit_once(' ')?;
        (found == name).then(|| value.parse().ok())?
    });
    value.unwrap_or(0)
}

/// What one host did.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct HostFigures {
    pub(super) host: usize,
    /// From its start to its last byte; none for one that was killed.
    pub(super) seconds: Option<f64>,
    #[serde(flatten)]
    pub(super) counted: Counted,
}

/// How long reads took, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Latency {
    fn of(took: impl Iterator<Item = Duration>) -> Option<Self> {
        let mut took: Vec<_> = took.collect();
        took.sort_unstable();
        let at = |part: usize| {
            let place = (took.len() * part).div_ceil(100).saturating_sub(1);
            took.get(place).map(|took| took.as_secs_f64() * 1e3)
        };
        Some(Self {
            p50: at(50)?,
            p99: at(99)?,
            max: at(100)?,
        })
    }
}

/// Reads around the first thing that was done to the swarm.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Around {
    pub(super) before: Option<Latency>,
    /// Reads that were under way then, or began within two seconds.
    pub(super) during: Option<Latency>,
    pub(super) after: Option<Latency>,
}

/// What is known of a run when it is over.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) link: u64,
    pub(super) hosts: Vec<HostFigures>,
    pub(super) samples: Vec<Sample>,
    /// From the first start to the last byte of the last host.
    pub(super) makespan: Duration,
    /// From the first start to the last.
    pub(super) spread: Duration,
    pub(super) event: Option<Instant>,
    /// Bytes that one host needs.
    pub(super) unique_len: u64,
    pub(super) origin_len: u64,
    /// Fetched before the first read was counted, by hosts and seeds that were to have the image; no other figure has it.
    pub(super) preloaded_len: u64,
    pub(super) seed_registry_len: u64,
    pub(super) seed_served_len: u64,
    pub(super) thin_len: Option<u64>,
    /// Between two zones.
    pub(super) round_trip: Option<Duration>,
    pub(super) stranger: Option<Findings>,
    pub(super) cpu_share: f64,
}

/// The figures of a run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    /// Bytes that left the registry over bytes that one host needs.
    pub(super) origin_amplification: f64,
    /// Time to the last byte of the last host, over the optimum.
    pub(super) makespan_over_optimum: f64,
    /// Most that a host uploaded, over the mean.
    pub(super) upload_skew: f64,
    /// Requests made a second time over all requests.
    pub(super) hedged_share: f64,
    pub(super) read_errors: u64,
    pub(super) wrong_bytes: u64,
    pub(super) seconds: f64,
    pub(super) optimum_seconds: f64,
    pub(super) read_ms: Option<Latency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) around_event: Option<Around>,
    /// Bytes by their source over all agents, with what the seed read and served, all from the moment on at which the crowd
    /// may begin. `preloaded` is what hosts and seeds had fetched before it, which is in none of the others.
    pub(super) bytes: BTreeMap<&'static str, u64>,
    /// Bytes over the thin link over bytes that one host needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) thin_amplification: Option<f64>,
    /// Between two zones, when nobody reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) zone_round_trip_ms: Option<f64>,
    /// Share of the machine's processor time that was in use.
    pub(super) cpu_share: f64,
    /// Time with P2P over time without, where that is what is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) over_direct: Option<f64>,
    /// What a member without a right to the image got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stranger: Option<Findings>,
    pub(super) hosts: Vec<HostFigures>,
}

impl Figures {
    pub(super) fn of(facts: Facts) -> Self {
        let mut sum = Counted::default();
        for host in &facts.hosts {
            sum.add(&host.counted);
        }
        let most = facts.hosts.iter().map(|host| host.counted.served_bytes);
        let mean = share(sum.served_bytes, facts.hosts.len() as u64);
        let optimum = optimum(facts.unique_len, facts.link, facts.hosts.len());
        let optimum = optimum + facts.spread.as_secs_f64();
        let failed = facts.samples.iter().filter(|read| read.failed).count() as u64;
        let seconds = facts.makespan.as_secs_f64();
        let latency = |wanted: &dyn Fn(&Sample) -> bool| {
            let some = facts.samples.iter().filter(|read| wanted(read));
            Latency::of(some.map(|read| read.took))
        };
        let around_event = facts.event.map(|event| Around {
            before: latency(&|read| read.begun + read.took < event),
            during: latency(&|read| {
                read.begun + read.took >= event && read.begun < event + RECOVERY
            }),
            after: latency(&|read| read.begun >= event + RECOVERY),
        });
        Self {
            origin_amplification: share(facts.origin_len, facts.unique_len),
            makespan_over_optimum: seconds / optimum,
            #[expect(clippy::cast_precision_loss, reason = "less than 2^52 bytes")]
            upload_skew: if mean > 0.0 {
                most.max().unwrap_or(0) as f64 / mean
            } else {
                0.0
            },
            hedged_share: share(sum.hedged, sum.requests),
            read_errors: failed.max(sum.failed_reads),
            wrong_bytes: facts.samples.iter().map(|read| read.wrong_len as u64).sum(),
            seconds,
            optimum_seconds: optimum,
            read_ms: latency(&|_| true),
            around_event,
            bytes: BTreeMap::from([
                ("peer", sum.peer_bytes),
                ("seed", sum.seed_bytes),
                ("registry", sum.registry_bytes),
                ("seed_registry", facts.seed_registry_len),
                ("seed_served", facts.seed_served_len),
                ("origin", facts.origin_len),
                ("preloaded", facts.preloaded_len),
                ("unique", facts.unique_len),
            ]),
            thin_amplification: facts.thin_len.map(|len| share(len, facts.unique_len)),
            zone_round_trip_ms: facts.round_trip.map(|took| took.as_secs_f64() * 1e3),
            cpu_share: facts.cpu_share,
            over_direct: None,
            stranger: facts.stranger,
            hosts: facts.hosts,
        }
    }
}

/// The least time in which `hosts` can all have `len` bytes over links of `link` bits a second: all bytes once over one
/// link, and a chunk for each doubling of those that have one.
fn optimum(len: u64, link: u64, hosts: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "less than 2^52")]
    let (len, link) = (len as f64, link as f64);
    let doublings = f64::from(hosts.max(1).ilog2());
    len * 8.0 / link * (1.0 + doublings / (len / CHUNK_LEN).max(1.0))
}

#[expect(clippy::cast_precision_loss, reason = "less than 2^52")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_name_and_label() {
        let metrics = "# HELP x\ntranship_fetched_bytes_total{source=\"peer\"} 5\n\
                       tranship_fetched_bytes_total{source=\"seed\"} 6\ntranship_served_bytes_total 7\n";
        let counted = Counted::of(metrics);
        assert_eq!(
            (counted.peer_bytes, counted.seed_bytes, counted.served_bytes),
            (5, 6, 7)
        );
        assert_eq!(counted.registry_bytes, 0);
    }

    #[test]
    fn optimum_is_one_transfer_and_a_chunk_for_each_doubling() {
        let seconds = optimum(256 * 262_144, 100_000_000, 16);
        assert!((seconds - 5.368_709_12 * (1.0 + 4.0 / 256.0)).abs() < 1e-9);
        let alone = optimum(262_144, 100_000_000, 1);
        assert!((alone - 0.020_971_52).abs() < 1e-9);
    }

    #[test]
    fn percentiles_are_of_the_slowest() {
        let latency = Latency::of((1..=200).map(Duration::from_millis)).unwrap();
        assert_eq!(
            (latency.p50, latency.p99, latency.max),
            (100.0, 198.0, 200.0)
        );
        assert!(Latency::of(std::iter::empty()).is_none());
    }
}
