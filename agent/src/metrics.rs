//! What the daemon tells Prometheus.
//!
//! Each part counts for itself, in plain atomics; when a scrape comes, their numbers are read once and written down under
//! the names that stand in `docs/operations.md`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::control::Status;

/// Reads of all devices of this node.
#[derive(Debug)]
pub(crate) struct Reads {
    len: AtomicU64,
    failed: AtomicU64,
    wrong_proofs: AtomicU64,
    seconds: Histogram,
}

impl Default for Reads {
    fn default() -> Self {
        Self {
            len: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            wrong_proofs: AtomicU64::new(0),
            // From 20 µs, a read of what is in memory, to 84 s, one that waited for a registry to come back.
            seconds: Histogram::new(exponential_buckets(0.000_02, 4.0, 12)),
        }
    }
}

impl Reads {
    /// A read ended.
    pub(crate) fn note(&self, len: u64, took: Duration, done: bool) {
        self.seconds.observe(took.as_secs_f64());
        if done {
            self.len.fetch_add(len, Ordering::Relaxed);
        } else {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A blob that devices read by a proof was found to be another.
    pub(crate) fn note_wrong_proof(&self) {
        self.wrong_proofs.fetch_add(1, Ordering::Relaxed);
    }
}

/// Gives the daemon's numbers as they are now.
pub(crate) trait Numbers: Send + Sync {
    /// The same as `GET /v1/status` gives.
    fn status(&self) -> Status;
}

struct DaemonCollector {
    numbers: Arc<dyn Numbers>,
    reads: Arc<Reads>,
}

impl std::fmt::Debug for DaemonCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DaemonCollector").finish_non_exhaustive()
    }
}

/// A registry of metrics that reads `numbers` and `reads` at each scrape.
pub(crate) fn registry(numbers: Arc<dyn Numbers>, reads: Arc<Reads>) -> Registry {
    let mut registry = Registry::default();
    registry.register_with_unit(
        "tranship_device_read",
        "How long reads of devices took",
        Unit::Seconds,
        reads.seconds.clone(),
    );
    registry.register_collector(Box::new(DaemonCollector { numbers, reads }));
    registry
}

impl Collector for DaemonCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let status = self.numbers.status();
        self.counters(&mut encoder, &status)?;
        gauges(&mut encoder, &status)
    }
}

impl DaemonCollector {
    fn counters(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        status: &Status,
    ) -> Result<(), std::fmt::Error> {
        let sources = &status.sources;
        let fetched = [
            ("peer", sources.peer_len),
            ("seed", sources.seed_len),
            ("registry", sources.registry_len),
            ("store", sources.store_len),
        ];
        let mut family = encoder.encode_descriptor(
            "tranship_fetched_bytes",
            "Verified bytes of chunks, by where they came from; store means that nothing was fetched",
            None,
            MetricType::Counter,
        )?;
        for (source, len) in fetched {
            let labels = [("source", source)];
            let place = family.encode_family(&labels)?;
            ConstCounter::new(len).encode(place)?;
        }

        snapshot_images(encoder, status)?;

        let mut counter = |name: &str, help: &str, value: u64| {
            let counter = ConstCounter::new(value);
            let place = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(place)
        };
        counter(
            "tranship_served_bytes",
            "Bytes of chunks given to others",
            sources.served_len,
        )?;
        counter(
            "tranship_refused_chunks",
            "Chunks that came without their hash and were thrown away",
            sources.refused_count,
        )?;
        counter(
            "tranship_refused_grants",
            "Grants that peers showed and that were not believed",
            sources.refused_grant_count,
        )?;
        counter(
            "tranship_hedged_requests",
            "Requests made again elsewhere",
            sources.hedge_count,
        )?;
        counter(
            "tranship_peer_requests",
            "Chunks asked of peers and the seed",
            sources.request_count,
        )?;
        counter(
            "tranship_busy_answers",
            "Peers that answered that they were busy",
            sources.busy_count,
        )?;
        counter(
            "tranship_unleased_reads",
            "Chunks read from the registry without a lease, because a reader waited",
            sources.override_count,
        )?;
        let store = &status.store;
        counter(
            "tranship_store_corrupt_chunks",
            "Chunks that the disk no longer held as written",
            store.corrupt_count,
        )?;
        counter(
            "tranship_store_evicted_chunks",
            "Chunks that made room",
            store.evicted_count,
        )?;
        counter(
            "tranship_store_refused_chunks",
            "Chunks that were not kept for want of room",
            store.refused_count,
        )?;
        counter(
            "tranship_device_read_bytes",
            "Bytes that devices gave",
            self.reads.len.load(Ordering::Relaxed),
        )?;
        counter(
            "tranship_device_failed_reads",
            "Reads of devices that failed",
            self.reads.failed.load(Ordering::Relaxed),
        )?;
        counter(
            "tranship_wrong_proofs",
            "Blobs that were read by a proof and turned out to have another digest",
            self.reads.wrong_proofs.load(Ordering::Relaxed),
        )
    }
}

fn snapshot_images(
    encoder: &mut DescriptorEncoder<'_>,
    status: &Status,
) -> Result<(), std::fmt::Error> {
    if let Some(snapshots) = &status.snapshots {
        let mut family = encoder.encode_descriptor(
            "tranship_snapshot_images",
            "Images that containerd pulled, by whether they are shown lazily, and why",
            None,
            MetricType::Counter,
        )?;
        for images in &snapshots.images {
            let lazy = if images.lazy { "true" } else { "false" };
            let labels = [("lazy", lazy), ("reason", images.reason.as_str())];
            let place = family.encode_family(&labels)?;
            ConstCounter::new(images.count).encode(place)?;
        }
    }
    Ok(())
}

fn gauges(encoder: &mut DescriptorEncoder<'_>, status: &Status) -> Result<(), std::fmt::Error> {
    let store = &status.store;
    let values = [
        (
            "tranship_store_used_bytes",
            "Stored bytes that are here",
            store.used_len,
        ),
        (
            "tranship_store_quota_bytes",
            "How many there may be",
            store.quota_len,
        ),
        (
            "tranship_store_blobs",
            "Blobs of which something is known",
            store.blob_count.into(),
        ),
        (
            "tranship_devices",
            "Devices attached",
            status.device_count.into(),
        ),
        (
            "tranship_mounts",
            "Mounts of them",
            status.mount_count.into(),
        ),
        (
            "tranship_device_waiting_reads",
            "Reads of devices that hang because no source gives their chunk",
            status.waiting_count.into(),
        ),
        (
            "tranship_device_longest_wait_milliseconds",
            "How long the longest of them has",
            status.longest_wait_ms,
        ),
        (
            "tranship_swarm_peers",
            "Peers with an open connection",
            status.swarm.peer_count.into(),
        ),
        (
            "tranship_swarm_joined",
            "Trackers that have taken this node in",
            status.swarm.joined_count.into(),
        ),
    ];
    let quarantined = status.snapshots.as_ref().map(|snapshots| {
        (
            "tranship_snapshots_quarantined",
            "Snapshots that cannot be used",
            snapshots.quarantined.len() as u64,
        )
    });
    for (name, help, value) in values.into_iter().chain(quarantined) {
        let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        let place = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
        gauge.encode(place)?;
    }
    Ok(())
}
