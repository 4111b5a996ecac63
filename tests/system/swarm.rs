//! Several agents and one image: the registry is read about once, and a peer that lies is found out.

use crate::image::{Converted, about_once};
use serde_json::Value;
use std::fs;
use std::path::Path;
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

#[test]
fn the_seed_fetches_what_a_start_reads_by_the_trace_of_another_node() {
    let image = Converted::make();
    let reference = image.reference();
    let target = tempfile::tempdir().expect("a mount point");
    let path = target.path().to_string_lossy().into_owned();
    // A start, as it were.
    let start = |agent: &Agent| {
        tranship(&["mount", "--agent", &agent.socket(), &reference, &path]);
        for file in ["etc/debian_version", "bin/ls", "usr/bin/perl"] {
            let read = |root: &Path| fs::read(root.join(file)).expect(file);
            assert!(
                read(&image.debian.unpacked()) == read(target.path()),
                "{file} is another"
            );
        }
    };
    let mut first = Cluster::empty();
    first.start_agent(&AgentOptions::default());
    let socket = first.agents[0].socket();
    start(&first.agents[0]);
    let printed = tranship(&["trace", "--agent", &socket, &reference, "--output", "json"]);
    tranship(&["umount", "--agent", &socket, &path]);
    let trace: Value = serde_json::from_str(&printed).expect("a trace in JSON");
    let len = |value: &Value, name: &str| value[name].as_u64().expect("a length");
    let read_len = len(&trace, "read_len");
    assert!(
        read_len > 0 && read_len < len(&trace, "stored_len") / 2,
        "{read_len} bytes of {}",
        trace["stored_len"]
    );
    let file = first.folder().join("trace.json");
    fs::write(&file, printed).expect("a file");

    let mut second = Cluster::empty();
    second.start_tracker();
    let tracker = second.tracker.as_ref().expect("a tracker");
    let operator = tracker.operator();
    let file = file.to_string_lossy();
    let mut order = vec!["swarm", "seed", &reference, "--trace", &file];
    order.extend(["--plain-http", "--output", "json"]);
    order.extend(operator.iter().map(String::as_str));
    let job: Value = serde_json::from_str(&tranship(&order)).expect("an order in JSON");
    assert_eq!(job["state"], "complete");
    assert_eq!(job["by_trace"], true);
    assert_eq!(
        (len(&job, "present_len"), len(&job, "total_len")),
        (read_len, read_len)
    );
    second.start_agent(&AgentOptions {
        tracker: second.tracker.as_ref().map(Tracker::address),
        ..AgentOptions::default()
    });
    let agent = &second.agents[0];
    until("the tracker has it", || {
        agent.counter("tranship_swarm_joined", "") > 0.0
    });
    start(agent);
    let fetched =
        |source: &str| agent.counter("tranship_fetched_bytes", &format!("source=\"{source}\""));
    let (seed, registry) = (fetched("seed"), fetched("registry"));
    println!("{seed} bytes from the seed, {registry} from the registry, {read_len} traced");
    tranship(&["umount", "--agent", &agent.socket(), &path]);
    // What it read ahead of need the trace does not name.
    assert!(
        seed > registry,
        "{seed} bytes from the seed, {registry} from the registry"
    );
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
