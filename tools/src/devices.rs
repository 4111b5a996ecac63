//! `tranship devices`: what the agent has attached, where it is mounted, and how much of it is here.

use comfy_table::Cell;
use tranship_agent::control::{DeviceInfo, DeviceState};

use crate::agent;
use crate::cli::{AgentArgs, Common};
use crate::failure::Outcome;
use crate::output::{self, Format, number, size};

pub(crate) async fn run(common: &Common, args: &AgentArgs) -> Outcome {
    let devices = agent::client(args)
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
    ]);
    for device in &devices {
        table.add_row(row(device));
    }
    output::print_table(&table)
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
    ]
}
