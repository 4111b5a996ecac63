//! What the tracker tells Prometheus: its status, written as numbers.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::status::{SeedStatus, Status};

#[derive(Debug)]
struct StatusCollector(Status);

/// The status in the text form that Prometheus scrapes.
pub(crate) fn render(status: Status) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(StatusCollector(status)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

impl Collector for StatusCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = &self.0;
        let connected = status.members.iter().filter(|member| member.connected);
        let gauges = [
            (
                "tranship_tracker_members",
                "Members that count",
                status.members.len() as u64,
            ),
            (
                "tranship_tracker_members_connected",
                "Members whose stream stands",
                connected.count() as u64,
            ),
            (
                "tranship_tracker_images",
                "Images opened since the start",
                status.images.len() as u64,
            ),
            (
                "tranship_tracker_blobs",
                "Blobs that members use",
                status.blobs.len() as u64,
            ),
            (
                "tranship_tracker_leases",
                "Reads of the registry that are leased",
                status.lease_count,
            ),
            (
                "tranship_tracker_bans",
                "Peers that are banned",
                status.ban_count,
            ),
            (
                "tranship_tracker_uptime_seconds",
                "Time since the start",
                status.uptime_seconds,
            ),
        ];
        for (name, help, value) in gauges {
            gauge(&mut encoder, name, help, value)?;
        }
        let counters = [
            (
                "tranship_tracker_requests",
                "Requests of nodes",
                status.request_count,
            ),
            (
                "tranship_tracker_refused_joins",
                "Attempts to join that were refused",
                status.refused_join_count,
            ),
            (
                "tranship_tracker_granted_opens",
                "Images opened by members that may have them",
                status.granted_count,
            ),
            (
                "tranship_tracker_ungranted_opens",
                "Images opened by members that may not have them, or whose registry did not say",
                status.ungranted_count,
            ),
        ];
        for (name, help, value) in counters {
            counter(&mut encoder, name, help, value)?;
        }
        match &status.seed {
            Some(seed) => encode_seed(&mut encoder, seed),
            None => Ok(()),
        }
    }
}

fn encode_seed(encoder: &mut DescriptorEncoder<'_>, seed: &SeedStatus) -> fmt::Result {
    gauge(
        encoder,
        "tranship_seed_stored_bytes",
        "Bytes of chunks that the seed holds",
        seed.stored_len,
    )?;
    gauge(
        encoder,
        "tranship_seed_quota_bytes",
        "Most that it may hold",
        seed.quota_len,
    )?;
    let numbers = &seed.counters;
    let mut fetched = encoder.encode_descriptor(
        "tranship_seed_fetched_bytes",
        "Verified bytes of chunks that the seed got, by where they came from",
        None,
        MetricType::Counter,
    )?;
    for (source, len) in [
        ("peer", numbers.peer.len),
        ("registry", numbers.registry.len),
    ] {
        let labels = [("source", source)];
        let place = fetched.encode_family(&labels)?;
        ConstCounter::new(len).encode(place)?;
    }
    for (name, help, value) in [
        (
            "tranship_seed_served_bytes",
            "Bytes of chunks given to others",
            numbers.served.len,
        ),
        (
            "tranship_seed_refused_chunks",
            "Chunks that were not what was asked for",
            numbers.refused.count,
        ),
        (
            "tranship_seed_proofs",
            "Blobs without a chunk table that were proven",
            seed.proof_count,
        ),
        (
            "tranship_seed_registry_requests",
            "Range requests to registries",
            numbers.registry_request_count,
        ),
    ] {
        counter(encoder, name, help, value)?;
    }
    Ok(())
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    // Prometheus' whole numbers are signed.
    let metric = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    let place = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    metric.encode(place)
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let place = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    ConstCounter::new(value).encode(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_under_their_names() {
        let mut status = Status {
            request_count: 7,
            ..Status::default()
        };
        status.seed = Some(SeedStatus {
            stored_len: 1 << 40,
            ..SeedStatus::default()
        });
        let text = render(status).unwrap();
        assert!(
            text.contains("tranship_tracker_requests_total 7\n"),
            "{text}"
        );
        assert!(text.contains("tranship_seed_stored_bytes 1099511627776\n"));
        assert!(text.contains("tranship_seed_fetched_bytes_total{source=\"registry\"} 0\n"));
    }
}
