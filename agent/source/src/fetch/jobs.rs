//! The slow deeds of the fetch engine, each a task that ends in an event.
//!
//! The driver must never wait: verification, the disk and the origin do their
//! work here and report. Bytes become a chunk in one place, [`take_in`], which
//! verifies before anything else happens to them.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use tranship_format::wire::ChunkId;
use tranship_format::{ByteRange, ChunkIndex};
use tranship_store::BlobStore;
use tranship_swarm::node::{Arrival, RegistryFailure};

use super::origin::{BlobOrigin, OriginError};
use super::whole::WholeReads;
use crate::counters::{Counters, Source};
use crate::net::event::{Cause, Event, OriginFailure, TakenIn};

/// What every deed needs.
#[derive(Clone, Debug)]
pub(crate) struct Jobs {
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) tasks: TaskTracker,
    pub(crate) counters: Arc<Counters>,
    pub(crate) whole: Arc<WholeReads>,
}

/// Chunks on their way from an origin for one of the machine's reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) read: u64,
    pub(super) source: Source,
    /// Bytes that come before the first chunk.
    pub(super) skip: u64,
}

impl Jobs {
    /// Verifies bytes from anywhere and keeps them if they are the chunk.
    pub(crate) async fn take_in(
        &self,
        blob: BlobStore,
        number: u32,
        bytes: Bytes,
        source: Source,
    ) -> TakenIn {
        let len = bytes.len() as u64;
        let looked = self
            .tasks
            .spawn_blocking(move || take_in(&blob, number, bytes));
        let taken = looked.await.unwrap_or(TakenIn {
            arrival: Arrival::Wrong,
            bytes: None,
        });
        match taken.arrival {
            Arrival::Wrong => self.counters.refused.add(len),
            Arrival::Passed => {
                self.counters.unstored.increment();
                self.counters.came(source, len);
            }
            Arrival::Kept => self.counters.came(source, len),
        }
        taken
    }

    /// Reads a run of chunks at the origin with one request, and reports each as it becomes whole.
    pub(crate) fn read_origin(
        &self,
        read: u64,
        blob: BlobStore,
        chunks: Range<u32>,
        origin: Arc<dyn BlobOrigin>,
    ) {
        let jobs = self.clone();
        self.tasks.spawn(async move {
            let digest = blob.digest();
            let failure = jobs.read_run(read, blob, chunks, origin).await;
            let end = Event::OriginEnd {
                read,
                blob: digest,
                failure,
            };
            jobs.report(end).await;
        });
    }

    async fn read_run(
        &self,
        read: u64,
        blob: BlobStore,
        chunks: Range<u32>,
        origin: Arc<dyn BlobOrigin>,
    ) -> Option<OriginFailure> {
        let table = blob.table().clone();
        let indexes: Vec<_> = chunks.filter_map(|number| table.index(number)).collect();
        let (Some(first), Some(last)) = (indexes.first(), indexes.last()) else {
            return None;
        };
        let range = ByteRange::new(table.range(*first).start, table.range(*last).end);
        let run = Run {
            read,
            source: origin.source(),
            skip: 0,
        };
        if self.whole.is_running(&blob.digest()) {
            return self.read_run_of_whole(read, &blob, &indexes, &origin).await;
        }
        let mut pieces = origin.read(blob.digest(), range).peekable();
        if let Some(Err(error)) = Pin::new(&mut pieces).peek().await
            && error.ranges_ignored
        {
            return self.read_run_of_whole(read, &blob, &indexes, &origin).await;
        }
        self.take_run(run, &blob, &indexes, pieces, &*origin).await
    }

    /// Takes in chunks that follow each other in `pieces`, and reports each.
    pub(super) async fn take_run(
        &self,
        run: Run,
        blob: &BlobStore,
        indexes: &[ChunkIndex],
        mut pieces: impl Stream<Item = Result<Bytes, OriginError>> + Unpin,
        origin: &dyn BlobOrigin,
    ) -> Option<OriginFailure> {
        let Run { read, source, .. } = run;
        self.counters.registry_requests.increment();
        let mut skip = run.skip;
        let mut buffer = BytesMut::new();
        for index in indexes {
            let len = usize::try_from(blob.table().range(*index).len()).unwrap_or(usize::MAX);
            while buffer.len() < len {
                match pieces.next().await {
                    Some(Ok(mut piece)) => {
                        let len = piece.len() as u64;
                        self.counters.registry_bytes.add(len);
                        let skipped = skip.min(len);
                        skip -= skipped;
                        piece.advance(usize::try_from(skipped).unwrap_or(usize::MAX));
                        buffer.extend_from_slice(&piece);
                        self.report(Event::OriginProgress { read, len }).await;
                    }
                    Some(Err(error)) => return Some(failure(blob, &error)),
                    // Fewer bytes than the blob has: what is there is another blob.
                    None => return Some(short()),
                }
            }
            let bytes = buffer.split_to(len).freeze();
            let taken = self.take_in(blob.clone(), index.get(), bytes, source).await;
            if taken.arrival == Arrival::Wrong {
                origin.refuse(&blob.digest());
            }
            self.report_taken(read, blob, *index, taken).await;
        }
        None
    }

    pub(super) async fn report_taken(
        &self,
        read: u64,
        blob: &BlobStore,
        index: ChunkIndex,
        taken: TakenIn,
    ) {
        let chunk = ChunkId {
            blob: blob.digest(),
            number: index.get(),
        };
        self.report(Event::Taken {
            cause: Cause::Origin { read },
            chunk,
            taken,
        })
        .await;
    }

    pub(crate) async fn report(&self, event: Event) {
        // A driver that has stopped wants no reports.
        let _ = self.events.send(event).await;
    }
}

pub(super) fn failure(blob: &BlobStore, error: &OriginError) -> OriginFailure {
    tracing::warn!(
        blob = %blob.digest(),
        error = error as &dyn std::error::Error,
        "the origin does not go on"
    );
    OriginFailure {
        failure: RegistryFailure {
            retry_after: error.retry_after,
            permanent: error.permanent,
        },
        text: error.source.to_string(),
    }
}

fn short() -> OriginFailure {
    OriginFailure {
        failure: RegistryFailure {
            retry_after: None,
            permanent: false,
        },
        text: "the origin's answer is shorter than the blob".to_owned(),
    }
}

fn take_in(blob: &BlobStore, number: u32, bytes: Bytes) -> TakenIn {
    let wrong = TakenIn {
        arrival: Arrival::Wrong,
        bytes: None,
    };
    let Some(index) = blob.table().index(number) else {
        return wrong;
    };
    let Ok(chunk) = blob.table().verify(index, bytes) else {
        return wrong;
    };
    let arrival = match blob.put(index, &chunk) {
        Ok(()) => Arrival::Kept,
        Err(error) if error.is_full() => Arrival::Passed,
        Err(error) => {
            tracing::warn!(
                blob = %blob.digest(),
                chunk = number,
                error = &error as &dyn std::error::Error,
                "the store cannot keep a chunk; it is handed on"
            );
            Arrival::Passed
        }
    };
    TakenIn {
        arrival,
        bytes: Some(chunk.into_bytes()),
    }
}
