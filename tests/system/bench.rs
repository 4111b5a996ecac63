//! The bench's swarm, a few hosts of it: what happens to a swarm while an image starts costs no reader an error.
//!
//! The figures are not judged here, for a debug build on a shared machine gives none; that no byte is wrong, that no read
//! fails and that nothing is left over is.

use serde_json::Value;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tranship_tests::{binary, need_tools, run};

fn swarm(scenario: &str, hosts: &str) -> Value {
    need_tools(&["ip", "tc", "docker-registry"]);
    let said = run(
        binary("tranship-bench"),
        &[
            "swarm",
            "--scenario",
            scenario,
            "--hosts",
            hosts,
            "--working-set",
            "16",
            "--output",
            "json",
        ],
    );
    let figures: Value = serde_json::from_str(&said).expect("figures in JSON");
    assert_eq!(figures["wrong_bytes"], 0, "{scenario}: {figures:#}");
    assert_eq!(figures["read_errors"], 0, "{scenario}: {figures:#}");
    figures
}

fn namespaces_of(process: u32) -> usize {
    let all = run("ip", &["netns", "list"]);
    let ours = format!("tranship-bench-{process}-");
    all.lines().filter(|line| line.starts_with(&ours)).count()
}

#[test]
fn devices_are_measured_and_nothing_is_left_over() {
    need_tools(&["docker-registry", "nbdkit", "nbdcopy", "qemu-io"]);
    let said = run(
        binary("tranship-bench"),
        &["device", "--own", "64", "--runs", "1", "--crowd", "4"],
    );
    let figures: Value = serde_json::from_str(&said).expect("figures in JSON");
    for name in [
        "fuse_loop_seq_ratio",
        "fuse_loop_seq_mb_per_s",
        "graduated_seq_ratio",
        "fuse_loop_random_ratio",
        "erofs_file_random_ratio",
        "erofs_file_random_32_ratio",
        "nbd_seq_ratio",
        "nbd_random_ratio",
        "attach_ms",
        "attach_100_s",
        "pause_kill_ms",
        "pause_upgrade_ms",
        "pause_agent_kill_ms",
        "pause_agent_upgrade_ms",
        "idle_private_mib",
    ] {
        let figure = figures[name].as_f64().expect("a number");
        assert!(figure > 0.0, "{name}: {figures:#}");
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("the table of mounts");
    // The bench works in memory, where nobody else mounts anything.
    let left: Vec<&str> = mounts
        .lines()
        .filter(|line| line.contains("fuse.tranship") && line.contains("/dev/shm/"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn readiness_is_measured_and_a_lazy_start_fetches_a_part() {
    need_tools(&["containerd", "ctr", "runc", "docker-registry", "ip", "tc"]);
    let bench = ["readiness", "--application", "busybox"];
    let said = run(
        binary("tranship-bench"),
        &[&bench[..], &["--runs", "1", "--warm-runs", "1"]].concat(),
    );
    let figures: Value = serde_json::from_str(&said).expect("figures in JSON");
    let figure = |name: &str| {
        let figure = figures[name].as_f64().filter(|figure| *figure > 0.0);
        figure.unwrap_or_else(|| panic!("{name}: {figures:#}"))
    };
    for name in [
        "cold_speedup",
        "warm_ratio",
        "bytes_full_pull",
        "cold_lazy_s",
        "cold_full_s",
        "prepare_first_ms",
        "prepare_ms",
        "prepare_100_s",
    ] {
        figure(name);
    }
    assert!(
        figure("bytes_fetched") < figure("bytes_image") / 2.0,
        "{figures:#}"
    );
}

// Whole agents were given nothing by each other since a right to an image is asked for: its registry was to say who may
// have it, and there is none.
#[test]
fn what_a_chunk_costs_between_whole_agents_is_measured() {
    let said = run(
        binary("tranship-bench"),
        &["transport", "ours-whole", "--runs", "1", "--output", "json"],
    );
    let figures: Value = serde_json::from_str(&said).expect("figures in JSON");
    assert!(figures.to_string().contains("p50"), "{figures:#}");
}

#[test]
fn a_crowd_costs_the_registry_less_than_everybody_going_there() {
    let figures = swarm("flash-crowd", "6");
    let origin = figures["origin_amplification"].as_f64().expect("a number");
    assert!(origin < 3.0, "{figures:#}");
}

#[test]
fn hosts_that_start_one_after_the_other_read_what_others_have() {
    let figures = swarm("staggered", "4");
    let origin = figures["origin_amplification"].as_f64().expect("a number");
    assert!(origin < 3.0, "{figures:#}");
}

#[test]
fn all_read_what_they_want_over_a_thin_link_between_two_zones() {
    swarm("two-zones", "4");
}

#[test]
fn nobody_reads_an_error_while_all_agents_restart_one_after_the_other() {
    swarm("rolling-restart", "4");
}

#[test]
fn nobody_reads_an_error_when_the_tracker_goes_and_comes_back() {
    swarm("tracker-restart", "4");
}

// The first host to attach knew of nobody when the tracker went, and read the whole image; others read parts of it twice.
#[test]
fn a_crowd_that_has_lost_its_tracker_finds_together() {
    let figures = swarm("no-tracker", "6");
    let origin = figures["origin_amplification"].as_f64().expect("a number");
    assert!(origin < 1.75, "{figures:#}");
}

#[test]
fn nobody_reads_an_error_when_the_registry_goes_and_a_peer_has_everything() {
    let figures = swarm("registry-killed", "4");
    assert_eq!(figures["base"], "registry-stays", "{figures:#}");
    let base = figures["each_base_run"].as_array();
    assert_eq!(base.map(Vec::len), Some(1), "{figures:#}");
    let bytes = &figures["each_run"][0]["bytes"];
    let preloaded = bytes["preloaded"].as_u64();
    assert!(preloaded >= bytes["unique"].as_u64(), "{figures:#}");
}

#[test]
fn all_read_what_the_seed_was_ordered_to_fetch_when_the_registry_is_gone() {
    let figures = swarm("seed-only", "3");
    let origin = figures["origin_amplification"].as_f64().expect("a number");
    assert!(origin < 0.1, "{figures:#}");
}

#[test]
fn all_read_what_they_want_when_half_of_them_are_far_away() {
    let figures = swarm("far-zones", "4");
    let round_trip = &figures["each_run"][0]["zone_round_trip_ms"];
    let round_trip = round_trip.as_f64().expect("a number");
    assert!(round_trip >= 20.0, "{figures:#}");
}

#[test]
fn nobody_reads_an_error_among_slow_dying_and_lying_peers() {
    swarm("mixed", "6");
}

#[test]
fn nobody_reads_an_error_when_the_tracker_of_an_image_goes_and_another_stands_in() {
    swarm("two-trackers", "4");
}

#[test]
fn who_may_not_pull_an_image_is_given_nothing_of_it_by_anybody() {
    let figures = swarm("no-rights", "3");
    assert_eq!(figures["chunks_without_right"], 0, "{figures:#}");
    let stranger = &figures["each_run"][0]["stranger"];
    assert!(
        stranger["asked"].as_u64().is_some_and(|asked| asked > 0),
        "{figures:#}"
    );
    assert_eq!(stranger["peers"], 0, "{figures:#}");
}

/// Processes that run on the hosts of a bench.
fn processes_of(process: u32) -> usize {
    let all = run("ip", &["netns", "list"]);
    let ours = format!("tranship-bench-{process}-");
    let names = all.lines().filter_map(|line| line.split(' ').next());
    let pids = names.filter(|name| name.starts_with(&ours)).map(|name| {
        // One that is being taken down has none.
        let said = Command::new("ip").args(["netns", "pids", name]).output();
        said.map_or(0, |said| {
            said.stdout.split(|byte| *byte == b'\n').count() - 1
        })
    });
    pids.sum()
}

fn stops_as_soon_as(there: impl Fn(u32) -> bool) {
    need_tools(&["ip", "tc", "docker-registry"]);
    let mut bench = Command::new(binary("tranship-bench"))
        .args(["swarm", "--hosts", "3", "--working-set", "64"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a bench that starts");
    let deadline = Instant::now() + Duration::from_mins(1);
    while !there(bench.id()) {
        assert!(Instant::now() < deadline, "the bench does not come so far");
        thread::park_timeout(Duration::from_millis(10));
    }
    let pid = i32::try_from(bench.id()).expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal sent");
    let ended = bench.wait().expect("an end");
    assert_eq!(ended.code(), Some(130));
    assert_eq!(namespaces_of(bench.id()), 0);
}

#[test]
fn a_bench_that_is_told_to_stop_leaves_nothing_behind() {
    stops_as_soon_as(|bench| namespaces_of(bench) > 0);
}

// The run saw its registry die, failed, and ended the process in the middle of the way out.
#[test]
fn a_bench_that_is_told_to_stop_while_its_parts_run_says_so_and_not_that_they_died() {
    stops_as_soon_as(|bench| processes_of(bench) > 0);
}
