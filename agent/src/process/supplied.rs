//! What the agent knows of one device that has a process, and how it gives that a chunk.
//!
//! Each chunk is got beside the others: an answer that takes long keeps none back.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::{mpsc, watch};
use tranship_device::Speaks;

use super::AskError;
use super::message::{Class, ToProcess};
use crate::image::Image;
use crate::lazy::LazyReadError;

/// A device whose process is given chunks.
#[derive(Clone, Debug)]
pub(super) struct Supplied {
    pub(super) image: Arc<Image>,
    /// The process that answers the kernel, when there is one, and over which connection it said so: it may have begun another before the end
    /// of the first is seen.
    pub(super) serving: watch::Sender<Option<(u64, Option<u32>)>>,
    /// Whether what waits is left to the next agent; otherwise it is told when the image goes.
    pub(super) is_leaving: Arc<AtomicBool>,
    /// Whether it was looked whether its first process is one of before an upgrade.
    pub(super) was_asked: Arc<AtomicBool>,
    /// What the installed program of its process speaks, if this agent speaks none of that: its successor would be no better.
    pub(super) foreign: Arc<OnceLock<Speaks>>,
}

impl Supplied {
    pub(super) fn new(image: Arc<Image>) -> Self {
        Self {
            image,
            serving: watch::Sender::default(),
            is_leaving: Arc::default(),
            was_asked: Arc::default(),
            foreign: Arc::default(),
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Acquire)
    }

    /// Gets a chunk and answers, beside everything else.
    pub(super) fn get(
        &self,
        request: u64,
        class: Class,
        (layer, chunk): (u16, u32),
        answers: &mpsc::Sender<ToProcess>,
    ) {
        let number = usize::from(layer);
        let layer = self.image.layer(number);
        let found = layer.and_then(|layer| Some((layer, layer.blob().table().index(chunk)?)));
        let Some((layer, index)) = found else {
            return;
        };
        if class == Class::Prefetch {
            layer.fetch_ahead(index);
            return;
        }
        self.image.first_reads().note(number, chunk);
        let (layer, answers) = (Arc::clone(layer), answers.clone());
        let leaving = Arc::clone(&self.is_leaving);
        self.image.tasks().spawn(async move {
            // A blob that was found to be another is given to nobody, and each may be the one whose last chunk has just come.
            let got = match layer.check_whole() {
                Ok(()) => layer.demand(index).await,
                Err(error) => Err(error),
            };
            let answer = match got.and_then(|bytes| layer.check_whole().map(|()| bytes)) {
                Ok(_) if layer.blob().has(index) => ToProcess::Kept { request },
                Ok(bytes) => ToProcess::Bytes {
                    request,
                    bytes: bytes.to_vec(),
                },
                Err(error) => ToProcess::Failed {
                    request,
                    error: refusal(&error),
                },
            };
            let is_stopping = matches!(
                answer,
                ToProcess::Failed {
                    error: AskError::Stopping,
                    ..
                }
            );
            if is_stopping && leaving.load(Ordering::Acquire) {
                return;
            }
            // Nobody waits for the answers to one that is gone.
            let _ = answers.send(answer).await;
        });
    }
}

fn refusal(error: &LazyReadError) -> AskError {
    match error {
        LazyReadError::TimedOut { .. } => AskError::TimedOut,
        LazyReadError::Stopping => AskError::Stopping,
        LazyReadError::Refused { .. } | LazyReadError::WrongProof { .. } => {
            tracing::error!(error = error as &dyn Error, "a read of a device fails");
            AskError::Refused {
                reason: error.to_string(),
            }
        }
    }
}
