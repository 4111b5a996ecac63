//! The stages of a conversion side by side: while one layer is pushed, the next is converted and the one after
//! downloaded. Channels between them are short, so memory is bounded by their length, whatever the layers' sizes.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::io::ReaderStream;
use tranship_format::convert::Converter;
use tranship_format::{LayerAnnotations, Workers};
use tranship_source::ImageStore;

use super::FS_TYPE;
use super::layer::{LayerError, Spooled, convert_layer};
use super::source::Job;
use crate::failure::{Exit, Explain, Failure, Outcome};
use crate::place;
use crate::progress::Progress;

/// Stored bytes of a layer that are on their way between two stages.
const PIECE_LEN: usize = 256 << 10;
const PIECES: usize = 16;

/// What the stages share.
#[derive(Clone, Debug)]
pub(super) struct Pipeline {
    pub(super) source: ImageStore,
    pub(super) destination: ImageStore,
    /// Who compresses.
    pub(super) workers: Workers,
    pub(super) tmp_dir: PathBuf,
    pub(super) progress: Progress,
    /// The source's reference, for messages.
    pub(super) named: String,
}

/// A layer that was pushed.
#[derive(Clone, Debug)]
pub(super) struct Finished {
    pub(super) annotations: LayerAnnotations,
}

/// A layer and the channel on which its stored bytes come.
type Begun = (Job, mpsc::Receiver<io::Result<Bytes>>);

impl Pipeline {
    /// Converts and pushes all layers.
    pub(super) async fn run(self, jobs: Vec<Job>, converter: Converter) -> Outcome<Vec<Finished>> {
        let (begun, to_convert) = mpsc::channel::<Begun>(1);
        let (spooled, mut to_push) = mpsc::channel(1);
        let mut stages: JoinSet<Outcome> = JoinSet::new();
        let downloads = self.clone();
        stages.spawn(async move { downloads.download(jobs, begun).await });
        let converts = self.clone();
        stages.spawn_blocking(move || converts.convert(to_convert, &spooled, converter));

        let mut finished = Vec::new();
        let mut pushed = Ok(());
        while let Some((job, layer)) = to_push.recv().await {
            match self.push(&job, layer).await {
                Ok(layer) => finished.push(layer),
                Err(failure) => {
                    pushed = Err(failure);
                    break;
                }
            }
        }
        drop(to_push);
        let mut failures: Vec<Failure> = pushed.err().into_iter().collect();
        while let Some(ended) = stages.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(failure)) => failures.push(failure),
                Err(died) => failures.push(
                    Failure::new(Exit::Failed, "a stage of the conversion died").because(&died),
                ),
            }
        }
        failures.into_iter().next().map_or(Ok(finished), Err)
    }

    async fn download(&self, jobs: Vec<Job>, begun: mpsc::Sender<Begun>) -> Outcome {
        for job in jobs {
            let (pieces, receiver) = mpsc::channel(PIECES);
            let task = self.progress.task(
                &format!("layer {} download", job.number),
                job.descriptor.size,
            );
            let descriptor = job.descriptor.clone();
            if begun.send((job, receiver)).await.is_err() {
                // The converter stopped; it tells why.
                return Ok(());
            }
            // Errors travel to the converter, which tells them once, with the layer.
            let mut blob = match self.source.blob(&descriptor.digest).await {
                Ok(blob) => ReaderStream::with_capacity(blob, PIECE_LEN),
                Err(error) => {
                    let _stopped = pieces.send(Err(io::Error::other(error))).await;
                    return Ok(());
                }
            };
            while let Some(piece) = blob.next().await {
                let failed = piece.is_err();
                task.advance(piece.as_ref().map_or(0, |bytes| bytes.len() as u64));
                if pieces.send(piece).await.is_err() || failed {
                    return Ok(());
                }
            }
            if pieces.send(Ok(Bytes::new())).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn convert(
        &self,
        mut begun: mpsc::Receiver<Begun>,
        spooled: &mpsc::Sender<(Job, Spooled)>,
        mut converter: Converter,
    ) -> Outcome {
        while let Some((job, stored)) = begun.blocking_recv() {
            let layer = convert_layer(&mut converter, &job, stored, &self.tmp_dir)
                .map_err(|error| self.explain(&job, &error))?;
            if spooled.blocking_send((job, layer)).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn push(&self, job: &Job, mut layer: Spooled) -> Outcome<Finished> {
        let what = || format!("cannot push layer {}", job.number);
        let hashing = tokio::task::spawn_blocking(move || layer.digest().map(|it| (it, layer)));
        let hashed = hashing.await.explain(what)?;
        let (digest, layer) = hashed.map_err(|error| place::failure(what(), &error))?;
        let (len, chunks) = (layer.summary.len, layer.summary.chunks);
        let annotations = LayerAnnotations::new(digest, len, FS_TYPE, chunks);
        let task = self
            .progress
            .task(&format!("layer {} push", job.number), len);
        place::push_file(&self.destination, &layer.file, digest, len)
            .await
            .map_err(|error| place::failure(what(), &error))?;
        task.advance(len);
        Ok(Finished { annotations })
    }

    fn explain(&self, job: &Job, error: &LayerError) -> Failure {
        let what = format!(
            "cannot convert layer {} ({}) of {}",
            job.number, job.descriptor.digest, self.named
        );
        match error {
            LayerError::WrongTar { .. } => Failure::new(Exit::Verification, what).because(error),
            LayerError::Spool { .. } => Failure::new(Exit::Failed, what)
                .because(error)
                .next("give a directory with enough space: `--tmp-dir DIR`"),
            LayerError::Read(_) => place::failure(what, error),
            LayerError::Convert(_) => Failure::new(Exit::Unsupported, what).because(error),
        }
    }
}
