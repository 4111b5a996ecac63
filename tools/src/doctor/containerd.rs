//! containerd: whether its configuration reaches the agent, whether the containerd that runs has read it, and who starts first.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::Path;

use toml::Value;

use super::finding::{Finding, Findings};
use crate::cli::NodeStatusArgs;
use crate::node::status::NodeStatus;
use crate::node::{Containerd, Effective};

/// What makes it right in one step.
const INSTALL: &str = "tranship node install, then restart containerd";

pub(super) fn look(args: &NodeStatusArgs, status: &NodeStatus) -> Vec<Finding> {
    let mut found = Findings::of("containerd");
    for unseen in &status.unseen {
        let what = unseen.lines().collect::<Vec<_>>().join("; ");
        found.unseen(what, "run as root on a node with containerd");
    }
    if let Some(version) = &status.program {
        found.good(format!("its program is version {version}"));
        configuration(&mut found, args, status);
    }
    match status.known {
        Some(true) => found.good("the one that runs knows the snapshotter"),
        Some(false) if status.socket.is_some() => found.bad(
            "the one that runs does not know the snapshotter that its configuration has",
            "restart containerd; running containers stay",
        ),
        Some(false) | None => {}
    }
    if Path::new("/run/systemd/system").exists() && status.socket.is_some() {
        order(&mut found);
    }
    found.all()
}

fn configuration(found: &mut Findings, args: &NodeStatusArgs, status: &NodeStatus) {
    let Some(socket) = &status.socket else {
        found.odd("its configuration does not name the snapshotter", INSTALL);
        return;
    };
    match UnixStream::connect(socket) {
        Ok(_) => found.good(format!("somebody answers at {socket}")),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => found.unseen(
            format!("whether somebody answers at {socket}"),
            "run as root",
        ),
        Err(error) => found.bad(
            format!("nobody answers at {socket}, where its configuration points: {error}"),
            "set snapshotter.socket in the agent's configuration to the same path, and start the agent",
        ),
    }
    match (status.for_all, status.handlers.as_slice()) {
        (true, _) => found.good("all pods use the snapshotter"),
        (false, []) => found.odd("no pod uses the snapshotter", INSTALL),
        (false, handlers) => found.good(format!(
            "pods of the RuntimeClass handlers {} use the snapshotter",
            handlers.join(", ")
        )),
    }
    let containerd = Containerd::new(args.node.containerd.clone());
    let read = containerd
        .version()
        .and_then(|version| Ok((version, containerd.effective(&args.node.config)?)));
    // Told above already.
    let Ok((version, effective)) = read else {
        return;
    };
    let name = &args.node.snapshotter;
    let tells = if version.is_since(2, 1) && !effective.pulls_itself() {
        unpacks(&effective, name)
            && effective.text(&[
                "proxy_plugins",
                name,
                "exports",
                "enable_remote_snapshot_annotations",
            ]) == Some("true")
    } else {
        let section: &[&str] = if version.is_since(2, 0) {
            &["plugins", "io.containerd.cri.v1.images"]
        } else {
            &["plugins", "io.containerd.grpc.v1.cri", "containerd"]
        };
        let path = [section, &["disable_snapshot_annotations"]].concat();
        effective.get(&path).and_then(Value::as_bool) == Some(false)
    };
    if tells {
        found.good("it tells the snapshotter which image a layer is of");
    } else {
        found.bad(
            "it does not tell the snapshotter which image a layer is of, so that every layer is unpacked",
            INSTALL,
        );
    }
}

/// Whether what pulls from 2.1 on unpacks with the snapshotter.
fn unpacks(effective: &Effective, name: &str) -> bool {
    let path = [
        "plugins",
        "io.containerd.transfer.v1.local",
        "unpack_config",
    ];
    let unpackers = effective.get(&path).and_then(Value::as_array);
    unpackers.into_iter().flatten().any(|unpacker| {
        let snapshotter = unpacker
            .as_table()
            .and_then(|table| table.get("snapshotter"));
        snapshotter.and_then(Value::as_str) == Some(name)
    })
}

/// containerd looks for its snapshotters once; the socket must be there by then.
fn order(found: &mut Findings) {
    let folders = [
        "/etc/systemd/system",
        "/usr/lib/systemd/system",
        "/lib/systemd/system",
    ];
    let wanted = ["sockets.target.wants", "containerd.service.requires"];
    let is_enabled = folders.iter().any(|folder| {
        wanted.iter().any(|wanted| {
            let link = Path::new(folder)
                .join(wanted)
                .join("tranship-snapshotter.socket");
            link.symlink_metadata().is_ok()
        })
    });
    if is_enabled {
        found.good("its socket is bound before it starts");
    } else {
        found.odd(
            "nothing binds the snapshotter's socket before containerd starts: after a boot pods may fail until containerd is restarted",
            "systemctl enable --now tranship-snapshotter.socket",
        );
    }
}
