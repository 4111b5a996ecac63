//! Every fault, every front end, so many rounds, and what readers saw of it.

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
use tranship_tests::registry::DockerRegistry;
use tranship_tests::{AgentOptions, Cluster, Tracker};

use super::damage;
use super::happen::{Chance, FAULTS};
use super::image;
use super::readers::{Readers, Seen};
use super::scene::Scene;

/// How often processes die; once without it.
const ROUNDS: &str = "TRANSHIP_FAULT_ROUNDS";
/// So many deaths to one of each other fault.
const SELDOM: u32 = 10;
/// A part of the names of the faults that are to happen; all of them without it. What begins with TRANSHIP is a setting of agents.
const WHICH: &str = "ONLY_FAULT";
/// How long no source answers.
const AWAY: Duration = Duration::from_secs(3);
const AWAY_NAME: &str = "registry, tracker and peer away for 3 s";

/// What each agent is given. Blocks are not kept, so that reads are reads of the store.
const SETTINGS: &str =
    "[device]\nprocesses = true\ndetach_on_stop = false\nblock_cache = \"1MiB\"\n";
/// And the store's disk: enough for all of the image, and soon full.
const DISK: &str = "48m";

/// What came of a fault under one front end.
pub(crate) struct Row {
    pub(crate) fault: String,
    pub(crate) front_end: String,
    pub(crate) rounds: u32,
    pub(crate) seen: Seen,
    /// Whether readers are to get errors.
    pub(crate) tells_readers: bool,
    /// Why the fault did not happen, where this machine does not let it: such a row says nothing of us.
    pub(crate) left_out: Option<&'static str>,
}

/// How often processes are to die.
pub(crate) fn rounds() -> u32 {
    std::env::var(ROUNDS).map_or(1, |text| text.parse().expect("a number of rounds"))
}

/// How often a fault is to happen. What a death leaves depends on the moment; the others leave much the same each time, and take
/// longer.
pub(crate) fn rounds_of(fault: &str) -> u32 {
    if fault.starts_with("kill") || fault.ends_with("in turn") {
        rounds()
    } else {
        rounds().div_ceil(SELDOM)
    }
}

/// Has every fault happen to a device of each front end, and fails where readers saw more than a pause.
pub(crate) fn run(front_ends: &[&str]) {
    let begun = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed = u64::from(begun.expect("a clock").subsec_nanos()) | 1;
    println!("{} rounds, seed {seed}", rounds());
    let registry = Arc::new(DockerRegistry::start());
    let reference = image::convert(&registry);
    let mut sources = Cluster::start(0);
    let options = AgentOptions {
        tracker: sources.tracker.as_ref().map(Tracker::address),
        extra: SETTINGS.to_owned(),
        ..AgentOptions::default()
    };
    sources.start_agent(&AgentOptions {
        extra: "[prefetch]\nbackground = true\n".to_owned(),
        ..options.clone()
    });
    let socket = sources.agents[0].socket();
    let attach = ["attach", "--agent", &socket, "--front-end", "nbd"];
    tranship_tests::tranship(&[&attach[..], &[&reference]].concat());
    let mut scenes: Vec<(Scene, Readers)> = front_ends
        .iter()
        .map(|front_end| {
            let mut scene = Scene::of(&registry, &reference, front_end, &options, Some(DISK));
            scene.use_all_of_the_disk();
            let readers = scene.readers();
            // More than twice all files: everything is here.
            readers.wait_for(48 << 20);
            readers.take();
            (scene, readers)
        })
        .collect();
    let mut rows: Vec<Row> = Vec::new();
    println!("{HEAD}");
    let which = std::env::var(WHICH).unwrap_or_default();
    for fault in FAULTS.iter().filter(|fault| fault.name.contains(&which)) {
        let happening = |number: u64, (scene, readers): &mut (Scene, Readers)| {
            let mut chance = Chance(seed + number * 2);
            let rounds = rounds_of(fault.name);
            for _ in 0..rounds {
                fault.happen(scene, readers, &mut chance);
            }
            Row {
                fault: fault.name.to_owned(),
                front_end: scene.front_end.clone(),
                rounds,
                seen: readers.take(),
                tells_readers: fault.tells_readers,
                left_out: scene.left_out.take(),
            }
        };
        thread::scope(|scope| {
            let there = scenes.iter_mut().zip(0..);
            let happening: Vec<_> = there
                .filter(|(there, _)| fault.applies_to(&there.0))
                .map(|(there, number)| scope.spawn(move || happening(number, there)))
                .collect();
            let done = happening.into_iter();
            let done = done.map(|fault| fault.join().expect("a fault that is over"));
            // As they come: a hundred rounds take an hour.
            rows.extend(done.inspect(|row| println!("{row}")));
        });
    }
    let rounds = rounds_of(AWAY_NAME);
    for _ in 0..rounds {
        lose_all_sources(&registry, &sources, &scenes);
    }
    let away = scenes.iter().map(|(scene, readers)| Row {
        fault: AWAY_NAME.to_owned(),
        front_end: scene.front_end.clone(),
        rounds,
        seen: readers.take(),
        tells_readers: false,
        left_out: None,
    });
    rows.extend(away.inspect(|row| println!("{row}")));
    for (scene, readers) in scenes {
        if rows
            .iter()
            .any(|row| row.front_end == scene.front_end && !row.is_right())
        {
            println!("--- the agent of {}\n{}", scene.front_end, scene.log());
        }
        readers.finish();
        scene.end_after_faults();
    }
    for row in rows {
        assert!(row.is_right(), "{row}");
    }
}

/// Has nobody answer for a while from whom chunks could come, when the stores have none.
fn lose_all_sources(registry: &DockerRegistry, sources: &Cluster, scenes: &[(Scene, Readers)]) {
    let tracker = sources.tracker.as_ref().expect("a tracker").pid();
    let all: [Pid; 2] = [tracker, sources.agents[0].pid()];
    registry.stand_still();
    for pid in all {
        kill_process(pid, Signal::STOP).expect("a process that is stopped");
    }
    for (scene, _) in scenes {
        damage::empty(&scene.store());
    }
    thread::sleep(AWAY);
    for pid in all {
        kill_process(pid, Signal::CONT).expect("a process that goes on");
    }
    registry.go_on();
    for (_, readers) in scenes {
        readers.wait_for_progress();
    }
}

impl Row {
    pub(crate) fn is_right(&self) -> bool {
        self.seen.wrong_len == 0 && (self.tells_readers || self.seen.error_count == 0)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.seen.error_count;
        let errors = if self.tells_readers {
            format!("({count})")
        } else {
            count.to_string()
        };
        write!(
            f,
            "{:40} {:14} {:>6} {errors:>6} {:>11} {:>10}",
            self.fault,
            self.front_end,
            if self.left_out.is_some() {
                0
            } else {
                self.rounds
            },
            self.seen.wrong_len,
            self.seen.longest.as_millis()
        )?;
        match self.left_out {
            Some(why) => write!(f, "  DID NOT HAPPEN: {why}"),
            None => Ok(()),
        }
    }
}

/// What stands above the rows. Errors in parentheses are those that readers were to get.
pub(crate) const HEAD: &str =
    "fault                                    front end      rounds errors wrong bytes longest ms";
