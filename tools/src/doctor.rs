//! `tranship doctor`: looks at all that a start stands on, and says what is wrong and what to do about it.
//!
//! It changes nothing, and goes on where it may not look: what it could not see it says. A script reads the exit code: 0 where nothing is
//! wrong, 7 where something could not be seen, 1 where something is.

mod agent;
mod containerd;
mod finding;
mod images;
mod kernel;
mod registry;
mod tracker;

use comfy_table::Cell;
use serde::Serialize;

use crate::cli::{Common, DoctorArgs};
use crate::failure::{Exit, Failure, Outcome};
use crate::node::status;
use crate::output::{self, Format};

use finding::{Finding, State};

/// The result, as JSON.
#[derive(Debug, Serialize)]
struct Report {
    /// The worst of the findings.
    state: State,
    findings: Vec<Finding>,
}

pub(crate) async fn run(common: &Common, args: &DoctorArgs) -> Outcome {
    let mut findings = tokio::task::spawn_blocking(kernel::look)
        .await
        .unwrap_or_default();
    let node = Box::pin(status::find(&args.status)).await;
    findings.extend(containerd::look(&args.status, &node));
    if node.known == Some(true) {
        let (socket, name) = (&args.status.address, &args.status.node.snapshotter);
        findings.extend(Box::pin(images::look(socket, name)).await);
    }
    let (told, status) = Box::pin(agent::look(&args.agent)).await;
    findings.extend(told);
    findings.extend(Box::pin(tracker::look(&args.tracker, status.as_ref())).await);
    for reference in &args.references {
        findings.extend(Box::pin(registry::look(reference, &args.registry)).await);
    }
    let state = findings.iter().map(|finding| finding.state).max();
    let report = Report {
        state: state.unwrap_or(State::Good),
        findings,
    };
    show(common, &report)?;
    let count = |state| {
        let of_state = report
            .findings
            .iter()
            .filter(|finding| finding.state == state);
        of_state.count()
    };
    match report.state {
        State::Good | State::Odd => Ok(()),
        State::Unseen => Err(Failure::new(
            Exit::Partial,
            format!("{} things could not be seen", count(State::Unseen)),
        )
        .why("see above")
        .next("run as root, on the node itself")),
        State::Bad => Err(Failure::new(
            Exit::Failed,
            format!("{} things are wrong", count(State::Bad)),
        )
        .why("see above")
        .next("do what stands behind each, then run again")),
    }
}

fn show(common: &Common, report: &Report) -> Outcome {
    if common.output == Format::Json {
        return output::print_json(report);
    }
    let mut table = output::table(["STATE", "AREA", "WHAT", "NEXT"]);
    for finding in &report.findings {
        table.add_row([
            Cell::new(finding.state.word()),
            Cell::new(finding.area),
            Cell::new(&finding.what),
            Cell::new(finding.next.as_deref().unwrap_or("")),
        ]);
    }
    output::print_table(&table)
}
