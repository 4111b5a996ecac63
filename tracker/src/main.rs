//! `tranship-tracker`: reads its settings, runs, and stops when told to.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use tranship_source::net::JoinToken;
use tranship_source::net::identity::Identity;
use tranship_tracker::{Config, Service};

/// Who has which chunks, and the seed beside the registry.
#[derive(Debug, Parser)]
#[command(name = "tranship-tracker", version)]
struct Arguments {
    /// File with the settings (TOML); without it all are at their defaults.
    #[arg(long, env = "TRANSHIP_TRACKER_CONFIG")]
    config: Option<PathBuf>,
    /// The join token; without it the token file counts.
    #[arg(long, env = "TRANSHIP_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Prints one line of JSON on standard output as soon as it can be reached.
    #[arg(long)]
    print_ready: bool,
    /// Prints its peer id, which the other trackers of a swarm are told in their setting `trackers`, and ends. Makes the key
    /// if there is none.
    #[arg(long)]
    print_peer_id: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut stderr = std::io::stderr();
            // With standard error closed there is nobody to tell.
            let _ = writeln!(stderr, "tranship-tracker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let text = match &arguments.config {
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("read the settings in {}", path.display()))?,
        None => String::new(),
    };
    let loaded = Config::parse(&text)?;
    if arguments.print_peer_id {
        let identity = Identity::open(&loaded.config.state_dir).context("have a key")?;
        writeln!(std::io::stdout(), "{}", identity.libp2p_peer()).context("print the peer id")?;
        return Ok(());
    }
    let filter = EnvFilter::try_from_default_env()
        .or_else(|_| EnvFilter::try_new(&loaded.config.log))
        .context("understand the setting log")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    for key in &loaded.unknown {
        tracing::warn!(key, "a setting that does not exist");
    }
    // The answers to a thousand nodes that begin at once are not kept room for until the next time.
    tranship_device::give_large_buffers_back();
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    let token = arguments.token.as_deref().map(JoinToken::new);
    runtime.block_on(serve(loaded.config, token, arguments.print_ready))
}

async fn serve(config: Config, token: Option<JoinToken>, print_ready: bool) -> anyhow::Result<()> {
    // Before anything that takes time, so that no signal is lost.
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let service = Service::start(config, token).await?;
    let ready = service.ready();
    tracing::info!(listen = ?ready.listen, http = ready.http, "ready");
    if print_ready {
        let mut stdout = std::io::stdout();
        writeln!(stdout, "{}", serde_json::to_string(ready)?)?;
        stdout.flush()?;
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("stopping; a second signal stops at once");
    tokio::select! {
        () = service.drain() => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    service.stop().await;
    Ok(())
}
