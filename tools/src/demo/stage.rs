//! What the demo has set up: a registry, a tracker, nodes, and how all of it goes away again.
//!
//! Everything that outlives a function stands in here, so that the end of the demo, a failure and Ctrl-C take the same
//! way out: unmount, detach, stop the processes by their pids, remove the directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tranship_agent::control::Client;

use super::daemon::Daemon;
use super::link::{Link, Machines, Relay};
use super::registry::Registry;
use crate::cli::DemoArgs;
use crate::failure::{Explain, Outcome};
use tranship_simulate::Rate;

/// Unmounting and detaching may take this long before it is done by force.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);
/// How soon a mount that was in use is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// A machine of the demo that starts the image.
#[derive(Debug)]
pub(crate) struct Node {
    /// Counted from 1, as people do.
    pub(crate) number: usize,
    /// Its link.
    pub(crate) link: Arc<Link>,
    /// The agent of the phase that runs.
    pub(crate) agent: Option<Agent>,
}

/// A running agent.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) daemon: Daemon,
    pub(crate) client: Client,
    /// Its state, store, mount point; new for each phase, so that nothing is warm.
    pub(crate) dir: PathBuf,
    /// Peers reach it through this; without a swarm there is none.
    pub(crate) _relay: Option<Relay>,
}

impl Agent {
    /// Where the image is mounted.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.join("root")
    }
}

/// The tracker and what stands in front of it.
#[derive(Debug)]
pub(crate) struct TrackerMachine {
    pub(crate) daemon: Daemon,
    /// Agents reach it through this, as long as it is here.
    pub(crate) _relay: Relay,
}

/// Everything that is set up.
#[derive(Debug)]
pub(crate) struct Stage {
    dir: Option<TempDir>,
    path: PathBuf,
    pub(crate) machines: Machines,
    pub(crate) registry: Option<Registry>,
    /// Machines reach the registry through this.
    pub(crate) registry_relay: Option<Relay>,
    pub(crate) registry_link: Arc<Link>,
    /// Its speed; the tracker stands beside it and has the same.
    pub(crate) registry_rate: Rate,
    pub(crate) nodes: Vec<Node>,
    pub(crate) tracker: Option<TrackerMachine>,
}

impl Stage {
    /// Makes the directory and the links; nothing runs yet.
    pub(crate) fn new(args: &DemoArgs) -> Outcome<Self> {
        let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
        // Short, since the control sockets' paths must fit into 107 bytes.
        let dir = tempfile::Builder::new()
            .prefix("tranship-demo-")
            .rand_bytes(4)
            .tempdir_in(&parent)
            .explain(|| format!("cannot make a directory under {}", parent.display()))?;
        let path = dir
            .path()
            .canonicalize()
            .explain(|| format!("cannot use {}", dir.path().display()))?;
        let nodes = (1..=usize::from(args.nodes)).map(|number| Node {
            number,
            link: Link::new(args.link),
            agent: None,
        });
        let registry_rate = args.registry_link.unwrap_or(args.link);
        Ok(Self {
            dir: Some(dir),
            path,
            machines: Machines::default(),
            registry: None,
            registry_relay: None,
            registry_link: Link::new(registry_rate),
            registry_rate,
            nodes: nodes.collect(),
            tracker: None,
        })
    }

    /// Where all files of the demo are.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A new directory of the demo.
    pub(crate) fn make_dir(&self, name: &str) -> Outcome<PathBuf> {
        let dir = self.path.join(name);
        std::fs::create_dir_all(&dir).explain(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }

    /// Starts the registry and its relay.
    pub(crate) async fn start_registry(&mut self) -> Outcome {
        let dir = self.make_dir("registry")?;
        let registry = Registry::start(&dir)
            .await
            .explain(|| "cannot start the registry".into())?;
        let relay = Relay::start(Arc::clone(&self.registry_link), self.machines.clone())
            .explain(|| "cannot start the registry's relay".into())?;
        relay.forward_to(registry.address());
        self.registry = Some(registry);
        self.registry_relay = Some(relay);
        Ok(())
    }

    /// Bytes that have reached the nodes over their links so far.
    pub(crate) fn wire_bytes(&self) -> u64 {
        self.nodes.iter().map(|node| node.link.received()).sum()
    }

    /// Blob bytes that the registry has served so far.
    pub(crate) fn registry_bytes(&self) -> u64 {
        self.registry.as_ref().map_or(0, Registry::served)
    }

    /// Ends the agents and the tracker of a phase, with their mounts, devices and files.
    pub(crate) async fn end_phase(&mut self) {
        let ending = self.nodes.iter_mut().filter_map(|node| node.agent.take());
        let machines = &self.machines;
        futures::future::join_all(ending.map(|agent| end_agent(agent, machines))).await;
        if let Some(mut tracker) = self.tracker.take() {
            tracker.daemon.stop().await;
        }
    }

    /// Ends everything and removes all files.
    pub(crate) async fn tear_down(mut self) {
        self.end_phase().await;
        if let Some(registry) = self.registry.take() {
            registry.stop().await;
        }
        unmount_below(&self.path);
        // Thousands of files: some disks take seconds for that.
        let closed = self
            .dir
            .take()
            .map(|dir| tokio::task::spawn_blocking(move || dir.close()));
        let failed = match closed {
            Some(closing) => closing.await.map_err(std::io::Error::other).flatten().err(),
            None => None,
        };
        if let Some(error) = failed {
            crate::output::say(&format!("left over: {}: {error}", self.path.display()));
        }
    }
}

async fn end_agent(mut agent: Agent, machines: &Machines) {
    let root = agent.root();
    // Each step is tried whatever became of the one before: a demo that failed in the middle has done only some of them.
    let leaving = async {
        // A command that was killed inside holds the mount until its last read has ended.
        while agent
            .client
            .unmount(&root)
            .await
            .is_err_and(|error| error.status() == Some(409))
        {
            tokio::time::sleep(RETRY_AFTER).await;
        }
        for device in agent.client.devices().await.unwrap_or_default() {
            for _ in 0..device.use_count.max(1) {
                if let Err(error) = agent.client.detach(&device.id).await {
                    tracing::debug!(%error, "not detached");
                }
            }
        }
    };
    if tokio::time::timeout(LEAVE_LIMIT, leaving).await.is_err() {
        tracing::warn!(root = %root.display(), "still in use: it is taken away by force");
    }
    if let Some(pid) = agent.daemon.pid() {
        machines.remove(pid);
    }
    agent.daemon.stop().await;
    unmount_below(&agent.dir);
    if let Err(error) = tokio::fs::remove_dir_all(&agent.dir).await {
        tracing::debug!(%error, dir = %agent.dir.display(), "left for the end");
    }
}

/// Takes off what is still mounted below a directory of ours, the innermost first: an agent that was killed cannot.
fn unmount_below(dir: &Path) {
    let mut mounts: Vec<PathBuf> = tranship_device::mount::entries()
        .unwrap_or_default()
        .into_iter()
        .map(|entry| entry.target)
        .filter(|target| target.starts_with(dir) && target != dir)
        .collect();
    mounts.sort();
    for target in mounts.iter().rev() {
        if let Err(error) = rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH) {
            tracing::warn!(%error, target = %target.display(), "cannot unmount");
        }
    }
}
