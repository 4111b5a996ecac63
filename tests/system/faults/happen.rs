//! The faults: each happens to a scene under its readers, and is over when all of them go on.

use std::fs;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};
use rustix::process::{Pid, Signal, kill_process};
use tranship_tests::command::tranship_output;

use super::damage::{self, data_files};
use super::memory_limit::MemoryLimit;
use super::readers::Readers;
use super::scene::Scene;

/// How long a process stands still.
const STILL: Duration = Duration::from_secs(5);

/// What happens, and to which devices.
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    /// Only to devices that the kernel reads: those have a process and a keeper.
    only_mounted: bool,
    /// Whether readers are to be told.
    pub(crate) tells_readers: bool,
    happen: fn(&mut Scene, &Readers, &mut Chance),
}

/// Where a process dies, by chance.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

impl Fault {
    pub(crate) fn applies_to(&self, scene: &Scene) -> bool {
        scene.is_mounted() || !self.only_mounted
    }

    pub(crate) fn happen(&self, scene: &mut Scene, readers: &Readers, chance: &mut Chance) {
        (self.happen)(scene, readers, chance);
    }
}

const fn of_any(name: &'static str, happen: fn(&mut Scene, &Readers, &mut Chance)) -> Fault {
    Fault {
        name,
        only_mounted: false,
        tells_readers: false,
        happen,
    }
}

const fn of_mounted(name: &'static str, happen: fn(&mut Scene, &Readers, &mut Chance)) -> Fault {
    Fault {
        only_mounted: true,
        ..of_any(name, happen)
    }
}

/// All of them, in an order in which each finds what it needs.
pub(crate) const FAULTS: [Fault; 17] = [
    of_mounted("kill -9 of the device process", |scene, readers, _| {
        kill_device_process(scene);
        readers.wait_for_progress();
    }),
    of_any("kill -9 of the agent", |scene, readers, _| {
        scene.agent().kill();
        if scene.is_mounted() {
            // What is here is read without an agent.
            readers.wait_for_progress();
        }
        scene.agent().restart();
        readers.wait_for_progress();
    }),
    of_mounted("kill -9 of the keeper", |scene, readers, _| {
        scene.kill_keeper();
        readers.wait_for_progress();
    }),
    of_any("kill -9 of all in turn, by chance", kill_all_in_turn),
    of_mounted("device process stands still", |scene, readers, _| {
        stand_still(scene.process());
        readers.wait_for_progress();
    }),
    of_any("agent stands still", |scene, readers, _| {
        stand_still(scene.agent().pid());
        readers.wait_for_progress();
    }),
    of_mounted("keeper stands still", |scene, readers, _| {
        stand_still(scene.keeper());
        readers.wait_for_progress();
    }),
    of_mounted("upgrade of the device process", |scene, readers, _| {
        let before = scene.process();
        scene.agent().replace_program("tranship-device");
        scene.agent().stop();
        scene.agent().restart();
        scene.next_process(before);
        readers.wait_for_progress();
    }),
    of_any("upgrade of the agent", |scene, readers, _| {
        scene.agent().replace_program("tranship-agent");
        scene.agent().stop();
        scene.agent().restart();
        readers.wait_for_progress();
    }),
    of_mounted("upgrade of the keeper", |scene, readers, _| {
        let before = scene.keeper();
        scene.agent().replace_program("tranship-keeper");
        scene.agent().stop();
        scene.agent().restart();
        let begun = Instant::now();
        while is_alive(before) {
            scene.check(begun, "the old keeper stays");
        }
        scene.keeper();
        readers.wait_for_progress();
    }),
    of_any("disk full", fill_disk),
    of_any("store file truncated", |scene, readers, _| {
        damage::truncate(&scene.store());
        readers.wait_for_progress();
    }),
    of_any("store file bit-flipped", |scene, readers, _| {
        damage::flip_bits(&scene.store());
        readers.wait_for_progress();
    }),
    of_any("store file deleted", |scene, readers, _| {
        damage::remove(&scene.store());
        readers.wait_for_progress();
        // The next agent makes others, and the device's process has those open that are no more.
        scene.agent().restart();
        readers.wait_for_progress();
    }),
    of_mounted("OOM kill of the device process", |scene, readers, _| {
        let before = scene.process();
        if kill_by_memory(scene, before, |_| ()) {
            scene.next_process(before);
        }
        readers.wait_for_progress();
    }),
    of_any("OOM kill of the agent", |scene, readers, _| {
        let pid = scene.agent().pid();
        kill_by_memory(scene, pid, |scene| {
            // It needs memory for whoever calls.
            let socket = scene.agent().socket();
            drop(tranship_output(&["devices", "--agent", &socket]));
        });
        scene.agent().restart();
        readers.wait_for_progress();
    }),
    Fault {
        tells_readers: true,
        ..of_any("detach while reading", |scene, readers, _| {
            if scene.is_mounted() {
                let (socket, path) = (scene.agent().socket(), scene.target.path());
                let path = path.to_string_lossy().into_owned();
                let (code, _, _) = tranship_output(&["umount", "--agent", &socket, &path]);
                let (still, _, _) =
                    tranship_output(&["detach", "--agent", &socket, &scene.reference]);
                // Whoever asks nicely is told that it is in use; a moment without an open file is another matter.
                assert!(code != 0 || still == 0, "it is in use");
            }
            scene.detach_if_there();
            scene.attach();
            readers.wait_for_progress();
        })
    },
];

fn kill(pid: Pid) {
    kill_process(pid, Signal::KILL).expect("a process that is killed");
}

fn kill_device_process(scene: &Scene) {
    let before = scene.process();
    kill(before);
    scene.next_process(before);
}

fn kill_all_in_turn(scene: &mut Scene, readers: &Readers, chance: &mut Chance) {
    let mut victims = if scene.is_mounted() {
        vec![0, 1, 2]
    } else {
        vec![0]
    };
    while !victims.is_empty() {
        let place = usize::try_from(chance.below(victims.len() as u64)).expect("a place");
        readers.wait_for(1 + chance.below(4 << 20));
        match victims.swap_remove(place) {
            0 => scene.agent().restart(),
            1 => kill_device_process(scene),
            _ => scene.kill_keeper(),
        }
    }
    readers.wait_for_progress();
}

fn stand_still(pid: Pid) {
    kill_process(pid, Signal::STOP).expect("a process that is stopped");
    thread::sleep(STILL);
    kill_process(pid, Signal::CONT).expect("a process that goes on");
}

/// Has the store lose what it has while there is no room for anything.
fn fill_disk(scene: &mut Scene, readers: &Readers, _: &mut Chance) {
    damage::empty(&scene.store());
    let junk = scene.store().join("junk");
    let full = fill(&junk);
    assert!(full, "the disk is not full");
    readers.wait_for_progress();
    fs::remove_file(junk).expect("a file that goes");
    readers.wait_for_progress();
}

/// Writes until the disk is full; whether it is.
fn fill(path: &std::path::Path) -> bool {
    let file = fs::File::create(path).expect("a file");
    let piece = vec![7; 1 << 20];
    for at in 0..1024 {
        if let Err(error) = file.write_all_at(&piece, at << 20) {
            return error.kind() == std::io::ErrorKind::StorageFull;
        }
    }
    false
}

/// Has the kernel kill a process because its group may have no more memory; whether this machine lets one do that. `ask` makes it
/// need some.
fn kill_by_memory(scene: &mut Scene, pid: Pid, ask: impl Fn(&mut Scene)) -> bool {
    let Some(limit) = MemoryLimit::make() else {
        scene.left_out = Some("no group whose memory may be limited, and nothing was killed");
        return false;
    };
    limit.put(pid);
    let begun = Instant::now();
    while is_alive(pid) {
        for path in data_files(&scene.store()) {
            // What is read of the store then needs memory, too.
            let file = fs::File::open(path).expect("a stored blob");
            fadvise(&file, 0, None, Advice::DontNeed).expect("dropped pages");
        }
        ask(scene);
        assert!(begun.elapsed() < Duration::from_secs(30), "it lives on");
        thread::yield_now();
    }
    assert!(limit.has_killed(), "it died of something else");
    true
}

/// Whether there is such a process, and not only its remains.
fn is_alive(pid: Pid) -> bool {
    let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let text = fs::read_to_string(path).unwrap_or_default();
    let state = text.rsplit(") ").next().unwrap_or_default();
    !text.is_empty() && !state.starts_with(['Z', 'X'])
}
