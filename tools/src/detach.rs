//! `tranship detach`: gives up a device.

use crate::agent;
use crate::cli::{Common, DetachArgs};
use crate::failure::Outcome;
use crate::output::{self, Format};

pub(crate) async fn run(common: &Common, args: &DetachArgs) -> Outcome {
    let client = agent::client(&args.agent);
    let device = agent::device(&client, &args.device).await?;
    let detached = if args.force {
        client.detach_by_force(&device.id).await
    } else {
        client.detach(&device.id).await
    };
    let reply =
        detached.map_err(|error| agent::failure(format!("cannot detach {}", device.id), &error))?;
    if common.output == Format::Json {
        return output::print_json(&reply);
    }
    if reply.use_count > 0 {
        output::say(&format!(
            "{} stays: {} more attaches share it",
            device.id, reply.use_count
        ));
    }
    Ok(())
}
