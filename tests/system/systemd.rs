//! The shipped unit under a real systemd: what `systemctl` does to the agent, and what kills its whole unit, is not noticed by who reads
//! its devices, since keeper and device processes are in scopes of their own.

use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tranship_tests::Systemd;
use tranship_tests::registry::DockerRegistry;
use tranship_tests::systemd::Process;

use crate::faults::{Readers, convert};

const UNIT: &str = "tranship-agent.service";
/// As for upgrades. Blocks are not kept, so that reads are reads of the store.
const SETTINGS: &str = r#"
http_listen = "127.0.0.1:0"
[store]
quota = "8GiB"
[device]
detach_on_stop = false
block_cache = "1MiB"
"#;
const FRONT_ENDS: [&str; 2] = ["fuse-loop", "erofs-file"];

/// A machine whose agent has an image mounted by each front end, and readers of both.
struct Scene {
    systemd: Systemd,
    readers: Vec<Readers>,
    reference: String,
    /// Lives for as long as chunks may be asked for.
    _registry: DockerRegistry,
}

/// The processes that should survive the agent.
#[derive(Debug, PartialEq, Eq)]
struct Survivors {
    keeper: Process,
    devices: Vec<Process>,
}

impl Scene {
    fn set() -> Self {
        let registry = DockerRegistry::start();
        let reference = convert(&registry);
        let systemd = Systemd::boot(SETTINGS);
        for front_end in FRONT_ENDS {
            let target = target(front_end);
            fs::create_dir(systemd.path(&target)).expect("a mount point");
            let mount = ["tranship", "mount", "--front-end", front_end];
            systemd.run(&[&mount[..], &[&reference, &target]].concat());
        }
        let readers = FRONT_ENDS.map(|front_end| Readers::start(&systemd.path(&target(front_end))));
        for readers in &readers {
            // More than all files: everything is here, and can be read without an agent.
            readers.wait_for(48 << 20);
        }
        Self {
            systemd,
            readers: readers.into(),
            reference,
            _registry: registry,
        }
    }

    fn systemctl(&self, args: &[&str]) {
        self.systemd.run(&[&["systemctl"], args].concat());
    }

    fn wait_for_progress(&self) {
        for readers in &self.readers {
            readers.wait_for_progress();
        }
    }

    /// The agent's process, which is where systemd has put it.
    fn agent(&self) -> Option<Pid> {
        let agents = self.systemd.processes("tranship-agent");
        let group = format!("system.slice/{UNIT}");
        assert!(
            agents.iter().all(|agent| agent.group == group),
            "{agents:?}"
        );
        agents.first().map(|agent| agent.pid)
    }

    /// Waits until another agent than `before` answers.
    fn wait_for_next_agent(&self, before: Option<Pid>) {
        self.systemd.wait_for("another agent", || {
            self.agent().filter(|agent| Some(*agent) != before)
        });
        self.systemd.wait_for_agent();
    }

    /// The one keeper, once it is nobody's child.
    fn keeper(&self, before: Option<&Process>) -> Process {
        self.systemd.wait_for("a keeper", || {
            let mut keepers = self.systemd.processes("tranship-keeper");
            keepers.retain(|keeper| Some(keeper) != before && stays(keeper.pid));
            keepers.pop().filter(|_| keepers.is_empty())
        })
    }

    /// Keeper and device processes, each of which is in a scope of its own.
    fn survivors(&self) -> Survivors {
        let survivors = Survivors {
            keeper: self.keeper(None),
            devices: self.systemd.processes("tranship-device"),
        };
        assert_eq!(survivors.devices.len(), FRONT_ENDS.len());
        let mut groups: Vec<&str> = survivors
            .devices
            .iter()
            .map(|device| &*device.group)
            .collect();
        groups.push(&survivors.keeper.group);
        for group in &groups {
            let scope = group.strip_prefix("tranship.slice/run-");
            assert!(scope.is_some(), "{group}\n{}", self.systemd.log());
        }
        groups.sort_unstable();
        groups.dedup();
        assert_eq!(groups.len(), FRONT_ENDS.len() + 1, "{survivors:?}");
        survivors
    }

    /// Ends readers, devices and agent; gives the longest that a read took.
    fn end(self) -> Duration {
        let longest = self.readers.into_iter().map(Readers::finish).max();
        let systemd = self.systemd;
        for front_end in FRONT_ENDS {
            systemd.run(&["tranship", "umount", &target(front_end)]);
        }
        systemd.run(&["tranship", "detach", &self.reference]);
        systemd.wait_for("an end of the devices", || {
            systemd.devices_left().is_empty().then_some(())
        });
        systemd.run(&["systemctl", "stop", UNIT]);
        // The keeper has nothing to hold any more, and nobody who calls.
        systemd.wait_for("an end of the scopes", || {
            systemd.scopes().is_empty().then_some(())
        });
        systemd.end();
        longest.expect("readers")
    }
}

fn target(front_end: &str) -> String {
    format!("/mnt/{front_end}")
}

/// Whether it is the keeper itself, and not the one that starts it and leaves.
fn stays(pid: Pid) -> bool {
    let command = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    command
        .split(|byte| *byte == 0)
        .any(|word| word == b"--stay")
}

fn kill(pid: Pid) {
    kill_process(pid, Signal::KILL).expect("a process that is killed");
}

#[test]
fn readers_do_not_notice_what_becomes_of_the_unit() {
    let scene = Scene::set();
    let before = scene.survivors();
    let unchanged = |what: &str| {
        scene.wait_for_progress();
        assert_eq!(scene.survivors(), before, "after {what}");
    };

    let agent = scene.agent();
    scene.systemctl(&["restart", UNIT]);
    scene.wait_for_next_agent(agent);
    unchanged("a restart");

    let agent = scene.agent();
    kill(agent.expect("an agent"));
    scene.wait_for_next_agent(agent);
    unchanged("a crash");

    let agent = scene.agent();
    scene.systemctl(&["kill", "--signal=KILL", "--kill-whom=all", UNIT]);
    scene.wait_for_next_agent(agent);
    unchanged("the death of all that is in the unit");

    scene.systemctl(&["daemon-reexec"]);
    unchanged("another systemd");

    scene.systemctl(&["stop", UNIT]);
    assert_eq!(scene.agent(), None);
    unchanged("a stop");
    scene.systemctl(&["start", UNIT]);
    scene.wait_for_next_agent(None);
    unchanged("a start");

    println!("longest read: {:?}", scene.end());
}

#[test]
fn what_is_started_anew_is_in_a_scope_again() {
    let scene = Scene::set();
    // The second one dies young, which says nothing against its place.
    let mut next = scene.survivors().devices.pop();
    for _ in 0..2 {
        let (before, killed) = (scene.survivors(), next.take().expect("a device process"));
        kill(killed.pid);
        let there = scene.systemd.wait_for("another device process", || {
            let there = scene.systemd.processes("tranship-device");
            (there.len() == FRONT_ENDS.len() && !there.contains(&killed)).then_some(there)
        });
        let mut new = there.into_iter();
        next = new.find(|device| !before.devices.contains(device));
        let after = scene.survivors();
        assert_eq!(after.keeper, before.keeper);
        let kept = after.devices.iter();
        let kept = kept.filter(|device| before.devices.contains(device));
        assert_eq!(kept.count(), FRONT_ENDS.len() - 1, "{before:?} {after:?}");
    }
    scene.wait_for_progress();

    let before = scene.survivors();
    kill(before.keeper.pid);
    scene.keeper(Some(&before.keeper));
    scene.wait_for_progress();
    assert_eq!(scene.survivors().devices, before.devices);

    // Without an agent a device process starts the next, which must not be part of that one.
    scene.systemctl(&["stop", UNIT]);
    let before = scene.survivors();
    kill(before.keeper.pid);
    scene.keeper(Some(&before.keeper));
    scene.wait_for_progress();
    let after = scene.survivors();
    assert_eq!(after.devices, before.devices);
    scene.systemctl(&["start", UNIT]);
    scene.wait_for_next_agent(None);
    scene.wait_for_progress();
    assert_eq!(scene.survivors(), after);

    println!("longest read: {:?}", scene.end());
}
