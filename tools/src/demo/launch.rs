//! Starts the demo's tracker and agents: a configuration file each, a relay in front, their places on the network.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tranship_agent::control::{Client, ReadyLine};

use super::daemon::{Daemon, TrackerReady, sibling};
use super::link::{Link, Relay};
use super::net;
use super::stage::{Agent, Stage, TrackerMachine};
use crate::failure::{Exit, Explain, Failure, Outcome};

/// Bytes of randomness in the token that the demo's agents share.
const TOKEN_LEN: usize = 32;

/// What an agent needs to join.
pub(super) struct Joining {
    tracker: String,
    token: String,
}

/// Starts the tracker with its relay.
pub(super) async fn start_tracker(stage: &mut Stage) -> Outcome<Joining> {
    let dir = stage.make_dir("tracker")?;
    let token = new_token()?;
    let token_file = dir.join("token");
    let what = || format!("cannot write to {}", dir.display());
    std::fs::write(&token_file, &token).explain(what)?;
    let link = Link::new(stage.registry_rate);
    let relay = Relay::start(Arc::clone(&link), stage.machines.clone())
        .explain(|| "cannot start a relay".into())?;
    let mut config = toml::Table::new();
    config.insert("listen".into(), "127.0.0.1:0".into());
    config.insert("http_listen".into(), "127.0.0.1:0".into());
    set(&mut config, "state_dir", &dir.join("state"));
    set(&mut config, "token_file", &token_file);
    // Nodes dial the relay, so that what the seed gives passes the tracker's link.
    config.insert(
        "advertise".into(),
        vec![net::multiaddr(relay.address())].into(),
    );
    let mut seed = toml::Table::new();
    set(&mut seed, "dir", &dir.join("seed"));
    seed.insert("quota".into(), "16GiB".into());
    config.insert("seed".into(), toml::Value::Table(seed));
    let path = write_config(&dir, "tracker.toml", &config)?;

    let placed = |pid| stage.machines.place(pid, &link);
    let (daemon, ready) = Daemon::start::<TrackerReady>(
        "the tracker",
        &sibling("tranship-tracker")?,
        &path,
        &dir.join("log"),
        placed,
    )
    .await?;
    let listen = ready.listen.first().and_then(net::socket);
    let listen = listen
        .ok_or_else(|| Failure::new(Exit::Failed, "the tracker listens at no TCP address"))?;
    relay.forward_to(listen);
    let tracker = format!("{}/p2p/{}", net::multiaddr(relay.address()), ready.peer_id);
    stage.tracker = Some(TrackerMachine {
        daemon,
        _relay: relay,
    });
    Ok(Joining { tracker, token })
}

/// Starts a node's agent with an empty store; without `joining` it knows no swarm.
pub(super) async fn start_agent(
    stage: &mut Stage,
    place: usize,
    phase: &str,
    joining: Option<&Joining>,
) -> Outcome {
    let no_node = || Failure::new(Exit::Failed, "there is no such node");
    let (number, link) = stage
        .nodes
        .get(place)
        .map(|node| (node.number, Arc::clone(&node.link)))
        .ok_or_else(no_node)?;
    let dir = stage.make_dir(&format!("{phase}{number}"))?;
    let socket = dir.join("agent.sock");
    let mut config = toml::Table::new();
    set(&mut config, "state_dir", &dir.join("state"));
    set(&mut config, "control_socket", &socket);
    config.insert("http_listen".into(), "127.0.0.1:0".into());
    let mut store = toml::Table::new();
    set(&mut store, "dir", &dir.join("store"));
    store.insert("quota".into(), "16GiB".into());
    config.insert("store".into(), toml::Value::Table(store));
    let mut device = toml::Table::new();
    device.insert("detach_on_stop".into(), true.into());
    config.insert("device".into(), toml::Value::Table(device));
    let mut relay = None;
    if let Some(joining) = joining {
        let front = Relay::start(Arc::clone(&link), stage.machines.clone())
            .explain(|| "cannot start a relay".into())?;
        let mut swarm = toml::Table::new();
        swarm.insert("tracker".into(), joining.tracker.clone().into());
        swarm.insert("token".into(), joining.token.clone().into());
        swarm.insert("listen".into(), "127.0.0.1:0".into());
        swarm.insert(
            "advertise".into(),
            vec![net::multiaddr(front.address())].into(),
        );
        config.insert("swarm".into(), toml::Value::Table(swarm));
        relay = Some(front);
    }
    let path = write_config(&dir, "agent.toml", &config)?;
    let placed = |pid| stage.machines.place(pid, &link);
    let name = format!("agent {number}");
    let program = sibling("tranship-agent")?;
    let (daemon, ready) =
        Daemon::start::<ReadyLine>(&name, &program, &path, &dir.join("log"), placed).await?;
    if let (Some(relay), Some(listen)) = (
        &relay,
        ready.listen.iter().find_map(|address| net::socket(address)),
    ) {
        relay.forward_to(listen);
    }
    if let Some(node) = stage.nodes.get_mut(place) {
        node.agent = Some(Agent {
            daemon,
            client: Client::connect(socket),
            dir,
            _relay: relay,
        });
    }
    Ok(())
}

fn set(table: &mut toml::Table, key: &str, path: &Path) {
    table.insert(key.into(), path.display().to_string().into());
}

fn write_config(dir: &Path, name: &str, config: &toml::Table) -> Outcome<PathBuf> {
    let path = dir.join(name);
    std::fs::write(&path, config.to_string())
        .explain(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// A token from the kernel's randomness.
fn new_token() -> Outcome<String> {
    let mut bytes = [0; TOKEN_LEN];
    let mut source =
        std::fs::File::open("/dev/urandom").explain(|| "cannot make a token".into())?;
    std::io::Read::read_exact(&mut source, &mut bytes).explain(|| "cannot make a token".into())?;
    Ok(tranship_format::Digest::of(&bytes).hex())
}
