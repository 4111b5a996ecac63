//! One run: a lab is made, an image starts on all its hosts, and everything is gone again.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use super::crowd::{Crowd, REGISTRY, Swarm, TRACKERS, agent, read_one, zone};
use super::figures::{Counted, Facts, Figures, HostFigures};
use super::image::Image;
use super::lab::{Lab, Link, Place, ThinLink};
use super::machine::{AgentOptions, Machine, Programs};
use super::origin::Registry;
use super::scenario::{HasAll, SLOWNESS, Scenario, Tracker};
use super::stranger::{self, Findings, STRANGER};
use super::tracker_machine::TRACKER_PORT;

/// What all runs of one call share.
#[derive(Debug)]
pub(super) struct Ground<'a> {
    pub(super) programs: Programs,
    /// The registry's blobs, and a folder for each run.
    pub(super) folder: &'a Path,
    pub(super) image: Image,
    /// What every link lets through, in bits a second.
    pub(super) link: u64,
}

/// Pushes the image and reads it once without a swarm: the bytes that one host needs.
pub(super) fn prepare(ground: &Ground<'_>) -> Result<u64> {
    // Nothing of this goes over a link.
    let any = Link {
        up: 1_000_000_000,
        down: 1_000_000_000,
    };
    let place = Place {
        name: REGISTRY.to_owned(),
        zone: 0,
        link: any,
    };
    let lab = Lab::up(vec![place], None)?;
    let mut registry = Registry::start(&lab, REGISTRY, ground.folder, false)?;
    let tranship = ground.programs.path("tranship");
    let namespace = lab.namespace(REGISTRY);
    ground
        .image
        .push(&tranship, &namespace, &registry, ground.folder)?;
    let mut machine = Machine::start(
        &lab,
        &ground.programs,
        REGISTRY,
        &registry,
        ("reference", ground.folder),
        AgentOptions::default(),
    )?;
    let (samples, received) = channel();
    read_one(ground, &machine, &registry, samples)?;
    let wrong: usize = received
        .iter()
        .map(|read| read.wrong_len + usize::from(read.failed))
        .sum();
    ensure!(
        wrong == 0,
        "an agent without a swarm reads {wrong} wrong bytes"
    );
    let unique_len = machine.counted()?.registry_bytes;
    machine.stop()?;
    registry.kill()?;
    lab.down()?;
    fs::remove_dir_all(ground.folder.join("reference")).context("remove a folder")?;
    Ok(unique_len)
}
/// Runs `scenario` on `count` hosts.
pub(super) fn run(
    ground: &Ground<'_>,
    scenario: &Scenario,
    count: usize,
    unique_len: u64,
) -> Result<Figures> {
    let lab = lab_of(ground, scenario, count)?;
    let folder = tempfile::tempdir_in(ground.folder).context("make a folder for the run")?;
    let gone: Vec<_> = (0..count).map(|_| AtomicBool::new(false)).collect();
    let mut swarm = Swarm::start(ground, scenario, &lab, folder.path(), &gone)?;
    match scenario.has_all {
        HasAll::Nobody => {}
        HasAll::HostZero => {
            let first = swarm.machines.first().context("a host")?;
            let (samples, _ignored) = channel();
            read_one(ground, first, &swarm.registry, samples)?;
        }
        HasAll::Seed => swarm.order_seed()?,
    }
    swarm.check_runs()?;
    let before = swarm.counted()?;
    let seed_before = swarm.seed_lens()?;
    let (sent_before, thin_before) = (swarm.registry.sent_len(), thin_len(&lab, scenario)?);
    let cpu_before = cpu_ticks()?;
    let outcome = read(&mut swarm, scenario, &lab, folder.path());
    let cpu_after = cpu_ticks()?;
    // Readers fail where an agent died: that is the reason then.
    swarm.check_runs()?;
    let (crowd, findings) = outcome?;
    let after = swarm.counted()?;
    let seed_after = swarm.seed_lens()?;
    let preloaded_len = preloaded_len(&before) + seed_before.0;
    let hosts = after.into_iter().zip(before).enumerate();
    let hosts = hosts.map(|(host, (after, before))| HostFigures {
        host,
        seconds: crowd
            .took
            .get(host)
            .copied()
            .flatten()
            .map(|took| took.as_secs_f64()),
        counted: after.since(&before),
    });
    let facts = Facts {
        link: ground.link,
        hosts: hosts.collect(),
        makespan: crowd.makespan,
        spread: crowd.spread,
        event: crowd.event,
        samples: crowd.samples,
        unique_len,
        origin_len: swarm.registry.sent_len() - sent_before,
        preloaded_len,
        seed_registry_len: seed_after.0 - seed_before.0,
        seed_served_len: seed_after.1 - seed_before.1,
        stranger: findings,
        thin_len: thin_len(&lab, scenario)?
            .zip(thin_before)
            .map(|(after, before)| after - before),
        round_trip: round_trip(&lab, scenario, count)?,
        cpu_share: share_of(cpu_before, cpu_after),
    };
    swarm.stop()?;
    lab.down()?;
    Ok(Figures::of(facts))
}
/// All read; the stranger meanwhile asks, if there is one.
fn read(
    swarm: &mut Swarm<'_>,
    scenario: &Scenario,
    lab: &Lab,
    folder: &Path,
) -> Result<(Crowd, Option<Findings>)> {
    if scenario.strangers == 0 {
        return Ok((swarm.crowd(scenario)?, None));
    }
    let (trackers, over) = (swarm.tracker_addresses(), AtomicBool::new(false));
    let registry = swarm.registry.place();
    thread::scope(|scope| {
        let asking =
            scope.spawn(|| stranger::ask_for_everything(lab, &registry, &trackers, folder, &over));
        let crowd = swarm.crowd(scenario);
        over.store(true, Ordering::SeqCst);
        let findings = match asking.join() {
            Ok(findings) => findings,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let (crowd, findings) = (crowd?, findings?);
        ensure!(
            findings.asked > 0,
            "the member without rights asked for nothing"
        );
        ensure!(
            findings.got == 0 && findings.peers == 0,
            "a member without rights got {} chunks and met {} peers",
            findings.got,
            findings.peers
        );
        Ok((crowd, Some(findings)))
    })
}
fn lab_of(ground: &Ground<'_>, scenario: &Scenario, count: usize) -> Result<Lab> {
    let even = Link {
        up: ground.link,
        down: ground.link,
    };
    let slow = Link {
        up: ground.link / SLOWNESS,
        down: ground.link,
    };
    let others = TRACKERS.iter().take(scenario.trackers);
    let mut places: Vec<_> = std::iter::once(&REGISTRY)
        .chain(others)
        .map(|name| Place {
            name: (*name).to_owned(),
            zone: 0,
            link: even,
        })
        .collect();
    places.extend((scenario.strangers > 0).then(|| Place {
        name: STRANGER.to_owned(),
        zone: 0,
        link: even,
    }));
    places.extend((0..count).map(|host| Place {
        name: agent(host),
        zone: zone(scenario, host),
        link: if host < scenario.slow { slow } else { even },
    }));
    let between = scenario.thin.map(|part| ThinLink {
        rate: ground.link * count as u64 / 2 / part,
        delay: scenario.delay,
    });
    Lab::up(places, between)
}
/// What the hosts had fetched before the crowd began.
fn preloaded_len(before: &[Counted]) -> u64 {
    let fetched = |of: &Counted| of.peer_bytes + of.seed_bytes + of.registry_bytes;
    before.iter().map(fetched).sum()
}
fn thin_len(lab: &Lab, scenario: &Scenario) -> Result<Option<u64>> {
    scenario.thin.map(|_| lab.thin_len()).transpose()
}
/// Between the zones, now that nobody reads: from a host in the far one to the tracker.
fn round_trip(lab: &Lab, scenario: &Scenario, count: usize) -> Result<Option<Duration>> {
    let far = (0..count).find(|host| zone(scenario, *host) == 1);
    let far = far.filter(|_| scenario.tracker != Tracker::None);
    far.map(|far| lab.round_trip(&agent(far), TRACKERS[0], TRACKER_PORT))
        .transpose()
}
/// Ticks that the machine's processors were in use, and in all.
fn cpu_ticks() -> Result<(u64, u64)> {
    let stat = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let line = stat.lines().next().context("its first line")?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|field| field.parse().ok())
        .collect();
    let all: u64 = ticks.iter().sum();
    // The fourth is idle, the fifth waits for a disk.
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    Ok((all - idle, all))
}

fn share_of(before: (u64, u64), after: (u64, u64)) -> f64 {
    let (used, all) = (after.0 - before.0, after.1 - before.1);
    #[expect(
        clippy::cast_precision_loss,
        reason = "a run takes less than 2^52 ticks"
    )]
    if all == 0 {
        0.0
    } else {
        used as f64 / all as f64
    }
}
