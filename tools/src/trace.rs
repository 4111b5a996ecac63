//! `tranship trace`: what was read of a device, in order.

use crate::agent;
use crate::cli::{Common, TraceArgs};
use crate::failure::Outcome;
use crate::output::{self, Format, size};

pub(crate) async fn run(common: &Common, args: &TraceArgs) -> Outcome {
    let client = agent::client(&args.agent);
    let device = agent::device(&client, &args.device).await?;
    let trace = client.trace(&device.id).await.map_err(|error| {
        agent::failure(format!("cannot get the trace of {}", device.id), &error)
    })?;
    if common.output == Format::Json {
        return output::print_json(&trace);
    }
    let mut table = output::table(["BLOB", "CHUNKS READ"]);
    for run in &trace.runs {
        let chunks: Vec<String> = run.chunks.iter().map(u32::to_string).collect();
        table.add_row([run.blob.to_string(), chunks.join(" ")]);
    }
    output::print_table(&table)?;
    output::say(&format!(
        "{} of {} in {} chunks",
        size(trace.read_len),
        size(trace.stored_len),
        trace.chunk_count()
    ));
    Ok(())
}
