//! `tranship-agent`: settings, log, runtime, signals; the daemon itself is the library.

mod cli;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use cli::{Cli, ConfigVerb, Verb};
use tranship_agent::Agent;
use tranship_agent::config::{Config, Loaded, LogFormat};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.verb {
        Some(Verb::Config {
            verb: ConfigVerb::Check,
        }) => check(&cli),
        None => run(&cli),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            say(&format!("tranship-agent: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// `config check`: everything that `run` would stumble over, and what it would only warn of.
fn check(cli: &Cli) -> anyhow::Result<ExitCode> {
    let loaded = cli.settings()?;
    loaded.config.net_options()?;
    loaded.config.registry_options()?;
    for key in &loaded.unknown {
        say(&format!("unknown setting {key}"));
    }
    Ok(if loaded.unknown.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let Loaded { config, unknown } = cli.settings()?;
    begin_log(&config)?;
    for key in unknown {
        tracing::warn!(key, "a setting that nobody reads");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime does not start")?;
    let outcome = runtime.block_on(serve(&config, cli.print_ready));
    // Threads that wait for a kernel that does not answer must not keep the process.
    runtime.shutdown_timeout(config.device.stop_grace);
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn serve(config: &Config, print_ready: bool) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let agent = Agent::start(config)
        .await
        .context("the agent does not start")?;
    if print_ready {
        let line = serde_json::to_string(agent.ready())?;
        // Whoever asked for the line may be gone by now, which is no reason to stop.
        let _ = writeln!(io::stdout(), "{line}").and_then(|()| io::stdout().flush());
    }
    tokio::select! {
        _ = terminate.recv() => tracing::info!("asked to stop"),
        _ = interrupt.recv() => tracing::info!("interrupted"),
    }
    agent.stop().await;
    Ok(())
}

fn begin_log(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log).context("the setting log cannot be used")?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let outcome = match config.log_format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    outcome.map_err(|error| anyhow::anyhow!("the log does not start: {error}"))
}

fn say(line: &str) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(io::stderr(), "{line}");
}
