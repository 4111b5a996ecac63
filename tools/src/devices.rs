//! `tranship devices`: what the agent has attached, where it is mounted, and how much of it is here.

use std::time::Duration;

use comfy_table::Cell;
use tranship_agent::control::{DeviceInfo, DeviceState, Unserved};

use crate::agent;
use crate::cli::{Common, DevicesArgs};
use crate::failure::Outcome;
use crate::output::{self, Format, number, size};

const COLUMNS: [&str; 10] = [
    "ID",
    "IMAGE",
    "FRONT END",
    "STATE",
    "SIZE",
    "HERE",
    "PATH",
    "MOUNTS",
    "UNSERVED",
    "HANGS",
];

pub(crate) async fn run(common: &Common, args: &DevicesArgs) -> Outcome {
    if args.orphans {
        return orphans(common, args).await;
    }
    let devices = agent::client(&args.agent)
        .devices()
        .await
        .map_err(|error| agent::failure("cannot list the devices".into(), &error))?;
    if common.output == Format::Json {
        return output::print_json(&devices);
    }
    let mut table = output::table(COLUMNS);
    for device in &devices {
        table.add_row(row(device));
    }
    output::print_table(&table)
}

/// What is left over: usually nothing, since each start of the agent clears it away.
async fn orphans(common: &Common, args: &DevicesArgs) -> Outcome {
    let orphans = agent::client(&args.agent)
        .orphans()
        .await
        .map_err(|error| agent::failure("cannot look for what is left over".into(), &error))?;
    if common.output == Format::Json {
        return output::print_json(&orphans);
    }
    let mut table = output::table(["KIND", "DEVICE", "WHAT"]);
    for orphan in &orphans {
        table.add_row([&orphan.kind, &orphan.device, &orphan.what]);
    }
    output::print_table(&table)?;
    if !orphans.is_empty() {
        output::say("a restart of the agent clears it away");
    }
    Ok(())
}

fn row(device: &DeviceInfo) -> Vec<Cell> {
    let mounts: Vec<String> = device
        .mounts
        .iter()
        .map(|mount| {
            format!(
                "{}{}",
                mount.target.display(),
                if mount.writable { " (writable)" } else { "" }
            )
        })
        .collect();
    let state = match device.state {
        DeviceState::Attached if device.graduated => "graduated",
        DeviceState::Attached => "attached",
        DeviceState::Recovering => "recovering",
    };
    let here = (device.fill.present_len * 100)
        .checked_div(device.fill.stored_len)
        .unwrap_or(0);
    vec![
        Cell::new(&device.id),
        Cell::new(&device.reference),
        Cell::new(device.front_end),
        Cell::new(state),
        number(size(device.size)),
        number(format!("{here}%")),
        Cell::new(device.path.display()),
        Cell::new(if mounts.is_empty() {
            "-".to_owned()
        } else {
            mounts.join(", ")
        }),
        Cell::new(unserved(device)),
        Cell::new(device.waiting.as_ref().map_or_else(
            || "-".to_owned(),
            |waiting| {
                format!(
                    "{} for {:.0} s: chunk {} of {}: {}",
                    waiting.count,
                    Duration::from_millis(waiting.longest_ms).as_secs_f64(),
                    waiting.chunk,
                    waiting.blob,
                    waiting.tried
                )
            },
        )),
    ]
}

/// What reads do that no source serves, and how long it takes until they fail: also where nobody chose that, since whoever looks at a
/// process that stands still wants to know when it ends.
fn unserved(device: &DeviceInfo) -> String {
    let deadline = Duration::from_millis(device.deadline_ms);
    match device.unserved {
        // An agent of an earlier version does not tell.
        unserved if deadline.is_zero() => unserved.to_string(),
        Unserved::Wait(_) => format!("wait={}", humantime::format_duration(deadline)),
        Unserved::Error => format!(
            "error, after {} at the latest",
            humantime::format_duration(deadline)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(unserved: &str, deadline_ms: u64) -> DeviceInfo {
        let device = serde_json::json!({
            "id": "fuse-loop-0123", "reference": "registry.example/image", "manifest": "sha256:00",
            "front_end": "fuse-loop", "size": 4096, "path": "/dev/loop0",
            "unserved": unserved, "deadline_ms": deadline_ms,
        });
        serde_json::from_value(device).unwrap()
    }

    #[test]
    fn table_shows_each_devices_policy_and_deadline_also_the_default() {
        for (policy, deadline_ms, shown) in [
            ("wait", 300_000, "wait=5m"),
            ("wait=30s", 30_000, "wait=30s"),
            ("error", 10_000, "error, after 10s at the latest"),
            ("wait", 0, "wait"),
        ] {
            let cells = row(&device(policy, deadline_ms));
            assert_eq!(cells.len(), COLUMNS.len());
            let place = COLUMNS.iter().position(|name| *name == "UNSERVED").unwrap();
            assert_eq!(cells[place].content(), shown);
        }
    }
}
