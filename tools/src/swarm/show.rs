//! `tranship swarm status` and `tranship swarm peers`.

use std::fmt::Write;

use comfy_table::Cell;
use tranship_tracker::{MemberStatus, Status};

use crate::cli::Common;
use crate::failure::Outcome;
use crate::output::{self, Format, number, size};

pub(super) fn status(common: &Common, status: &Status) -> Outcome {
    if common.output == Format::Json {
        return output::print_json(status);
    }
    output::print(&summary(status))?;
    if status.images.is_empty() {
        return Ok(());
    }
    let mut table = output::table(["IMAGE", "OPENED"]);
    for image in &status.images {
        let name = format!("{}/{}@{}", image.registry, image.repository, image.manifest);
        table.add_row([Cell::new(name), number(image.open_count.to_string())]);
    }
    output::print(&format!("\n{}", output::text_of(&table)))
}

fn summary(status: &Status) -> String {
    let connected = status.members.iter().filter(|member| member.connected);
    let origin_len = status.blobs.iter().map(|blob| blob.origin_len).sum();
    let up = humantime::format_duration(std::time::Duration::from_secs(status.uptime_seconds));
    let lines = [
        ("tracker", status.peer_id.clone()),
        ("up", format!("{up}, epoch {:016x}", status.epoch)),
        (
            "members",
            format!("{}, {} connected", status.members.len(), connected.count()),
        ),
        ("images", status.images.len().to_string()),
        (
            "blobs",
            format!(
                "{}, {} read of registries",
                status.blobs.len(),
                size(origin_len)
            ),
        ),
        ("leases", status.lease_count.to_string()),
        ("bans", status.ban_count.to_string()),
        (
            "requests",
            format!(
                "{}, {} joins refused",
                status.request_count, status.refused_join_count
            ),
        ),
        (
            "seed",
            status.seed.as_ref().map_or_else(
                || "off".to_owned(),
                |seed| {
                    format!(
                        "{} of {}, gave {}",
                        size(seed.stored_len),
                        size(seed.quota_len),
                        size(seed.counters.served.len)
                    )
                },
            ),
        ),
    ];
    let mut text = String::new();
    for (name, value) in lines {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<9} {value}");
    }
    text
}

pub(super) fn peers(common: &Common, members: &[MemberStatus]) -> Outcome {
    if common.output == Format::Json {
        return output::print_json(&members);
    }
    let mut table = output::table([
        "PEER", "ROLE", "ZONE", "RACK", "STATE", "LOAD", "BLOBS", "ADDRESS",
    ]);
    for member in members {
        let state = match member {
            MemberStatus {
                connected: false, ..
            } => "away",
            MemberStatus {
                is_shunned: true, ..
            } => "shunned",
            MemberStatus { is_slow: true, .. } => "slow",
            _ => "connected",
        };
        table.add_row([
            Cell::new(&member.peer_id),
            Cell::new(&member.role),
            Cell::new(or_dash(&member.zone)),
            Cell::new(or_dash(&member.rack)),
            Cell::new(state),
            number(format!("{}%", member.load_permille / 10)),
            number(member.blob_count.to_string()),
            Cell::new(member.addresses.first().map_or("-", String::as_str)),
        ]);
    }
    output::print_table(&table)
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}
