//! Small swarms, lived through in seconds: the model repeats itself, refuses nonsense, and the swarm keeps its bounds.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop where it is"
)]

use tranship_simulate::{Report, Scenario, simulate};

fn scenario(name: &str) -> Scenario {
    let path = format!(
        "{}/../../benches/scenarios/{name}.toml",
        env!("CARGO_MANIFEST_DIR")
    );
    Scenario::parse(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn run(name: &str) -> Report {
    simulate(&scenario(name), None)
}

#[test]
fn the_same_seed_gives_the_same_report() {
    let one = serde_json::to_string(&run("slow-and-dying")).unwrap();
    let other = serde_json::to_string(&run("slow-and-dying")).unwrap();
    assert_eq!(one, other);
    let seeded = simulate(&scenario("slow-and-dying"), Some(77));
    assert_ne!(serde_json::to_string(&seeded).unwrap(), one);
}

#[test]
fn every_scenario_in_the_house_can_be_read() {
    let dir = format!("{}/../../benches/scenarios", env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for file in std::fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        let scenario = Scenario::parse(&std::fs::read_to_string(&path).unwrap());
        assert!(
            scenario.is_ok_and(|read| !read.about.is_empty()),
            "{}",
            path.display()
        );
        count += 1;
    }
    assert!(count >= 8, "only {count} scenarios");
}

#[test]
fn a_misspelt_key_is_named_with_its_place() {
    let text =
        "[image]\nlen = \"1MiB\"\n[hosts]\ncount = 2\nup = \"1gbit\"\n[trouble]\nslwo = 0.1\n";
    let error = Scenario::parse(text).unwrap_err();
    assert_eq!(error.to_string(), "unknown key `trouble.slwo`");
}

#[test]
fn a_value_that_makes_no_sense_is_named_with_what_it_must_be() {
    let with = |extra: &str| {
        let text = format!("[image]\nlen = \"1MiB\"\n[hosts]\ncount = 2\nup = \"1gbit\"\n{extra}");
        Scenario::parse(&text).unwrap_err().to_string()
    };
    assert_eq!(
        with("zones = 3"),
        "`hosts.zones` is 3, which must be from 1 to 256, and at most `hosts.count`"
    );
    assert!(with("[trouble]\nslow = 1.5").contains("`trouble.slow` is 1.5"));
    assert!(with("[registry]\nrate = \"fast\"").contains("`fast` is not a rate"));
    assert!(with("[tracker]\nback_at = \"1s\"\nlost_at = \"2s\"").contains("`tracker.back_at`"));
}

#[test]
fn a_host_alone_reads_the_registry_once_at_the_speed_of_its_link() {
    let text = "[image]\nlen = \"10MiB\"\n[hosts]\ncount = 1\nup = \"100mbit\"\n[registry]\nlatency = \"10ms\"\n";
    let report = simulate(&Scenario::parse(text).unwrap(), None);
    assert_eq!(report.unfinished_nodes, 0);
    assert!(
        (report.origin_amplification - 1.0).abs() < 1e-9,
        "{report:?}"
    );
    assert!(
        (1.0..1.1).contains(&report.makespan_over_optimum),
        "{report:?}"
    );
}

#[test]
fn a_flash_crowd_on_slow_links_costs_one_pull_and_little_time() {
    for seed in 1..=3 {
        let report = simulate(&scenario("flash-crowd-16"), Some(seed));
        assert_eq!((report.unfinished_nodes, report.read_errors), (0, 0));
        assert!(report.origin_amplification <= 1.05, "{report:?}");
        assert!(report.makespan_over_optimum <= 1.5, "{report:?}");
        assert!(report.upload_skew <= 3.0, "{report:?}");
        assert!(report.hedged_share <= 0.1, "{report:?}");
        assert!(report.messages_per_chunk <= 0.15, "{report:?}");
    }
}

#[test]
fn a_crowd_that_loses_the_tracker_costs_one_pull_too() {
    let report = run("no-tracker");
    assert_eq!((report.unfinished_nodes, report.read_errors), (0, 0));
    assert!(report.origin_amplification <= 1.05, "{report:?}");
    assert!(report.makespan_over_optimum <= 1.5, "{report:?}");
}

// The seed was every stripe's root with several children in each tree: 2.2 T*.
#[test]
fn a_seed_whose_link_is_like_all_others_keeps_nobody_waiting() {
    let report = run("flash-crowd-16-seed");
    assert!(report.origin_amplification <= 1.05, "{report:?}");
    assert!(report.makespan_over_optimum <= 1.5, "{report:?}");
}

// Patience was a second whatever the link, and parents of whom nothing came for two were avoided until nobody was left but the registry: 1.4 pulls.
#[test]
fn links_on_which_chunks_take_long_make_nobody_impatient() {
    let report = run("flash-crowd-16-slow-links");
    assert!(report.origin_amplification <= 1.05, "{report:?}");
    assert!(report.makespan_over_optimum <= 1.75, "{report:?}");
    assert!(report.hedged_share <= 0.1, "{report:?}");
}

// A liar was banned and read the registry alone: 1.6 pulls.
#[test]
fn slow_dying_and_lying_hosts_cost_next_to_nothing() {
    let mut sum = 0.0;
    for seed in 1..=4 {
        let report = simulate(&scenario("slow-and-dying"), Some(seed));
        assert!(report.origin_amplification <= 1.25, "{report:?}");
        assert!(report.makespan_over_optimum <= 2.2, "{report:?}");
        assert!(report.hedged_share <= 0.1, "{report:?}");
        assert_eq!(report.read_errors, 0);
        sum += report.makespan_over_optimum;
    }
    assert!(sum / 4.0 <= 2.0, "{sum}");
}

// What the real bench's mixed swarm does. The slow one stayed a parent until the next review: 2.1 times the optimum on average.
#[test]
fn few_hosts_of_which_one_is_slow_one_dies_and_one_lies_take_twice_the_optimum() {
    let mut sum = 0.0;
    for seed in 1..=8 {
        let report = simulate(&scenario("slow-and-dying-16"), Some(seed));
        assert_eq!((report.unfinished_nodes, report.read_errors), (0, 0));
        assert!(report.origin_amplification <= 1.1, "{report:?}");
        sum += report.makespan_over_optimum;
    }
    assert!(sum / 8.0 <= 2.05, "{sum}");
}

// The slow one held every lease and read as fast as the registry gave; the others gave each other up: 8.4 times the
// optimum, and 2.6 pulls. What it had read is read once more.
#[test]
fn a_slow_first_host_does_not_hold_up_all_others() {
    let report = run("slow-holder");
    assert_eq!((report.unfinished_nodes, report.read_errors), (0, 0));
    assert!(report.origin_amplification <= 1.6, "{report:?}");
    assert!(report.makespan_over_optimum <= 2.5, "{report:?}");
}
