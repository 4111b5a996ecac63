//! What runs in a lab, and the crowd: all hosts read, and meanwhile things happen to them.
//!
//! Readers are threads that send a sample of each read; whoever takes the samples in knows how much has been read by all,
//! and does what the scenario wants at that share. So things happen at the same point of every run, however fast it is.

use anyhow::{Context, Result, bail, ensure};
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::figures::Counted;
use super::image;
use super::lab::Lab;
use super::machine::{AgentOptions, Machine};
use super::origin::Registry;
use super::reader::{Reader, Sample};
use super::run::Ground;
use super::scenario::{Deed, HasAll, Scenario, Tracker};
use super::tracker_machine::TrackerMachine;

/// The hosts that are no agents.
pub(super) const REGISTRY: &str = "registry";
pub(super) const TRACKERS: [&str; 2] = ["tracker", "tracker2"];

/// Everything that runs in a lab.
#[derive(Debug)]
pub(super) struct Swarm<'a> {
    ground: &'a Ground<'a>,
    pub(super) registry: Registry,
    trackers: Vec<TrackerMachine>,
    /// The one that things are done to, once that is settled.
    picked: Option<usize>,
    pub(super) machines: Vec<Machine>,
    gone: &'a [AtomicBool],
}
/// What the crowd did.
#[derive(Debug)]
pub(super) struct Crowd {
    pub(super) samples: Vec<Sample>,
    /// From each host's start to its last byte.
    pub(super) took: Vec<Option<Duration>>,
    pub(super) makespan: Duration,
    pub(super) spread: Duration,
    pub(super) event: Option<Instant>,
}

impl<'a> Swarm<'a> {
    pub(super) fn start(
        ground: &'a Ground<'a>,
        scenario: &Scenario,
        lab: &Lab,
        folder: &Path,
        gone: &'a [AtomicBool],
    ) -> Result<Self> {
        let registry = Registry::start(lab, REGISTRY, ground.folder, scenario.strangers > 0)?;
        let programs = &ground.programs;
        let trackers = trackers(ground, scenario, lab, &registry, folder)?;
        let addresses: Vec<String> = trackers.iter().map(TrackerMachine::address).collect();
        let mut machines = Vec::new();
        for host in 0..gone.len() {
            let name = agent(host);
            let options = AgentOptions {
                trackers: &addresses,
                zone: zone(scenario, host),
                corrupts: scenario.corrupts(host),
            };
            machines.push(Machine::start(
                lab,
                programs,
                &name,
                &registry,
                (&name, folder),
                options,
            )?);
        }
        for machine in &machines {
            machine.wait_joined(trackers.len())?;
        }
        Ok(Self {
            ground,
            registry,
            trackers,
            picked: None,
            machines,
            gone,
        })
    }

    pub(super) fn counted(&self) -> Result<Vec<Counted>> {
        self.machines.iter().map(Machine::counted).collect()
    }

    pub(super) fn seed_lens(&self) -> Result<(u64, u64)> {
        let (mut read, mut served) = (0, 0);
        for tracker in &self.trackers {
            let (more_read, more_served) = tracker.seed_lens()?;
            read += more_read;
            served += more_served;
        }
        Ok((read, served))
    }

    /// Has the seed of each tracker fetch the image whole.
    pub(super) fn order_seed(&self) -> Result<()> {
        let tranship = self.ground.programs.path("tranship");
        let mut trackers = self.trackers.iter();
        trackers.try_for_each(|tracker| tracker.order_seed(&tranship, &self.registry))
    }

    /// Where the trackers are.
    pub(super) fn tracker_addresses(&self) -> Vec<String> {
        self.trackers.iter().map(TrackerMachine::address).collect()
    }

    /// The tracker that things are done to: the one that had most to answer.
    fn picked(&mut self) -> Result<&mut TrackerMachine> {
        if self.picked.is_none() {
            let counts = self.trackers.iter().map(TrackerMachine::request_count);
            let counts = counts.collect::<Result<Vec<_>>>()?;
            let most = (0..counts.len()).max_by_key(|place| counts.get(*place));
            self.picked = most;
        }
        let place = self.picked.context("a tracker")?;
        self.trackers.get_mut(place).context("a tracker")
    }

    /// All hosts that have not read yet do so, and what is to happen happens.
    pub(super) fn crowd(&mut self, scenario: &Scenario) -> Result<Crowd> {
        let hosts = usize::from(scenario.has_all == HasAll::HostZero)..self.machines.len();
        let all_len = self.ground.image.work().len() * hosts.len();
        let mut deeds = scenario.deeds.clone();
        let mut sockets = vec![None; self.machines.len()];
        let mut event = None;
        if scenario.attach_first {
            for host in hosts.clone() {
                let machine = self.machines.get(host).context("a host")?;
                *sockets.get_mut(host).context("a host")? = Some(machine.attach(&self.registry)?);
            }
            while deeds.first().is_some_and(|(share, _)| *share <= 0.0) {
                let (_, deed) = deeds.remove(0);
                self.doing(deed)?;
            }
        }
        let (sender, received) = channel();
        let barrier = Barrier::new(hosts.len() + 1);
        let (ground, gone) = (self.ground, self.gone);
        let disk = &ground.image;
        thread::scope(|scope| {
            let mut readers = Vec::new();
            let plans: Vec<_> = hosts
                .clone()
                .map(|host| (host, sockets.get_mut(host).and_then(Option::take)))
                .collect();
            for (host, socket) in plans {
                let attaching = match socket {
                    Some(_) => None,
                    None => self.machines.get(host).map(Machine::attaching),
                };
                let reference = image::reference(&self.registry);
                let (barrier, samples) = (&barrier, sender.clone());
                let delay = scenario.stagger * u32::try_from(host).unwrap_or(u32::MAX);
                let (gone, restarts) = (gone.get(host).context("a host")?, scenario.restarts());
                readers.push((
                    host,
                    scope.spawn(move || {
                        barrier.wait();
                        thread::sleep(delay);
                        let begun = Instant::now();
                        let socket = match (socket, attaching) {
                            (Some(socket), _) => socket,
                            (None, Some(attaching)) => attaching.attach(&reference)?,
                            (None, None) => bail!("a host without an agent"),
                        };
                        let reader = Reader {
                            image: disk,
                            socket,
                            gone,
                            restarts,
                            samples,
                        };
                        reader.run().with_context(|| format!("host {host}"))?;
                        Ok((begun, Instant::now()))
                    }),
                ));
            }
            drop(sender);
            barrier.wait();
            let begun = Instant::now();
            let outcome = self.watch(&received, deeds, all_len, &mut event);
            if outcome.is_err() {
                for host in gone {
                    host.store(true, Ordering::SeqCst);
                }
            }
            let spans = spans(readers);
            let samples = outcome?;
            self.outcome(begun, spans?, samples, event)
        })
    }

    fn outcome(
        &self,
        begun: Instant,
        spans: Vec<(usize, Instant, Instant)>,
        samples: Vec<Sample>,
        event: Option<Instant>,
    ) -> Result<Crowd> {
        let mut took = vec![None; self.machines.len()];
        let (mut last_start, mut last_end) = (begun, begun);
        for (host, start, end) in spans {
            if self
                .gone
                .get(host)
                .is_some_and(|gone| gone.load(Ordering::SeqCst))
            {
                continue;
            }
            *took.get_mut(host).context("a host")? = Some(end - start);
            last_start = last_start.max(start);
            last_end = last_end.max(end);
        }
        Ok(Crowd {
            samples,
            took,
            makespan: last_end - begun,
            spread: last_start - begun,
            event,
        })
    }

    /// Takes in samples until the last reader ends, and does what is due.
    fn watch(
        &mut self,
        received: &Receiver<Sample>,
        mut deeds: Vec<(f64, Deed)>,
        all_len: usize,
        event: &mut Option<Instant>,
    ) -> Result<Vec<Sample>> {
        let mut samples = Vec::new();
        let mut read_len = 0;
        for sample in received {
            read_len += sample.len;
            samples.push(sample);
            #[expect(clippy::cast_precision_loss, reason = "less than 2^52 bytes")]
            let share = read_len as f64 / all_len as f64;
            while deeds.first().is_some_and(|(at, _)| *at <= share) {
                let (_, deed) = deeds.remove(0);
                event.get_or_insert_with(Instant::now);
                self.doing(deed)?;
            }
        }
        ensure!(
            deeds.is_empty(),
            "all was read before {deeds:?} could be done"
        );
        Ok(samples)
    }

    fn doing(&mut self, deed: Deed) -> Result<()> {
        let programs = &self.ground.programs;
        match deed {
            Deed::KillRegistry => self.registry.kill(),
            Deed::KillTracker => self.picked()?.kill(),
            Deed::StartTracker => self.picked()?.run(programs),
            Deed::KillAgent(host) => {
                let gone = self.gone.get(host).context("a host")?;
                gone.store(true, Ordering::SeqCst);
                self.machines.get_mut(host).context("a host")?.kill()
            }
            Deed::Nothing => Ok(()),
            Deed::RestartAgents => {
                for machine in &mut self.machines {
                    machine.restart(programs)?;
                }
                Ok(())
            }
        }
    }

    /// Fails if a part ended that nothing was done to: figures of a swarm without it would be figures of another.
    pub(super) fn check_runs(&mut self) -> Result<()> {
        self.registry.check_runs().context("the registry")?;
        for tracker in &mut self.trackers {
            tracker.check_runs().context("a tracker")?;
        }
        for (host, machine) in self.machines.iter_mut().enumerate() {
            let outcome = machine.check_runs();
            outcome.with_context(|| format!("the agent of host {host}"))?;
        }
        Ok(())
    }

    /// Stops everything in order.
    pub(super) fn stop(mut self) -> Result<()> {
        thread::scope(|scope| {
            let stopping: Vec<_> = self
                .machines
                .iter_mut()
                .map(|machine| scope.spawn(|| machine.stop()))
                .collect();
            stopping.into_iter().try_for_each(joined)
        })?;
        for tracker in &mut self.trackers {
            tracker.stop()?;
        }
        self.registry.kill()
    }
}

fn trackers(
    ground: &Ground<'_>,
    scenario: &Scenario,
    lab: &Lab,
    registry: &Registry,
    folder: &Path,
) -> Result<Vec<TrackerMachine>> {
    if scenario.tracker == Tracker::None {
        return Ok(Vec::new());
    }
    let (programs, has_seed) = (&ground.programs, scenario.tracker == Tracker::WithSeed);
    let hosts = || TRACKERS.iter().take(scenario.trackers);
    let ids = if scenario.trackers > 1 {
        let ids = hosts().map(|host| TrackerMachine::peer_id(programs, host, folder));
        ids.collect::<Result<Vec<_>>>()?
    } else {
        Vec::new()
    };
    let starting = hosts()
        .map(|host| TrackerMachine::start(lab, programs, host, registry, (folder, &ids), has_seed));
    starting.collect()
}

type Reading<'scope> = (usize, ScopedJoinHandle<'scope, Result<(Instant, Instant)>>);

fn spans(readers: Vec<Reading<'_>>) -> Result<Vec<(usize, Instant, Instant)>> {
    let mut spans = Vec::new();
    for (host, reader) in readers {
        let (start, end) = joined(reader)?;
        spans.push((host, start, end));
    }
    Ok(spans)
}

fn joined<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    match thread.join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The name of an agent's host.
pub(super) fn agent(host: usize) -> String {
    format!("h{host}")
}

/// Every other host is in the far zone, if there is one.
pub(super) fn zone(scenario: &Scenario, host: usize) -> usize {
    if scenario.thin.is_some() { host % 2 } else { 0 }
}
/// Reads everything on one host.
pub(super) fn read_one(
    ground: &Ground<'_>,
    machine: &Machine,
    registry: &Registry,
    samples: Sender<Sample>,
) -> Result<()> {
    let reader = Reader {
        image: &ground.image,
        socket: machine.attach(registry)?,
        gone: &AtomicBool::new(false),
        restarts: false,
        samples,
    };
    reader.run()
}
