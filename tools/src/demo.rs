//! `tranship demo`: the whole of it on one machine, in a minute, with nothing else installed.
//!
//! A registry, a tracker and some nodes, each with a network link of a given speed, start one image three times: by a
//! full pull, lazily from the registry, and lazily with each other's help. What is shown is when the last of them was
//! ready, from where the bytes came, and that every byte was right.

mod block_layers;
mod compare;
mod daemon;
mod full_pull;
mod launch;
mod link;
mod nbd_device;
mod net;
mod pack;
mod phase;
mod registry;
mod report;
mod scene;
mod stage;
mod start;
mod unpack;

use tokio::signal::unix::{SignalKind, signal};

use self::report::Report;
use self::stage::Stage;
use self::start::Rights;
use crate::cli::{Common, DemoArgs, DemoStep};
use crate::failure::{Exit, Explain, Failure, Outcome};
use crate::output::{self, Format};
use crate::progress::Progress;

pub(crate) async fn run(common: &Common, progress: &Progress, args: &DemoArgs) -> Outcome {
    daemon::sibling("tranship-agent")?;
    daemon::sibling("tranship-tracker")?;
    let mut interrupted = Interrupted::new()?;
    let mut stage = Stage::new(args)?;
    let told = tokio::select! {
        told = tell(common, progress, args, &mut stage) => told,
        failure = interrupted.wait() => Err(failure),
    };
    let waited = match &told {
        Ok(()) if args.keep => {
            output::say(&format!(
                "\nEverything still runs, under {}. Ctrl-C ends it.",
                stage.path().display()
            ));
            for node in &stage.nodes {
                if let Some(agent) = &node.agent {
                    output::say(&format!(
                        "  tranship devices --agent {}",
                        agent.client.socket().display()
                    ));
                }
            }
            let _asked = interrupted.wait().await;
            Ok(())
        }
        _ => Ok(()),
    };
    stage.tear_down().await;
    told.and(waited)
}

/// Sets the stage, measures, reports.
async fn tell(common: &Common, progress: &Progress, args: &DemoArgs, stage: &mut Stage) -> Outcome {
    let rights = Rights::probe();
    if rights == Rights::ReadOnly {
        progress.note(
            "no rights to mount here: reading through NBD sockets instead, and running no command",
        );
    }
    stage.start_registry().await?;
    let scene = scene::set(stage, args, rights, progress).await?;
    progress.note(&format!("{} nodes pull and unpack all of it", args.nodes));
    let (full_pull, unpacked) = phase::full_pull(stage, &scene, rights).await?;
    progress.note(&format!(
        "{} nodes start it lazily from the registry",
        args.nodes
    ));
    let (lazy_registry, _) = phase::lazy(stage, &scene, rights, false).await?;
    stage.end_phase().await;
    progress.note(&format!("{} nodes start it lazily with peers", args.nodes));
    let (lazy_peers, devices) = phase::lazy(stage, &scene, rights, true).await?;
    progress.note("comparing files");
    let files = phase::compare(stage, &scene, rights, &devices, &unpacked).await?;
    let report = Report {
        nodes: stage.nodes.len(),
        link: args.link,
        registry_link: args.registry_link.unwrap_or(args.link),
        scene,
        rights,
        full_pull,
        lazy_registry,
        lazy_peers,
        files,
    };
    match common.output {
        Format::Json => output::print_json(&report.json())?,
        Format::Table => output::print(&report.text())?,
    }
    if report.files.wrong > 0 {
        return Err(
            Failure::new(Exit::Verification, "the demo read wrong files")
                .why(report.files.examples.join("; ")),
        );
    }
    Ok(())
}

/// Runs a step that needs a process of its own.
pub(crate) async fn step(step: &DemoStep) -> Outcome {
    match step {
        DemoStep::Pull {
            reference,
            download,
            root,
        } => full_pull::run(reference, download, root).await,
        DemoStep::Enter { root, command } => start::enter(root, command),
    }
}

/// Ctrl-C and a request to terminate; both take the demo's ordinary way out.
struct Interrupted {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Interrupted {
    fn new() -> Outcome<Self> {
        let what = || "cannot listen for signals".to_owned();
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).explain(what)?,
            terminate: signal(SignalKind::terminate()).explain(what)?,
            hang_up: signal(SignalKind::hangup()).explain(what)?,
        })
    }

    async fn wait(&mut self) -> Failure {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
        Failure::new(Exit::Failed, "the demo was interrupted")
            .why("a signal asked for it")
            .next("everything it had set up is gone; run it again")
    }
}
