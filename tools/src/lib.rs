//! What `tranship` does: publishes images, looks into them, and drives the agent of this node.
//!
//! One verb a file. Results go to stdout, everything else to stderr, and the exit code tells scripts what happened. It is
//! a library only so that a measurement can be a process of the very same code.

mod agent;
mod attach;
mod blob;
mod cat;
mod cli;
mod config;
mod convert;
mod demo;
mod detach;
mod devices;
mod diff;
mod doctor;
mod export;
mod failure;
mod image;
mod inspect;
mod ls;
mod mount;
mod node;
mod output;
mod path;
mod place;
mod progress;
mod pull;
mod simulate;
mod spool;
mod swarm;
mod time;
mod trace;
mod umount;
mod verify;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use serde_json::json;
use tracing_subscriber::EnvFilter;

use cli::{Cli, Verb};
use failure::{Explain, Failure, Outcome};
use progress::Progress;

/// The program `tranship`, with its name and arguments as a shell gives them. Ends the process itself when they ask for
/// help or make no sense.
pub fn tranship(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = Cli::parse_from(arguments);
    let progress = Progress::new(cli.common.progress);
    match run(&cli, &progress) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tell(&progress, &failure);
            failure.exit.into()
        }
    }
}

fn run(cli: &Cli, progress: &Progress) -> Outcome {
    let filter = EnvFilter::try_new(&cli.common.log).explain_as(failure::Exit::Usage, || {
        format!("cannot use the log filter `{}`", cli.common.log)
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .explain(|| "cannot start the runtime".into())?;
    let told = runtime.block_on(verb(cli, progress));
    // Work on blocking threads that nobody waits for any more ends with the process.
    runtime.shutdown_background();
    told
}

async fn verb(cli: &Cli, progress: &Progress) -> Outcome {
    let common = &cli.common;
    match &cli.verb {
        Verb::Convert(args) => convert::run(common, progress, args).await,
        Verb::Inspect(args) => inspect::run(common, args).await,
        Verb::Verify(args) => verify::run(common, progress, args).await,
        Verb::Diff(args) => diff::run(common, args).await,
        Verb::Ls(args) => ls::run(common, args).await,
        Verb::Cat(args) => cat::run(args).await,
        Verb::Export(args) => export::run(progress, args).await,
        Verb::Attach(args) => attach::run(common, args).await,
        Verb::Detach(args) => detach::run(common, args).await,
        Verb::Mount(args) => mount::run(common, args).await,
        Verb::Umount(args) => umount::run(common, args).await,
        Verb::Pull(args) => Box::pin(pull::run(common, progress, args)).await,
        Verb::Devices(args) => devices::run(common, args).await,
        Verb::Trace(args) => trace::run(common, args).await,
        Verb::Node(verb) => node::run(common, verb).await,
        Verb::Doctor(args) => Box::pin(doctor::run(common, args)).await,
        Verb::Swarm(verb) => swarm::run(common, progress, verb).await,
        Verb::Config(args) => config::run(common, args),
        Verb::Simulate(args) => simulate::run(common, args),
        Verb::Demo(args) => demo::run(common, progress, args).await,
        Verb::DemoStep(step) => demo::step(step).await,
    }
}

fn tell(progress: &Progress, failure: &Failure) {
    if progress.is_events() {
        progress::event(&json!({
            "event": "error",
            "exit": failure.exit.name(),
            "what": failure.what(),
            "why": failure.reason(),
            "next": failure.advice(),
        }));
    } else {
        output::say(&failure.to_string());
    }
}
