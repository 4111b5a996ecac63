//! Whole swarms in one process: real sockets, real stores, a registry that counts.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    reason = "a test that cannot go on should stop, and say what it measured"
)]

mod api;
mod caller;
mod cluster;
mod door;
mod image;
mod proofs;
mod registry;
mod rights;
mod several;

use std::time::Duration;

use cluster::{TOKEN, TestNode, TestTracker, get};
use futures::future::{join, join_all};
use futures::poll;
use image::Image;
use registry::Registry;
use tranship_source::fetch::Class;
use tranship_source::net::JoinToken;
use tranship_tracker::config::SeedMode;
use tranship_tracker::{Config, SeedStatus, Service, StartError};

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

fn tell(
    what: &str,
    nodes: &[TestNode],
    seed: Option<&SeedStatus>,
    image: &Image,
    registry: &Registry,
    took: &[Duration],
) {
    let amplification = registry.sent_len() as f64 / image.covered_len() as f64;
    let slowest = took.iter().max().copied().unwrap_or_default();
    let rate = image.covered_len() as f64 / 1e6 / slowest.as_secs_f64();
    println!(
        "{what}: origin x{amplification:.3} in {} requests, slowest node {slowest:?} ({rate:.0} MB/s a node)",
        registry.request_count(),
    );
    let counters = nodes.iter().map(TestNode::counters);
    for counters in counters.chain(seed.iter().map(|seed| seed.counters)) {
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
    if mode == SeedMode::OnOpen {
        tracker.until_seeding(4).await;
    }
    let took = all_read(&nodes, &image, class).await;
    tell(
        &format!("{mode:?} {class:?}"),
        &nodes,
        tracker.status().await.seed.as_ref(),
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

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_after_all_others_have_gone_gets_everything_from_the_seed() {
    let image = Image::random(8 * MIB, 2);
    let registry = Registry::start(&image).await;
    let tracker = TestTracker::start(SeedMode::OnOpen).await;
    let first = TestNode::member(&tracker, &image, &registry).await;
    tracker.until_seeding(1).await;
    first.read_all(&image, Class::Prefetch).await;
    first.net.stop().await;
    registry.go_down();
    let second = TestNode::member(&tracker, &image, &registry).await;
    second.read_all(&image, Class::Demand).await;
    assert_eq!(second.counters().seed.len, image.covered_len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_corrupts_half_of_its_answers_fools_nobody() {
    let image = Image::random(16 * MIB, 3);
    let registry = Registry::start(&image).await;
    let tracker = TestTracker::start(SeedMode::Off).await;
    let address = Some(tracker.address());
    let liar = TestNode::start(address, TOKEN, 0.5, &image, &registry).await;
    liar.until("it has joined", |status| status.joined).await;
    liar.read_all(&image, Class::Prefetch).await;
    let nodes = members(3, &tracker, &image, &registry).await;
    let took = all_read(&nodes, &image, Class::Demand).await;
    tell("one liar", &nodes, None, &image, &registry, &took);
    let refused: u64 = nodes.iter().map(|node| node.counters().refused.count).sum();
    assert!(refused > 0, "nobody asked the liar");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_finish_when_the_tracker_goes_away_midway() {
    let image = Image::random(32 * MIB, 4);
    let registry = Registry::start(&image).await;
    let tracker = TestTracker::start(SeedMode::OnOpen).await;
    let nodes = members(4, &tracker, &image, &registry).await;
    let half = image.covered_len() / 2;
    let reading = all_read(&nodes, &image, Class::Demand);
    let stopping = async {
        // Midway by the first node's count, whatever the speed of this machine.
        while nodes[0].counters().fetched_len() < half {
            tokio::task::yield_now().await;
        }
        tracker.service.stop().await;
    };
    let (took, ()) = join(reading, stopping).await;
    tell("tracker gone", &nodes, None, &image, &registry, &took);
    nodes[0]
        .until("it sees that the tracker is gone", |status| !status.joined)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracker_that_comes_late_is_found() {
    let image = Image::random(MIB, 5);
    let registry = Registry::start(&image).await;
    let tracker = TestTracker::start(SeedMode::Off).await;
    let (door, address, dir) = tracker.leave().await;
    let node = TestNode::start(Some(address), TOKEN, 0.0, &image, &registry).await;
    node.read_all(&image, Class::Demand).await;
    assert!(!node.net.status().joined);
    let tracker = TestTracker::again(door, dir).await;
    node.until("it has joined", |status| status.joined).await;
    assert_eq!(tracker.status().await.members.len(), 1);
}

#[tokio::test]
async fn a_tracker_does_not_start_with_a_token_that_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        state_dir: dir.path().join("state"),
        listen: "127.0.0.1:0".to_owned(),
        http_listen: "127.0.0.1:0".parse().unwrap(),
        ..Config::default()
    };
    // As from an environment whose TRANSHIP_TOKEN is set to nothing.
    let started = Service::start(config, Some(JoinToken::new(" \n"))).await;
    assert!(matches!(started, Err(StartError::EmptyToken)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_the_tracker_refuses_is_left_with_the_registry() {
    let image = Image::random(MIB, 6);
    let registry = Registry::start(&image).await;
    let tracker = TestTracker::start(SeedMode::Off).await;
    let holder = TestNode::member(&tracker, &image, &registry).await;
    holder.read_all(&image, Class::Prefetch).await;

    let address = Some(tracker.address());
    let stranger = TestNode::start(address, "a wrong token", 0.0, &image, &registry).await;
    stranger.read_all(&image, Class::Demand).await;
    let counters = stranger.counters();
    assert_eq!(counters.registry.len, image.covered_len());
    assert_eq!(
        (counters.peer.count, counters.tracker_connect_count),
        (0, 0)
    );
    tracker.until_refused().await;
    assert_eq!(holder.counters().served.count, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_help_when_the_registry_is_down() {
    let image = Image::random(8 * MIB, 7);
    let registry = Registry::start(&image).await;
    let tracker = TestTracker::start(SeedMode::Off).await;
    let holder = TestNode::member(&tracker, &image, &registry).await;
    holder.read_all(&image, Class::Prefetch).await;
    registry.go_down();
    let nodes = members(2, &tracker, &image, &registry).await;
    all_read(&nodes, &image, Class::Demand).await;
    for node in &nodes {
        assert_eq!(node.counters().registry.count, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_a_tracker_reads_the_registry_alone() {
    let image = Image::random(8 * MIB, 8);
    let registry = Registry::start(&image).await;
    let node = TestNode::start(None, TOKEN, 0.0, &image, &registry).await;
    let took = node.read_all(&image, Class::Prefetch).await;
    tell(
        "alone",
        std::slice::from_ref(&node),
        None,
        &image,
        &registry,
        &[took],
    );
    assert_eq!(registry.sent_len(), image.covered_len());
    node.read_all(&image, Class::Demand).await;
    assert_eq!(
        registry.sent_len(),
        image.covered_len(),
        "the store was not asked"
    );
    assert_eq!(node.counters().store.len, image.covered_len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_leaves_the_chunk_to_the_others() {
    let image = Image::random(MIB, 9);
    let registry = Registry::start(&image).await;
    let held = registry.hold().await;
    let node = TestNode::start(None, TOKEN, 0.0, &image, &registry).await;
    // The first reader makes the request, and goes away while it is held.
    let mut first = Box::pin(node.chunk(0, Class::Demand));
    assert!(poll!(&mut first).is_pending());
    registry.until_requests(1).await;
    let mut second = Box::pin(node.chunk(0, Class::Demand));
    assert!(poll!(&mut second).is_pending());
    drop(first);
    drop(held);
    assert_eq!(second.await.unwrap(), image.blob[..image::CHUNK_LEN]);
    assert_eq!(registry.request_count(), 1, "the chunk was asked for once");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tracker_tells_how_it_stands() {
    let image = Image::random(MIB, 10);
    let registry = Registry::start(&image).await;
    let tracker = TestTracker::start(SeedMode::OnOpen).await;
    let node = TestNode::member(&tracker, &image, &registry).await;
    tracker.until_seeding(1).await;
    node.read_all(&image, Class::Demand).await;
    let status = tracker.status().await;
    assert_eq!(status.members.len(), 2);
    assert!(status.members.iter().all(|member| member.connected));
    assert_eq!(status.images[0].repository, registry::REPOSITORY);
    assert_eq!(status.blobs.len(), 1);
    let seed = status.seed.unwrap();
    assert_eq!(seed.stored_len, image.covered_len());
    let http = format!("http://{}", tracker.service.ready().http);
    let page = get(&format!("{http}/")).await;
    assert!(
        page.contains(&image.manifest.digest().to_string()),
        "{page}"
    );
    let metrics = get(&format!("{http}/metrics")).await;
    assert!(
        metrics.contains("tranship_tracker_members 2\n"),
        "{metrics}"
    );
    for path in ["healthz", "readyz"] {
        get(&format!("{http}/{path}")).await;
    }
    assert_eq!(tracker.service.ready().listen.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_store_is_full_hands_chunks_through() {
    let image = Image::random(16 * MIB, 11);
    let registry = Registry::start(&image).await;
    let node = TestNode::with_quota(MIB as u64, &image, &registry).await;
    node.read_all(&image, Class::Prefetch).await;
    node.read_all(&image, Class::Demand).await;
    assert!(node.blob.present_len() <= MIB as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_registry_asks_for_a_pause_the_holder_of_the_lease_pauses_and_the_others_wait_for_it()
 {
    let image = Image::random(8 * MIB, 12);
    let registry = Registry::start(&image).await;
    let tracker = TestTracker::start(SeedMode::Off).await;
    let starting = (0..4).map(|_| TestNode::start_impatient(&tracker, &image, &registry));
    let nodes = join_all(starting).await;
    // Longer than any of them waits for a source that is silent.
    registry.be_busy(Duration::from_secs(3));
    let took = all_read(&nodes, &image, Class::Demand).await;
    tell("a busy registry", &nodes, None, &image, &registry, &took);
    println!(
        "the registry asked {} times for a pause",
        registry.busy_count()
    );
    assert!(took.iter().all(|took| *took >= Duration::from_secs(3)));
    assert!(
        registry.busy_count() <= 12,
        "{} requests came while the registry had asked for a pause",
        registry.busy_count()
    );
}
