//! `tranship detach`: gives up a device, or all devices of an image.

use serde::Serialize;
use tranship_agent::control::{Client, DeviceInfo};

use crate::agent;
use crate::cli::{Common, DetachArgs};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{self, Format};

/// What became of a device.
#[derive(Serialize)]
struct Detached {
    id: String,
    use_count: u32,
}

pub(crate) async fn run(common: &Common, args: &DetachArgs) -> Outcome {
    let client = agent::client(&args.agent);
    let devices = agent::devices(&client, &args.device).await?;
    let (mut done, mut left) = (Vec::new(), Vec::new());
    for device in &devices {
        // The others may go where one stays.
        match detach(&client, device, args.force).await {
            Ok(detached) => done.push(detached),
            Err(failure) => left.push(failure),
        }
    }
    tell(common, &done, devices.len())?;
    match left.pop() {
        None => Ok(()),
        Some(only) if devices.len() == 1 => Err(only),
        Some(last) => Err(of_several(&args.device, &left, &last, done.is_empty())),
    }
}

async fn detach(client: &Client, device: &DeviceInfo, force: bool) -> Outcome<Detached> {
    let detached = if force {
        client.detach_by_force(&device.id).await
    } else {
        client.detach(&device.id).await
    };
    let reply =
        detached.map_err(|error| agent::failure(format!("cannot detach {}", device.id), &error))?;
    Ok(Detached {
        id: device.id.clone(),
        use_count: reply.use_count,
    })
}

/// Tells of those that were given up, of as many as were meant.
fn tell(common: &Common, done: &[Detached], meant: usize) -> Outcome {
    if common.output == Format::Json {
        return match done {
            [only] if meant == 1 => output::print_json(only),
            [] if meant == 1 => Ok(()),
            several => output::print_json(&several),
        };
    }
    for Detached { id, use_count } in done.iter().filter(|detached| detached.use_count > 0) {
        output::say(&format!("{id} stays: {use_count} more attaches share it"));
    }
    Ok(())
}

/// One failure for all that stay, each with its reason.
fn of_several(named: &str, others: &[Failure], last: &Failure, is_nothing_done: bool) -> Failure {
    let exit = if is_nothing_done {
        last.exit
    } else {
        Exit::Partial
    };
    let what = format!("cannot detach all devices of {named}");
    let whole = Failure::new(exit, what).next(last.advice());
    others.iter().chain([last]).fold(whole, |whole, one| {
        whole.why(format!("{}: {}", one.what(), one.reason()))
    })
}
