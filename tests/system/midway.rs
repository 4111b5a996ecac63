//! `kill -9` of an agent in the middle of attach, mount, unmount and detach, at a moment that chance chooses.
//!
//! The next agent either has the device, whole, or has nothing of it; what the first one has answered still holds. When all is
//! detached nothing is left, in the kernel, in the list of processes or on disk.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nbd::client::{NbdClient, handshake};
use rustix::fs::{Advice, fadvise};
use serde_json::Value;
use tempfile::TempDir;
use tranship_tests::command::tranship_output;
use tranship_tests::containerd::{until, until_none};
use tranship_tests::registry::DockerRegistry;
use tranship_tests::{Agent, AgentOptions, Cluster, leftovers, tranship};

use crate::faults::matrix::rounds;
use crate::faults::{Chance, FILE_COUNT, content, convert, device_bytes, name};

/// Rounds of each front end in an ordinary run: all steps twice or more.
const FEWEST: u32 = 10;

/// In the middle of what the agent dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Attach,
    Mount,
    MountWritable,
    Unmount,
    Detach,
    DetachByForce,
}

const OF_MOUNTABLE: [Step; 6] = [
    Step::Attach,
    Step::Mount,
    Step::Detach,
    Step::MountWritable,
    Step::Unmount,
    Step::DetachByForce,
];
const OF_SOCKETS: [Step; 3] = [Step::Attach, Step::Detach, Step::DetachByForce];

impl Step {
    /// What is there before it: a device, and its mount.
    fn needs(self) -> (bool, bool) {
        match self {
            Self::Attach => (false, false),
            Self::Mount | Self::MountWritable | Self::Detach => (true, false),
            Self::Unmount | Self::DetachByForce => (true, true),
        }
    }

    /// And after it.
    fn leads_to(self) -> (bool, bool) {
        match self {
            Self::Attach | Self::Unmount => (true, false),
            Self::Mount | Self::MountWritable => (true, true),
            Self::Detach | Self::DetachByForce => (false, false),
        }
    }
}

/// An image, and an agent that shows it.
struct Scene {
    cluster: Cluster,
    front_end: &'static str,
    reference: String,
    bytes: Vec<u8>,
    target: TempDir,
}

impl Scene {
    fn agent(&self) -> &Agent {
        &self.cluster.agents[0]
    }

    fn arguments(&self, step: Step) -> Vec<String> {
        let target = self.target.path().to_string_lossy().into_owned();
        let front_end = ["--front-end", self.front_end];
        let (verb, rest): (&str, Vec<&str>) = match step {
            Step::Attach => ("attach", [&front_end[..], &[&self.reference]].concat()),
            Step::Mount => (
                "mount",
                [&front_end[..], &[&self.reference, &target]].concat(),
            ),
            Step::MountWritable => (
                "mount",
                [&["--writable"], &front_end[..], &[&self.reference, &target]].concat(),
            ),
            Step::Unmount => ("umount", vec![&target]),
            Step::Detach => ("detach", vec![&self.reference]),
            Step::DetachByForce => ("detach", vec!["--force", &self.reference]),
        };
        let socket = self.agent().socket();
        let all = [&[verb, "--agent", &socket], &rest[..]].concat();
        all.into_iter().map(str::to_owned).collect()
    }

    fn take(&self, step: Step) -> Duration {
        let arguments = self.arguments(step);
        let begun = Instant::now();
        tranship(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        begun.elapsed()
    }

    /// The device, if there is one.
    fn device(&self) -> Option<Value> {
        let mut devices = self.agent().call("GET", "/v1/devices", "");
        let devices = devices.as_array_mut().expect("a list");
        assert!(devices.len() < 2, "{devices:?}");
        devices.pop()
    }

    fn is_mounted_in_kernel(&self) -> bool {
        !leftovers::mounts(self.target.path()).is_empty()
    }

    fn before(&self, step: Step) -> (bool, bool) {
        let (is_there, is_mounted) = step.needs();
        (is_there, is_mounted && self.is_mountable())
    }

    fn set_up(&self, step: Step) {
        let (is_there, is_mounted) = self.before(step);
        if is_there {
            self.take(Step::Attach);
        }
        if is_mounted {
            self.take(Step::Mount);
        }
    }

    fn is_mountable(&self) -> bool {
        self.front_end != "nbd"
    }

    /// Kills the agent within a step that takes about so long; whether that was answered.
    fn die_within(&mut self, step: Step, took: Duration, chance: &mut Chance) -> bool {
        let arguments = self.arguments(step);
        let doing = thread::spawn(move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            tranship_output(&arguments)
        });
        let most = u64::try_from(took.as_micros()).expect("a short time");
        thread::sleep(Duration::from_micros(chance.below(most.max(1))));
        self.cluster.agents[0].kill();
        let (code, _, _) = doing.join().expect("a call");
        self.cluster.agents[0].restart();
        code == 0
    }

    /// Fails unless what there is of the device is whole, and what was answered holds.
    fn check(&self, step: Step, is_answered: bool, story: &str) {
        until(&format!("{story}: all devices are back"), || {
            let device = self.device();
            device.is_none_or(|device| device["state"] == "attached")
        });
        let device = self.device();
        let mounts = device
            .as_ref()
            .map_or(0, |device| device["mounts"].as_array().map_or(0, Vec::len));
        let found = (device.is_some(), mounts > 0);
        let (before, after) = (self.before(step), step.leads_to());
        // Whoever detaches by force unmounts first.
        let is_between = found == (before.0, after.1);
        let is_right = found == after || !is_answered && (found == before || is_between);
        assert!(
            is_right,
            "{story}, answered: {is_answered}: {device:?}\n{}",
            self.agent().log()
        );
        assert_eq!(self.is_mounted_in_kernel(), mounts > 0, "{story}");
        if mounts > 0 {
            for file in 0..FILE_COUNT {
                let found = read_past_cache(&self.target.path().join(name(file)));
                assert!(found == content(file), "{story}: other bytes in {file}");
            }
        }
        if let Some(device) = device {
            let path = device["path"].as_str().expect("a path");
            let found = if self.is_mountable() {
                read_past_cache(Path::new(path))
            } else {
                read_socket(Path::new(path), self.bytes.len())
            };
            assert!(found == self.bytes, "{story}: other bytes in the device");
        }
        self.expect_no_orphans(story);
    }

    fn expect_no_orphans(&self, story: &str) {
        let socket = self.agent().socket();
        let asked = ["devices", "--orphans", "--output", "json", "--agent"];
        let orphans = tranship(&[&asked[..], &[&socket]].concat());
        assert_eq!(orphans.trim(), "[]", "{story}");
    }

    /// Takes away what is there, and waits until nothing of it is left.
    fn clear(&self, story: &str) {
        let mounts = |device: &Value| device["mounts"].as_array().map_or(0, Vec::len);
        if self.device().is_some_and(|device| mounts(&device) > 0) {
            self.take(Step::Unmount);
        }
        while self.device().is_some() {
            self.take(Step::Detach);
        }
        self.expect_no_orphans(story);
        until_none(&format!("{story}: what is detached goes"), || {
            let mut left = leftovers::of_devices(self.agent().folder());
            left.extend(leftovers::mounts(self.target.path()));
            left
        });
    }
}

fn read_past_cache(path: &Path) -> Vec<u8> {
    let mut file = File::open(path).expect("what is there is opened");
    fadvise(&file, 0, None, Advice::DontNeed).expect("dropped pages");
    let mut found = Vec::new();
    file.read_to_end(&mut found).expect("what is there is read");
    found
}

fn read_socket(path: &Path, len: usize) -> Vec<u8> {
    let mut stream = UnixStream::connect(path).expect("the device's socket");
    let export = handshake(&mut stream, b"").expect("a server");
    let mut found = vec![0; len];
    let mut client = NbdClient::new(stream, &export);
    client
        .read_exact(&mut found)
        .expect("what is there is read");
    found
}

#[test]
fn an_agent_that_dies_midway_leaves_a_device_whole_or_nothing_of_it() {
    let begun = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed = u64::from(begun.expect("a clock").subsec_nanos()) | 1;
    let mut chance = Chance(seed);
    let registry = DockerRegistry::start();
    let reference = convert(&registry);
    let bytes = device_bytes(&reference);
    let mut unanswered = 0;
    for (front_end, steps) in [
        ("fuse-loop", &OF_MOUNTABLE[..]),
        ("erofs-file", &OF_MOUNTABLE),
        ("nbd", &OF_SOCKETS),
    ] {
        let mut cluster = Cluster::empty();
        cluster.start_agent(&AgentOptions {
            extra: "[device]\nprocesses = true\ndetach_on_stop = false\n".to_owned(),
            ..AgentOptions::default()
        });
        let mut scene = Scene {
            cluster,
            front_end,
            reference: reference.clone(),
            bytes: bytes.clone(),
            target: tempfile::tempdir().expect("a mount point"),
        };
        let took: Vec<Duration> = steps
            .iter()
            .map(|step| {
                scene.set_up(*step);
                let took = scene.take(*step);
                scene.clear("a rehearsal");
                took
            })
            .collect();
        let count = rounds().max(FEWEST);
        let mut answered = 0;
        for (round, (step, took)) in (0..count).zip(steps.iter().zip(&took).cycle()) {
            let story = format!("{front_end}, seed {seed}, round {round}: {step:?}");
            scene.set_up(*step);
            let is_answered = scene.die_within(*step, *took, &mut chance);
            answered += u32::from(is_answered);
            scene.check(*step, is_answered, &story);
            scene.clear(&story);
        }
        println!(
            "{front_end}: the agent died {count} times, {answered} of them after it had answered, seed {seed}"
        );
        unanswered += count - answered;
        let dir = scene.agent().folder().join("state/devices");
        let records = fs::read_dir(dir).expect("the agent's records");
        assert_eq!(records.count(), 0);
    }
    assert!(unanswered > 0, "it never died midway");
}
