//! Several agents and one image: the registry is read about once, and a peer that lies is found out.

use crate::image::{Converted, about_once};
use std::thread;
use std::time::{Duration, Instant};
use tranship_tests::compare::assert_equal_trees;
use tranship_tests::{Agent, AgentOptions, Cluster, Tracker, tranship};

/// Mounts the image on each agent at the same time and compares every file on each.
fn read_everywhere(image: &Converted, cluster: &Cluster) {
    let reference = image.reference();
    thread::scope(|scope| {
        for agent in &cluster.agents {
            let (reference, socket) = (reference.as_str(), agent.socket());
            scope.spawn(move || {
                let target = tempfile::tempdir().expect("a mount point");
                let path = target.path().to_string_lossy().into_owned();
                tranship(&["mount", "--agent", &socket, reference, &path]);
                assert_equal_trees(&image.debian.unpacked(), target.path());
                tranship(&["umount", "--agent", &socket, &path]);
            });
        }
    });
}

#[test]
fn three_agents_read_the_registry_about_once() {
    let image = Converted::make();
    let cluster = Cluster::start(3);
    read_everywhere(&image, &cluster);
    let (sent, blobs) = (image.registry.sent_len(), image.blobs_len());
    println!("the registry sent {sent} bytes for {blobs} bytes of blobs");
    for agent in &cluster.agents {
        println!(
            "an agent had {} bytes from peers, {} from the seed, {} from the registry",
            agent.counter("tranship_fetched_bytes", "source=\"peer\""),
            agent.counter("tranship_fetched_bytes", "source=\"seed\""),
            agent.counter("tranship_fetched_bytes", "source=\"registry\""),
        );
    }
    assert!(
        sent <= about_once(blobs),
        "the registry sent {sent} bytes for {blobs} bytes of blobs"
    );
}

#[test]
fn a_peer_that_corrupts_half_its_answers_is_refused_and_all_files_are_right() {
    let image = Converted::make();
    let mut cluster = Cluster::empty();
    cluster.start_tracker();
    let tracker = cluster.tracker.as_ref().map(Tracker::address);
    for corrupt_share in [0.5, 0.0, 0.0] {
        cluster.start_agent(&AgentOptions {
            corrupt_share,
            tracker: tracker.clone(),
            ..AgentOptions::default()
        });
    }
    // The liar holds the image first, so that the others have reason to ask it.
    let liar = cluster.agents[0].socket();
    let target = tempfile::tempdir().expect("a mount point");
    let path = target.path().to_string_lossy().into_owned();
    tranship(&["mount", "--agent", &liar, &image.reference(), &path]);
    assert_equal_trees(&image.debian.unpacked(), target.path());
    tranship(&["umount", "--agent", &liar, &path]);
    read_everywhere(&image, &cluster);
    let refused: f64 = cluster.agents[1..]
        .iter()
        .map(|agent| agent.counter("tranship_refused_chunks", ""))
        .sum();
    println!("refused {refused} wrong chunks");
    assert!(refused >= 1.0, "the liar was asked and found out");
}

#[test]
fn agents_go_on_when_the_tracker_is_gone() {
    let image = Converted::make();
    let mut cluster = Cluster::start(2);
    if let Some(tracker) = &mut cluster.tracker {
        tracker.kill();
    }
    read_everywhere(&image, &cluster);
}

/// Waits until something is so.
fn until(what: &str, is: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !is() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn of_two_trackers_the_one_that_is_asked_is_killed_and_no_read_fails() {
    let image = Converted::make();
    let mut cluster = Cluster::empty();
    let mut trackers = cluster.start_two_trackers();
    for _ in 0..2 {
        cluster.start_agent(&AgentOptions {
            tracker: Some(trackers[0].address()),
            more_trackers: vec![trackers[1].address()],
            ..AgentOptions::default()
        });
    }
    let joined = |agent: &Agent| agent.counter("tranship_swarm_joined", "");
    for agent in &cluster.agents {
        until("both trackers have it", || joined(agent) > 1.0);
    }
    thread::scope(|scope| {
        let reading = scope.spawn(|| read_everywhere(&image, &cluster));
        let leases = |tracker: &Tracker| tracker.lease_count() > 0;
        until("one of them has given a lease", || {
            trackers.iter().any(leases)
        });
        assert!(!reading.is_finished(), "all was read before");
        let asked = trackers.iter().position(leases).unwrap_or_default();
        trackers[asked].kill();
    });
    let (sent, blobs) = (image.registry.sent_len(), image.blobs_len());
    println!("the registry sent {sent} bytes for {blobs} bytes of blobs");
    for agent in &cluster.agents {
        until("it sees that one is gone", || joined(agent) < 2.0);
        assert!(joined(agent) > 0.0, "the other has it still");
        assert!(
            agent.counter("tranship_device_failed_reads", "") < 1.0,
            "a read failed"
        );
    }
}
