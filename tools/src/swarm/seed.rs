//! `tranship swarm seed`: lets the tracker's seed fetch an image before anybody starts it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use tranship_format::Digest;
use tranship_source::Trace;
use tranship_source::reference::ImageReference;
use tranship_tracker::client::Client;
use tranship_tracker::message::{SeedJob, SeedRequest, SeedState};

use crate::cli::{Common, SwarmSeedArgs};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{self, Format, size};
use crate::progress::Progress;

/// More than the trace of any image that the tracker takes.
const MAX_TRACE_LEN: u64 = 64 << 20;
/// Time between two looks at how far the seed is.
const LOOK: Duration = Duration::from_millis(250);

pub(super) async fn run(common: &Common, progress: &Progress, args: &SwarmSeedArgs) -> Outcome {
    let client = super::client(&args.tracker)?;
    let image = &args.image;
    let (reference, manifest) =
        super::resolve(&image.reference, image.platform.as_ref(), &image.registry).await?;
    let what = format!("cannot seed {}", image.reference);
    let ImageReference::Registry(reference) = reference else {
        return Err(Failure::new(Exit::Unsupported, what)
            .why("the seed reads registries, and this image is in none")
            .next("push it first: `tranship convert` writes to registries"));
    };
    if args.stop {
        let job = client.unseed(&manifest.to_string()).await;
        let job = job.map_err(|error| {
            super::failure(&format!("cannot stop seeding {}", image.reference), &error)
        })?;
        return show(common, &job);
    }
    let request = SeedRequest {
        reference: format!("{}@{manifest}", reference.repo),
        trace: args.trace.as_deref().map(read_trace).transpose()?,
    };
    let ordered = client.seed(&request).await;
    let mut job = ordered.map_err(|error| super::failure(&what, &error))?;
    if !args.detach {
        job = wait(&client, progress, job, &manifest, &what).await?;
    }
    show(common, &job)?;
    match job.state {
        SeedState::Fetching | SeedState::Complete => Ok(()),
        SeedState::Full => Err(Failure::new(Exit::Partial, what)
            .why(format!(
                "the seed's store is full: it has {} of {}",
                size(job.present_len),
                size(job.total_len)
            ))
            .next("raise the tracker's seed.quota, or seed fewer images")),
        SeedState::Incomplete => Err(Failure::new(Exit::Partial, what)
            .why(format!(
                "{} chunks did not come: {}",
                job.failed_count, job.failure
            ))
            .next("run again for the rest")),
        SeedState::Stopped => {
            Err(Failure::new(Exit::Failed, what).why("somebody took the order back"))
        }
    }
}

/// The trace in a file. Whether it is one of this image is the tracker's to say.
fn read_trace(path: &Path) -> Outcome<Trace> {
    let cannot = || format!("cannot use the trace {}", path.display());
    let mut text = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin()
            .lock()
            .take(MAX_TRACE_LEN)
            .read_to_end(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(MAX_TRACE_LEN).read_to_end(&mut text))
    };
    read.map_err(|error| Failure::new(Exit::NotFound, cannot()).because(&error))?;
    serde_json::from_slice(&text).map_err(|error| {
        Failure::new(Exit::Usage, cannot()).because(&error).next(
            "`tranship trace REF --output json` on a node that has started the image makes one",
        )
    })
}

async fn wait(
    client: &Client,
    progress: &Progress,
    mut job: SeedJob,
    manifest: &Digest,
    what: &str,
) -> Outcome<SeedJob> {
    let task = progress.task("seeding", job.total_len);
    let mut told = 0;
    loop {
        task.advance(job.present_len.saturating_sub(told));
        told = told.max(job.present_len);
        if job.state != SeedState::Fetching {
            return Ok(job);
        }
        tokio::time::sleep(LOOK).await;
        let now = client.seed_job(&manifest.to_string()).await;
        job = now.map_err(|error| super::failure(what, &error))?;
    }
}

fn show(common: &Common, job: &SeedJob) -> Outcome {
    if common.output == Format::Json {
        return output::print_json(job);
    }
    let state = match job.state {
        SeedState::Fetching => "being fetched",
        SeedState::Complete => "complete",
        SeedState::Full => "no more room",
        SeedState::Incomplete => "incomplete",
        SeedState::Stopped => "stopped",
    };
    let part = if job.by_trace { " of the trace" } else { "" };
    output::print(&format!(
        "{}/{}@{}{part}: {state}, {} of {} at the seed\n",
        job.registry,
        job.repository,
        job.manifest,
        size(job.present_len),
        size(job.total_len)
    ))
}
