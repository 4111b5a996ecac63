//! Reads that hang because the registry stands still: they are seen, they end when the device is taken away, and they go on with
//! another agent.

use std::fs;
use std::io;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use tranship_tests::containerd::until;
use tranship_tests::tranship;

use crate::faults::{FILE_COUNT, Scene, content, name};

/// A file that neither the mount nor what was read before has brought.
const FILE: usize = FILE_COUNT - 1;

impl Scene {
    /// Has somebody read what only the registry has, which stands still.
    fn hang(&mut self) -> JoinHandle<io::Result<Vec<u8>>> {
        self.registry.stand_still();
        let path = self.target.path().join(name(FILE));
        let reading = thread::spawn(move || fs::read(path));
        self.wait_for("a read that hangs", |device, _| {
            device["waiting"]["count"] != Value::Null
        });
        reading
    }

    /// Has a process of its own do the same, and waits until it is stuck in the kernel.
    fn hang_a_process(&self) -> Child {
        let process = Command::new("cat")
            .arg(self.target.path().join(name(FILE - 1)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("cat starts");
        until("a process that hangs in state D", || {
            states_of(process.id()).contains('D')
        });
        process
    }

    fn wait_for(&mut self, what: &str, is_there: impl Fn(&Value, &str) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let device = self.agent().call("GET", "/v1/devices", "")[0].take();
            let log = self.agent().log();
            if is_there(&device, &log) {
                return device;
            }
            assert!(
                begun.elapsed() < Duration::from_mins(1),
                "no sign of {what}: {device}\n{log}"
            );
            thread::yield_now();
        }
    }
}

/// The states of a process's threads, one letter each; of none where there is no such process.
fn states_of(pid: u32) -> String {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let stats = threads
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|thread| {
            // It may be gone by now.
            let stat = fs::read_to_string(thread.path().join("stat")).ok()?;
            stat.rsplit_once(") ")?.1.chars().next()
        });
    stats.collect()
}

#[test]
fn reads_that_hang_are_seen_and_end_with_a_forced_detach() {
    for front_end in ["fuse-loop", "erofs-file"] {
        let mut scene = Scene::set(front_end, "[device]\nstop_grace = \"1s\"\n");
        let reading = scene.hang();
        let mut process = scene.hang_a_process();
        let device = scene.wait_for("the log's word", |_, log| {
            log.contains("a read hangs because its chunk does not come")
        });
        let tried = device["waiting"]["tried"].as_str().expect("what was tried");
        assert!(tried.contains("registry"), "{device}");
        assert!(device["waiting"]["chunk"].is_u64() && device["waiting"]["blob"].is_string());
        assert!(scene.agent().counter("tranship_device_waiting_reads", "") > 0.0);
        let (socket, reference) = (scene.agent().socket(), scene.reference.clone());
        let table = tranship(&["devices", "--agent", &socket]);
        assert!(table.contains("chunk"), "{table}");
        // Nobody chose how long: what the settings say is shown all the same.
        assert_eq!(device["deadline_ms"], 300_000, "{device}");
        assert!(table.contains("wait=5m"), "{table}");

        let begun = Instant::now();
        tranship(&["detach", "--agent", &socket, "--force", &reference]);
        let took = begun.elapsed();
        assert!(reading.join().expect("a reader").is_err(), "it was told");
        let pid = process.id();
        until("the process that read ends", || {
            process.try_wait().expect("a process").is_some()
        });
        let status = process.wait().expect("a process");
        assert!(!status.success(), "it was told: {status}");
        assert_eq!(states_of(pid), "", "the process is still there");
        until("none of our threads is stuck", || {
            !states_of(std::process::id()).contains('D')
        });
        println!("{front_end}: detached by force under a read that hung, in {took:?}");
        let devices = scene.agent().call("GET", "/v1/devices", "");
        assert_eq!(devices, serde_json::json!([]));
        let orphans = tranship(&[
            "devices",
            "--orphans",
            "--agent",
            &socket,
            "--output",
            "json",
        ]);
        assert_eq!(orphans.trim(), "[]");
        let (folder, target) = (scene.agent().folder().to_owned(), scene.target.path());
        let mounts = fs::read_to_string("/proc/self/mounts").expect("the table of mounts");
        let is_ours = |line: &&str| {
            [&*folder, target]
                .iter()
                .any(|path| line.contains(&*path.to_string_lossy()))
        };
        let left: Vec<&str> = mounts.lines().filter(is_ours).collect();
        assert!(left.is_empty(), "{left:?}");
        scene.registry.go_on();
    }
}

#[test]
fn a_read_that_hangs_goes_on_with_the_next_agent() {
    let mut scene = Scene::set("fuse-loop", "[device]\ndetach_on_stop = false\n");
    let reading = scene.hang();
    scene.agent().stop();
    scene.agent().restart();
    scene.registry.go_on();
    let bytes = reading.join().expect("a reader").expect("no error");
    assert!(bytes == content(FILE), "other bytes");
    scene.end_with(|| ());
}

/// What the reads of an image are to do was known to the agent alone: while that was away, its device's process had them wait for as long as any.
#[test]
fn a_read_that_nobody_serves_fails_in_time_while_the_agent_is_away() {
    let settings = "[device]\nread_deadline = \"1h\"\nagent_patience = \"2s\"\n";
    let mut scene = Scene::set("fuse-loop", settings);
    let (socket, reference) = (scene.agent().socket(), scene.reference.clone());
    let policy = ["--front-end", "fuse-loop", "--unserved", "wait=1s"];
    tranship(&[&["attach", "--agent", &socket], &policy[..], &[&reference]].concat());
    scene.registry.stand_still();
    let read = |scene: &Scene, file| fs::read(scene.target.path().join(name(file)));
    read(&scene, FILE - 1).expect_err("the agent knows by then, and so does the process");
    scene.agent().kill();
    let begun = Instant::now();
    read(&scene, FILE).expect_err("nobody has it");
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_secs(3),
        "an agent may come back: {took:?}"
    );
    assert!(took < Duration::from_mins(1), "{took:?}");
    scene.registry.go_on();
    scene.agent().restart();
    let bytes = read(&scene, FILE).expect("no error");
    assert!(bytes == content(FILE), "other bytes");
    tranship(&["detach", "--agent", &socket, "--force", &reference]);
}
