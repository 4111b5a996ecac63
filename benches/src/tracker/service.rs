//! The whole service in a process of its own, and a thousand light clients in this one.
//!
//! The handshakes come first and are not counted: nodes join in the course of days and start images in a second.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::task::JoinSet;
use tranship_format::wire::tracker::Join;
use tranship_format::wire::{JoinProof, TrackerReply, TrackerRequest, Versions};
use tranship_source::net::certificate::wire_peer;
use tranship_source::net::identity::Identity;
use tranship_source::net::{JoinToken, TrackerAddress};
use tranship_tracker::config::{Check, SeedMode};
use tranship_tracker::{Config, Service};

use super::caller::Caller;
use super::script::{self, Script};
use super::{Load, SERVICE};
use crate::cost;

/// What was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figures {
    pub(super) calls: u64,
    pub(super) calls_per_cpu_s: f64,
    pub(super) calls_per_s: f64,
    pub(super) joined_rss_mib: f64,
    pub(super) peak_rss_mib: f64,
    pub(super) idle_cpu_share: f64,
    pub(super) abandoned_cpu_share: f64,
}

/// What lets the clients in.
const TOKEN: &str = "a token for measurements";
/// Clients that shake hands at once.
const JOINING: usize = 16;
/// How long an idle tracker is watched.
const WATCH: Duration = Duration::from_secs(10);
/// Members that do not come back are forgotten by then.
const FORGOTTEN: Duration = Duration::from_secs(20);

/// The tracker, until standard input ends: what the measured process runs.
///
/// # Errors
/// When it does not start.
pub fn serve(dir: &Path) -> Result<()> {
    // As `tranship-tracker` does first of all.
    tranship_device::give_large_buffers_back();
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    runtime.block_on(async {
        let mut config = Config {
            state_dir: dir.to_owned(),
            listen: "127.0.0.1:0".to_owned(),
            http_listen: "127.0.0.1:0".parse().context("an address")?,
            ..Config::default()
        };
        config.seed.mode = SeedMode::Off;
        // There is no registry to ask.
        config.rights.check = Check::Members;
        let service = Service::start(config, Some(JoinToken::new(TOKEN))).await?;
        let mut stdout = std::io::stdout();
        writeln!(stdout, "{}", service.ready().listen.join(" "))?;
        stdout.flush()?;
        let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
        // Either way whoever measured has gone.
        let _ = ended.await;
        service.stop().await;
        Ok(())
    })
}

/// The process that is measured; it ends with this.
struct Measured {
    child: Child,
    address: TrackerAddress,
}

impl Measured {
    fn start(dir: &Path) -> Result<Self> {
        let program = std::env::current_exe().context("find this program")?;
        let mut child = Command::new(program)
            .arg(SERVICE)
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the tracker")?;
        let stdout = child.stdout.take().context("the tracker's output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.split_whitespace().next().context("an address")?;
        let address = address.parse().context("the tracker's address")?;
        Ok(Self { child, address })
    }

    fn cpu_seconds(&self) -> Result<f64> {
        cost::cpu_seconds_of(&self.child.id().to_string())
    }

    fn rss_mib(&self, field: &str) -> Result<f64> {
        cost::memory_mib_of(&self.child.id().to_string(), field)
    }

    /// Share of one core that it takes while nobody calls.
    async fn share(&self) -> Result<f64> {
        let (began, before) = (Instant::now(), self.cpu_seconds()?);
        tokio::time::sleep(WATCH).await;
        Ok((self.cpu_seconds()? - before) / began.elapsed().as_secs_f64())
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn measure(load: Load) -> Result<Figures> {
    let dir = tempfile::tempdir().context("make a directory")?;
    let measured = Measured::start(dir.path())?;
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    runtime.block_on(run(load, &measured))
}

async fn run(load: Load, measured: &Measured) -> Result<Figures> {
    let clients = join_all(load, &measured.address).await?;
    let joined_rss_mib = measured.rss_mib("VmRSS")?;
    let (began, before) = (Instant::now(), measured.cpu_seconds()?);
    let mut talking = JoinSet::new();
    for client in clients {
        talking.spawn(talk(client, Script::new(load)));
    }
    let (mut clients, mut calls) = (Vec::new(), 0);
    while let Some(talked) = talking.join_next().await {
        let (client, count) = talked??;
        calls += count;
        clients.push(client);
    }
    let (took, spent) = (
        began.elapsed().as_secs_f64(),
        measured.cpu_seconds()? - before,
    );
    let peak_rss_mib = measured.rss_mib("VmHWM")?;
    let idle_cpu_share = measured.share().await?;
    drop(clients);
    tokio::time::sleep(FORGOTTEN).await;
    let abandoned_cpu_share = measured.share().await?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "no measurement makes 2^52 calls"
    )]
    let count = calls as f64;
    Ok(Figures {
        calls,
        calls_per_cpu_s: count / spent,
        calls_per_s: count / took,
        joined_rss_mib,
        peak_rss_mib,
        idle_cpu_share,
        abandoned_cpu_share,
    })
}

async fn join_all(load: Load, tracker: &TrackerAddress) -> Result<Vec<Caller>> {
    let turns = Arc::new(tokio::sync::Semaphore::new(JOINING));
    let mut joining = JoinSet::new();
    for number in 0..load.nodes {
        let (turns, tracker) = (Arc::clone(&turns), tracker.clone());
        joining.spawn(async move {
            let _turn = turns.acquire().await?;
            join(number, &tracker).await
        });
    }
    let mut clients = Vec::with_capacity(load.nodes);
    while let Some(joined) = joining.join_next().await {
        clients.push(joined??);
    }
    Ok(clients)
}

async fn join(number: usize, tracker: &TrackerAddress) -> Result<Caller> {
    let identity = Identity::generate();
    let peer = wire_peer(identity.libp2p_peer()).context("a peer id")?;
    let mut client = Caller::connect(&identity, tracker).await?;
    let join = TrackerRequest::Join(Box::new(Join {
        versions: Versions::OURS,
        proof: JoinProof::Token(TOKEN.as_bytes().to_vec()),
        member: script::member(number, peer),
        boot_id: [0; 16],
    }));
    match client.call(&join).await? {
        TrackerReply::Joined { .. } => Ok(client),
        other => bail!("a client is not taken in: {other:?}"),
    }
}

async fn talk(mut client: Caller, mut script: Script) -> Result<(Caller, u64)> {
    let mut calls = 0;
    while let Some(request) = script.next() {
        let reply = client.call(&request).await?;
        calls += 1;
        ensure!(script.heard(&reply), "the tracker answers {reply:?}");
    }
    Ok((client, calls))
}
