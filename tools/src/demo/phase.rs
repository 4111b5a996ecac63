//! The three measurements, each of all nodes at once: a full pull, lazily from the registry, lazily with peers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::try_join_all;
use serde::Serialize;
use tranship_agent::control::{Client, DeviceInfo, SourceCounters};

use super::compare::{self, Compared};
use super::launch;
use super::scene::Scene;
use super::stage::{Agent, Stage};
use super::start::{self, Rights};
use crate::agent;
use crate::failure::{Exit, Explain, Failure, Outcome};
use crate::image::blocking;

/// An agent that has not joined after this long will not.
const JOIN_LIMIT: Duration = Duration::from_secs(20);

/// One phase's numbers. Lengths are bytes, summed over the nodes, up to the moment when the last node was ready.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Phase {
    /// Seconds until ready, by node.
    pub(crate) ready: Vec<f64>,
    /// What the registry served, by its own count.
    pub(crate) registry: u64,
    /// What came from the tracker's seed.
    pub(crate) seed: u64,
    /// What came from other nodes.
    pub(crate) peers: u64,
    /// What was read again from the nodes' own stores.
    pub(crate) disk: u64,
    /// What passed the nodes' links towards them, with all that protocols add.
    pub(crate) wire: u64,
    /// Chunks that had not their hash.
    pub(crate) refused: u64,
}

impl Phase {
    /// Seconds until the last node was ready.
    pub(crate) fn last(&self) -> f64 {
        self.ready.iter().copied().fold(0.0, f64::max)
    }

    fn add(&mut self, counters: &SourceCounters) {
        self.seed += counters.seed_len;
        self.peers += counters.peer_len;
        self.disk += counters.store_len;
        self.refused += counters.refused_count;
    }
}

/// Every node pulls and unpacks everything. The first node's files come back, as the yardstick of what is right.
pub(crate) async fn full_pull(
    stage: &Stage,
    scene: &Scene,
    rights: Rights,
) -> Outcome<(Phase, PathBuf)> {
    let (before, wire) = (stage.registry_bytes(), stage.wire_bytes());
    let starts = stage
        .nodes
        .iter()
        .map(|node| start::eagerly(stage, node, scene, rights));
    let done = try_join_all(starts).await?;
    let ready = done.iter().map(|(took, _)| took.as_secs_f64()).collect();
    let registry = stage.registry_bytes() - before;
    let wire = stage.wire_bytes() - wire;
    let mut dirs = done.into_iter().map(|(_, dir)| dir);
    let first = dirs
        .next()
        .ok_or_else(|| Failure::new(Exit::Failed, "there are no nodes"))?;
    for dir in dirs.chain([first.join("download")]) {
        let removed = tokio::fs::remove_dir_all(&dir).await;
        removed.explain(|| format!("cannot remove {}", dir.display()))?;
    }
    Ok((
        Phase {
            ready,
            registry,
            wire,
            ..Phase::default()
        },
        first.join("root"),
    ))
}

/// Every node starts the image lazily with a cold store; the agents run until `end_phase`.
pub(crate) async fn lazy(
    stage: &mut Stage,
    scene: &Scene,
    rights: Rights,
    swarm: bool,
) -> Outcome<(Phase, Vec<DeviceInfo>)> {
    let name = if swarm { "peers" } else { "registry" };
    let joining = if swarm {
        Some(launch::start_tracker(stage).await?)
    } else {
        None
    };
    for place in 0..stage.nodes.len() {
        launch::start_agent(stage, place, name, joining.as_ref()).await?;
    }
    if swarm {
        try_join_all(agents(stage).map(|agent| wait_until_joined(&agent.client))).await?;
    }
    let (before, wire) = (stage.registry_bytes(), stage.wire_bytes());
    let done = try_join_all(agents(stage).map(|agent| start::lazily(agent, scene, rights))).await?;
    let mut phase = Phase {
        registry: stage.registry_bytes() - before,
        wire: stage.wire_bytes() - wire,
        ..Phase::default()
    };
    for agent in agents(stage) {
        let status = agent
            .client
            .status()
            .await
            .map_err(|error| agent::failure("cannot ask an agent".into(), &error))?;
        phase.add(&status.sources);
    }
    phase.ready = done.iter().map(|(took, _)| took.as_secs_f64()).collect();
    Ok((phase, done.into_iter().map(|(_, device)| device).collect()))
}

/// Compares what the nodes show with the unpacked original: all of it on the first, what the command reads on the others.
pub(crate) async fn compare(
    stage: &Stage,
    scene: &Scene,
    rights: Rights,
    devices: &[DeviceInfo],
    unpacked: &Path,
) -> Outcome<Compared> {
    let mut result = Compared::default();
    for (place, (agent, device)) in agents(stage).zip(devices).enumerate() {
        let view = start::view(device, agent, rights).await?;
        let (unpacked, needed) = (unpacked.to_path_buf(), scene.needed.clone());
        let compared = blocking(move || {
            if place == 0 {
                compare::all(&unpacked, &view)
            } else {
                compare::some(&unpacked, &view, &needed)
            }
        });
        result.add(
            compared
                .await?
                .explain(|| "cannot compare the files".into())?,
        );
    }
    Ok(result)
}

fn agents(stage: &Stage) -> impl Iterator<Item = &Agent> {
    stage.nodes.iter().filter_map(|node| node.agent.as_ref())
}

/// Waits until the tracker has taken an agent in: the start is timed, joining is not.
async fn wait_until_joined(client: &Client) -> Outcome {
    let asking = async {
        loop {
            let status = client
                .status()
                .await
                .map_err(|error| agent::failure("cannot ask an agent".into(), &error))?;
            if status.swarm.joined {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(JOIN_LIMIT, asking)
        .await
        .unwrap_or_else(|_| {
            Err(
                Failure::new(Exit::Unavailable, "an agent did not join the swarm")
                    .why("the tracker did not take it in"),
            )
        })
}
