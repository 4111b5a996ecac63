//! `tranship devices`: what the agent has attached, where it is mounted, and how much of it is here.

use std::time::Duration;

use comfy_table::Cell;
use tranship_agent::control::{DeviceInfo, DeviceState};

use crate::agent;
use crate::cli::{Common, DevicesArgs};
use crate::failure::Outcome;
use crate::output::{self, Format, number, size};

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
    let mut table = output::table([
        "ID",
        "IMAGE",
        "FRONT END",
        "STATE",
        "SIZE",
        "HERE",
        "PATH",
        "MOUNTS",
        "HANGS",
    ]);
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
        Cell::new(device.waiting.as_ref().map_or_else(
            || "-".to_owned(),
            |waiting| {
                format!(
                    "{} for {:.0} s ({}): chunk {} of {}: {}",
                    waiting.count,
                    Duration::from_millis(waiting.longest_ms).as_secs_f64(),
                    device.unserved,
                    waiting.chunk,
                    waiting.blob,
                    waiting.tried
                )
            },
        )),
    ]
}
