//! `tranship node`: puts the agent into containerd's configuration, takes it out again, and tells what is in effect.
//!
//! A node whose containerd does not start runs no pod. So nothing is written before containerd itself has read the new configuration and
//! found in it what it had before, and our settings, and nothing else; what was there is kept beside it. What is set carries a
//! remark with what stood there, so that it can be taken back after others have edited the file.

mod apply;
mod containerd;
mod document;
mod lines;
mod plan;
mod remark;
mod settings;
pub(crate) mod status;
#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::cli::{Common, NodeArgs, NodeInstallArgs, NodeUninstallArgs, NodeVerb};
use crate::failure::Outcome;
use crate::output::{self, Format};

pub(crate) use containerd::{Containerd, Effective};
use plan::{Ground, Plan};

/// The result, as JSON.
#[derive(Debug, Serialize)]
struct Done {
    /// Files that were changed, or would be.
    files: Vec<FileDone>,
    /// Whether they were.
    applied: bool,
    /// What is left to do.
    next: Option<String>,
}

#[derive(Debug, Serialize)]
struct FileDone {
    path: String,
    diff: String,
}

pub(crate) async fn run(common: &Common, verb: &NodeVerb) -> Outcome {
    match verb {
        NodeVerb::Install(args) => install(common, args),
        NodeVerb::Uninstall(args) => uninstall(common, args),
        NodeVerb::Status(args) => status::run(common, args).await,
    }
}

fn install(common: &Common, args: &NodeInstallArgs) -> Outcome {
    let (containerd, ground) = ground(&args.node)?;
    let settings = settings::wanted(&ground, args)?;
    let plan = plan::install(&ground, &settings)?;
    finish(common, &containerd, &ground, &plan, args.dry_run)
}

fn uninstall(common: &Common, args: &NodeUninstallArgs) -> Outcome {
    let (containerd, ground) = ground(&args.node)?;
    let plan = plan::uninstall(&ground)?;
    finish(common, &containerd, &ground, &plan, args.dry_run)
}

fn ground(args: &NodeArgs) -> Outcome<(Containerd, Ground)> {
    let containerd = Containerd::new(args.containerd.clone());
    let version = containerd.version()?;
    let ground = Ground::read(&args.config, version, || containerd.effective(&args.config))?;
    Ok((containerd, ground))
}

fn finish(
    common: &Common,
    containerd: &Containerd,
    ground: &Ground,
    plan: &Plan,
    is_dry: bool,
) -> Outcome {
    if !plan.changes.is_empty() {
        apply::check(containerd, ground, plan)?;
        if !is_dry {
            apply::write(containerd, ground, plan)?;
        }
    }
    let applied = !plan.changes.is_empty() && !is_dry;
    let done = Done {
        files: plan.changes.iter().map(FileDone::of).collect(),
        applied,
        next: applied.then(|| {
            "restart containerd (systemctl restart containerd); containers run on meanwhile"
                .to_owned()
        }),
    };
    if common.output == Format::Json {
        return output::print_json(&done);
    }
    for file in &done.files {
        output::print(&file.diff)?;
    }
    output::say(match (plan.changes.is_empty(), is_dry) {
        (true, _) => "nothing to do",
        (false, true) => "nothing was changed: --dry-run",
        (false, false) => "done",
    });
    if let Some(next) = &done.next {
        output::say(&format!("next: {next}"));
    }
    Ok(())
}

impl FileDone {
    fn of(change: &plan::Change) -> Self {
        let path = change.path.display().to_string();
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Self {
            diff: lines::diff(&path, &text(&change.before), &text(&change.after)),
            path,
        }
    }
}
