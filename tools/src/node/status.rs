//! `tranship node status`: what containerd's configuration says, and what the containerd that runs knows.

use std::path::Path;

use comfy_table::Cell;
use serde::Serialize;
use tranship_containerd::in_namespace;
use tranship_containerd::snapshots::v1::ListSnapshotsRequest;
use tranship_containerd::snapshots::v1::snapshots_client::SnapshotsClient;
use tranship_containerd::version::v1::version_client::VersionClient;

use super::containerd::{Containerd, Effective, Version};
use super::settings::{Form, shown_by};
use crate::cli::{Common, NodeStatusArgs};
use crate::failure::Outcome;
use crate::output::{self, Format};

/// How the snapshotter stands with containerd.
#[derive(Debug, Serialize)]
pub(crate) struct NodeStatus {
    /// The version of the program.
    pub(crate) program: Option<String>,
    /// The version of the one that runs, if it can be asked.
    pub(crate) running: Option<String>,
    /// The socket by which the configuration reaches the snapshotter.
    pub(crate) socket: Option<String>,
    /// Whether the configuration gives it to all pods.
    pub(crate) for_all: bool,
    /// Handlers of runtime classes that use it.
    pub(crate) handlers: Vec<String>,
    /// Whether the containerd that runs knows it; `None` if it cannot be asked.
    pub(crate) known: Option<bool>,
    /// What could not be found out, and why.
    pub(crate) unseen: Vec<String>,
}

pub(crate) async fn run(common: &Common, args: &NodeStatusArgs) -> Outcome {
    let status = find(args).await;
    if common.output == Format::Json {
        return output::print_json(&status);
    }
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let mut table = output::table(["WHAT", "IS"]);
    let rows = [
        ("containerd", or_dash(&status.program)),
        ("running", or_dash(&status.running)),
        ("socket", or_dash(&status.socket)),
        ("for all pods", yes(status.for_all).to_owned()),
        ("handlers", status.handlers.join(", ")),
        ("in effect", status.known.map_or("?", yes).to_owned()),
    ];
    for (name, value) in rows {
        table.add_row([Cell::new(name), Cell::new(value)]);
    }
    output::print_table(&table)?;
    for unseen in &status.unseen {
        output::say(unseen);
    }
    Ok(())
}

fn yes(is_so: bool) -> &'static str {
    if is_so { "yes" } else { "no" }
}

/// Looks at all that can be seen.
pub(crate) async fn find(args: &NodeStatusArgs) -> NodeStatus {
    let name = &args.node.snapshotter;
    let containerd = Containerd::new(args.node.containerd.clone());
    let mut status = NodeStatus {
        program: None,
        running: None,
        socket: None,
        for_all: false,
        handlers: Vec::new(),
        known: None,
        unseen: Vec::new(),
    };
    match containerd.version() {
        Ok(version) => {
            status.program = Some(version.to_string());
            match containerd.effective(&args.node.config) {
                Ok(effective) => configured(&mut status, &effective, version, name),
                Err(failure) => status.unseen.push(failure.to_string()),
            }
        }
        Err(failure) => status.unseen.push(failure.to_string()),
    }
    match ask(&args.address, name).await {
        Ok((version, known)) => {
            status.running = Some(version);
            status.known = Some(known);
        }
        Err(why) => status.unseen.push(format!(
            "the containerd at {} cannot be asked: {why}",
            args.address.display()
        )),
    }
    status
}

fn configured(status: &mut NodeStatus, effective: &Effective, version: Version, name: &str) {
    let address = effective.text(&["proxy_plugins", name, "address"]);
    status.socket = address.map(str::to_owned);
    let (images, runtimes): (&[&str], _) = match shown_by(version) {
        Form::Two => (
            &[
                "plugins",
                "io.containerd.grpc.v1.cri",
                "containerd",
                "snapshotter",
            ],
            "io.containerd.grpc.v1.cri",
        ),
        Form::Three => (
            &["plugins", "io.containerd.cri.v1.images", "snapshotter"],
            "io.containerd.cri.v1.runtime",
        ),
    };
    status.for_all = effective.text(images) == Some(name);
    let path = ["plugins", runtimes, "containerd", "runtimes"];
    let table = effective.get(&path).and_then(toml::Value::as_table);
    let ours = table.into_iter().flatten().filter(|(_, runtime)| {
        let snapshotter = runtime
            .as_table()
            .and_then(|runtime| runtime.get("snapshotter"));
        snapshotter.and_then(toml::Value::as_str) == Some(name)
    });
    status.handlers = ours.map(|(handler, _)| handler.clone()).collect();
}

/// The version of who runs, and whether it knows the snapshotter.
async fn ask(socket: &Path, name: &str) -> Result<(String, bool), String> {
    let words = |error: &dyn std::error::Error| {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    };
    let channel = tranship_containerd::connect(socket)
        .await
        .map_err(|error| words(&error))?;
    let version = VersionClient::new(channel.clone()).version(()).await;
    let version = version.map_err(|status| status.message().to_owned())?;
    let listing = ListSnapshotsRequest {
        snapshotter: name.to_owned(),
        ..ListSnapshotsRequest::default()
    };
    let call = in_namespace("default", listing).map_err(|status| status.message().to_owned())?;
    let mut client = SnapshotsClient::new(channel);
    // One that is unknown is an invalid argument; one that is known and does not answer is another matter.
    let known = match client.list(call).await {
        Ok(mut listed) => match listed.get_mut().message().await {
            Ok(_) => true,
            Err(status) => !status.message().contains("not loaded"),
        },
        Err(status) => !status.message().contains("not loaded"),
    };
    Ok((version.into_inner().version, known))
}
