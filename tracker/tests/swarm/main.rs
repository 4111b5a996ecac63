//! Whole swarms in one process: real sockets, real stores, a registry that counts.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "a test that cannot go on should stop, and say what it measured"
)]

mod cluster;
mod image;
mod registry;

use std::time::{Duration, Instant};

use cluster::{PATIENCE, TOKEN, TestNode, TestTracker, get};
use futures::future::join_all;
use image::Image;
use registry::Registry;
use tranship_source::fetch::Class;
use tranship_tracker::config::SeedMode;

const MIB: usize = 1 << 20;

async fn members(
    count: usize,
    tracker: &TestTracker,
    image: &Image,
    registry: &Registry,
) -> Vec<TestNode> {
    let starting = (0..count).map(|_| TestNode::member(tracker, image, registry));
    join_all(starting).await
}

async fn all_read(nodes: &[TestNode], image: &Image, class: Class) -> Vec<Duration> {
    join_all(nodes.iter().map(|node| node.read_all(image, class))).await
}

fn tell(what: &str, nodes: &[TestNode], image: &Image, registry: &Registry, took: &[Duration]) {
    let amplification = registry.sent_len() as f64 / image.covered_len() as f64;
    let slowest = took.iter().max().copied().unwrap_or_default();
    let rate = image.covered_len() as f64 / 1e6 / slowest.as_secs_f64();
    println!(
        "{what}: origin x{amplification:.3} in {} requests, slowest node {slowest:?} ({rate:.0} MB/s a node)",
        registry.request_count(),
    );
    for node in nodes {
        let counters = node.counters();
        println!(
            "  peer {} seed {} registry {} served {} refused {} hedges {} waits {} busy {} overrides {}",
            counters.peer.count,
            counters.seed.count,
            counters.registry.count,
            counters.served.count,
            counters.refused.count,
            counters.hedge_count,
            counters.wait_count,
            counters.busy_count,
            counters.origin_override_count,
        );
    }
}

async fn four_nodes_at_once(mode: SeedMode, class: Class) {
    let image = Image::random(32 * MIB, 1);
    let registry = Registry::start(&image).await;
    let tracker = TestTracker::start(mode).await;
    let nodes = members(4, &tracker, &image, &registry).await;
    let took = all_read(&nodes, &image, class).await;
    tell(
        &format!("{mode:?} {class:?}"),
        &nodes,
        &image,
        &registry,
        &took,
    );
    let limit = image.covered_len() * 13 / 10;
    assert!(
        registry.sent_len() <= limit,
        "the registry sent {} bytes of {}",
        registry.sent_len(),
        image.covered_len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn four_nodes_that_read_at_once_read_the_registry_about_once() {
    four_nodes_at_once(SeedMode::Off, Class::Demand).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_nodes_that_prefetch_at_once_read_the_registry_about_once() {
    four_nodes_at_once(SeedMode::Off, Class::Prefetch).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_seed_four_nodes_read_the_registry_about_once() {
    four_nodes_at_once(SeedMode::OnOpen, Class::Demand).await;
}
