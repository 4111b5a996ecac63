//! A device that moves to a plain file of its node and back, under readers that check every byte.

mod shared;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::faults::{Readers, Scene};

/// What the agent of these tests is given, as long as devices may graduate.
const ALLOWED: &str = "[device]\ngraduate = true\n[prefetch]\nbackground = true\n";

impl Scene {
    fn is_graduated(&mut self) -> bool {
        self.device()["graduated"] == Value::Bool(true)
    }

    fn wait_until_graduated(&mut self, wanted: bool) {
        let begun = Instant::now();
        while self.is_graduated() != wanted {
            assert!(
                begun.elapsed() < Duration::from_mins(1),
                "the device does not move; the agent logged:\n{}",
                self.agent().log()
            );
            thread::yield_now();
        }
    }

    /// Changes what is allowed by the agent's next start.
    fn allow(&mut self, allowed: bool) {
        self.configure(
            &format!("graduate = {}", !allowed),
            &format!("graduate = {allowed}"),
        );
    }
}

#[test]
fn readers_notice_no_move_to_the_plain_file_and_back() {
    let mut scene = Scene::set("fuse-loop", ALLOWED);
    let readers = scene.readers();
    scene.wait_until_graduated(true);
    readers.wait_for_progress();
    scene.agent().kill();
    // Nobody of ours is there, and nobody of ours is needed.
    readers.wait_for_progress();
    for allowed in [false, true, false, true] {
        scene.allow(allowed);
        scene.agent().restart();
        scene.wait_until_graduated(allowed);
        readers.wait_for_progress();
    }
    println!(
        "moved 5 times, 0 errors, longest read {:?}",
        readers.finish()
    );
    let run = scene.agent().folder().join("state/run");
    scene.end_with(|| {
        let left: Vec<_> = fs::read_dir(&run)
            .expect("the run directory")
            .flatten()
            .filter(|entry| entry.path().join("plain").exists())
            .collect();
        assert!(left.is_empty(), "plain files are left: {left:?}");
    });
}

#[test]
fn a_device_graduates_within_the_quota_and_comes_back_when_that_shrinks() {
    let (small, large) = ("graduate_quota = \"8MiB\"", "graduate_quota = \"64MiB\"");
    let settings = ALLOWED.replace("graduate = true", &format!("graduate = true\n{small}"));
    let mut scene = Scene::set("fuse-loop", &settings);
    let readers = scene.readers();
    // All of it is here, and it is looked at each second whether it may.
    readers.wait_for(48 << 20);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        assert!(!scene.is_graduated(), "it does not fit");
        readers.wait_for_progress();
    }
    scene.configure(small, large);
    scene.agent().restart();
    scene.wait_until_graduated(true);
    readers.wait_for_progress();
    scene.configure(large, small);
    scene.agent().restart();
    scene.wait_until_graduated(false);
    readers.wait_for_progress();
    readers.finish();
    scene.end();
}

#[test]
fn readers_notice_no_death_of_the_agent_while_a_device_moves() {
    let mut scene = Scene::set("fuse-loop", ALLOWED);
    let readers = scene.readers();
    for turn in 0..8 {
        // A device moves within a second or so of the start, or as soon as a reader has brought the last chunk.
        kill_on_the_way(&mut scene, &readers, turn);
        scene.allow(turn % 2 == 1);
        scene.agent().restart();
    }
    readers.wait_for_progress();
    println!(
        "8 agents killed, 0 errors, longest read {:?}",
        readers.finish()
    );
    scene.end_with(|| ());
}

/// Kills the agent while the device is on its way, each time a little later.
fn kill_on_the_way(scene: &mut Scene, readers: &Readers, turn: u64) {
    readers.wait_for(1 + turn * (768 << 10));
    scene.agent().kill();
}
