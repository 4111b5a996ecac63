//! The agent, its place in the swarm, its disk and what is left over, as it tells through its control API.

use std::path::Path;

use tranship_agent::control::{ControlError, Status};

use super::finding::{Finding, Findings};
use crate::agent::client;
use crate::cli::AgentArgs;
use crate::output::size;

/// What was found, and all that the agent told.
pub(super) async fn look(args: &AgentArgs) -> (Vec<Finding>, Option<Status>) {
    let mut found = Findings::of("agent");
    let client = client(args);
    let mut known = None;
    match client.status().await {
        Ok(status) => {
            told(&mut found, &status);
            swarm(&mut found, &status);
            known = Some(status);
            match client.orphans().await {
                Ok(orphans) if orphans.is_empty() => found.good("nothing is left over in the kernel"),
                Ok(orphans) => found.bad(
                    format!("{} things are left over in the kernel", orphans.len()),
                    "tranship devices --orphans lists them; a restart of the agent clears them away",
                ),
                Err(error) => found.unseen(
                    format!("what is left over: {error}"),
                    "try again, or see the agent's log",
                ),
            }
        }
        Err(ControlError::Unreachable { source, .. })
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            found.unseen(
                format!("the agent at {}", args.agent.display()),
                "run as root",
            );
        }
        Err(error) => found.bad(
            format!("it does not answer: {error}"),
            "start it (systemctl start tranship-agent), or name its control socket with --agent",
        ),
    }
    (found.all(), known)
}

fn told(found: &mut Findings, status: &Status) {
    found.good(format!(
        "version {} answers, with {} devices and {} mounts",
        status.version, status.device_count, status.mount_count
    ));
    let ours = env!("CARGO_PKG_VERSION");
    if status.version != ours {
        found.odd(
            format!(
                "it is version {}, and this command line {ours}",
                status.version
            ),
            "restart the agent after an upgrade",
        );
    }
    if status.waiting_count > 0 {
        found.bad(
            format!(
                "{} reads of devices hang, the longest for {} s",
                status.waiting_count,
                status.longest_wait_ms / 1000
            ),
            "tranship devices says for which chunk and who was asked; docs/operations.md, A read that hangs",
        );
    }
    let store = &status.store;
    let used = format!("{} of {}", size(store.used_len), size(store.quota_len));
    if store.refused_count > 0 {
        found.odd(
            format!(
                "its store holds {used}, and {} chunks could not be kept: the disk or the quota was full",
                store.refused_count
            ),
            "raise store.quota, or make room on its filesystem",
        );
    } else {
        found.good(format!("its store holds {used}"));
    }
    if store.corrupt_count > 0 {
        found.odd(
            format!(
                "{} chunks were found corrupt on its disk, and dropped",
                store.corrupt_count
            ),
            "look after the disk: smartctl, dmesg",
        );
    }
    if let Some(snapshots) = &status.snapshots {
        for quarantined in &snapshots.quarantined {
            found.bad(
                format!("the snapshot {} cannot be used: {}", quarantined.name, quarantined.why),
                "remove its image (ctr -n k8s.io images rm IMAGE, or crictl rmi IMAGE) and pull it again",
            );
        }
        let count = |lazy| -> u64 {
            let of_kind = snapshots.images.iter().filter(|images| images.lazy == lazy);
            of_kind.map(|images| images.count).sum()
        };
        found.good(format!(
            "containerd calls it: {} images lazy, {} not",
            count(true),
            count(false)
        ));
    }
}

fn swarm(found: &mut Findings, status: &Status) {
    let swarm = &status.swarm;
    let all = swarm.trackers.join(", ");
    let missing = swarm
        .trackers
        .len()
        .saturating_sub(swarm.joined_count as usize);
    if swarm.trackers.is_empty() {
        found.odd(
            "it knows no tracker: all chunks come from registries",
            "set swarm.tracker and swarm.token_file, if there is to be a swarm",
        );
    } else if swarm.joined && missing == 0 {
        found.good(format!(
            "its tracker {all} has taken it, and it is connected with {} peers",
            swarm.peer_count
        ));
    } else {
        found.bad(
            format!("{missing} of its trackers have not taken it: {all}"),
            "check that the tracker runs and can be reached, and that swarm.token_file holds its join token; the agent's log has the reason",
        );
    }
    if Path::new("/etc/tranship/agent.toml").exists() || !swarm.trackers.is_empty() {
        return;
    }
    found.odd(
        "there is no /etc/tranship/agent.toml: the agent runs with defaults",
        "deploy/config/agent.toml is one to begin with",
    );
}
