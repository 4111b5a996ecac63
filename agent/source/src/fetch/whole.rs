//! Blobs of origins that give no ranges: read whole, once, into the store.
//!
//! Some registries answer a range with everything. A chunk cannot be had from them without the bytes before it, so the
//! first read of a blob reads all of it, and keeps every chunk: whoever wants another waits for the same pass. What the
//! store has no room for is read again by the one who wants it; slow, and never wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use futures::StreamExt;
use tokio::sync::watch;
use tranship_format::{ChunkIndex, Digest};
use tranship_store::BlobStore;
use tranship_swarm::node::Arrival;

use super::jobs::{Jobs, Run, failure};
use super::origin::BlobOrigin;
use crate::net::event::{Event, OriginFailure, TakenIn};

/// The passes under way, at most one a blob.
#[derive(Debug, Default)]
pub(crate) struct WholeReads(Mutex<BTreeMap<Digest, Pass>>);

impl WholeReads {
    /// Whether the blob is being read whole, so that its origin need not be asked for ranges again.
    pub(super) fn is_running(&self, blob: &Digest) -> bool {
        let passes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        passes.contains_key(blob)
    }
}

/// A pass over a blob, as those see it who wait for its chunks.
#[derive(Clone, Debug)]
struct Pass {
    /// Bytes that came in; the pass is over when its sender is gone.
    came_len: watch::Receiver<u64>,
    /// Chunks that were not what the manifest promises.
    wrong: Arc<Mutex<BTreeSet<u32>>>,
}

/// A pass that is under way until this is dropped, however it ends.
struct Running {
    jobs: Jobs,
    blob: Digest,
    came_len: watch::Sender<u64>,
    wrong: Arc<Mutex<BTreeSet<u32>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let passes = self.jobs.whole.0.lock();
        passes
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.blob);
    }
}

impl Jobs {
    /// Gets chunks of a blob from an origin that was seen to ignore ranges.
    pub(super) async fn read_run_of_whole(
        &self,
        read: u64,
        blob: &BlobStore,
        indexes: &[ChunkIndex],
        origin: &Arc<dyn BlobOrigin>,
    ) -> Option<OriginFailure> {
        // A pass may have ended while the origin was asked.
        let mut pass = if indexes.iter().all(|index| blob.has(*index)) {
            Pass::over()
        } else {
            self.follow(blob, origin)
        };
        let mut seen_len = *pass.came_len.borrow();
        for index in indexes {
            while !blob.has(*index) && !pass.is_wrong(*index) {
                let over = pass.came_len.changed().await.is_err();
                let came_len = *pass.came_len.borrow();
                let len = came_len.saturating_sub(seen_len);
                self.report(Event::OriginProgress { read, len }).await;
                seen_len = came_len;
                if over {
                    break;
                }
            }
            let arrival = if blob.has(*index) {
                Arrival::Kept
            } else if pass.is_wrong(*index) {
                Arrival::Wrong
            } else {
                return self.read_alone(read, blob, *index, indexes, origin).await;
            };
            let taken = TakenIn {
                arrival,
                bytes: None,
            };
            self.report_taken(read, blob, *index, taken).await;
        }
        None
    }

    /// Reads on from `first`, for this read only.
    async fn read_alone(
        &self,
        read: u64,
        blob: &BlobStore,
        first: ChunkIndex,
        indexes: &[ChunkIndex],
        origin: &Arc<dyn BlobOrigin>,
    ) -> Option<OriginFailure> {
        let left = indexes.iter().skip_while(|index| **index != first);
        let left: Vec<_> = left.copied().collect();
        let skip = blob.table().range(first).start;
        let pieces = origin.read_whole(blob.digest());
        let run = Run {
            read,
            source: origin.source(),
            skip,
        };
        self.take_run(run, blob, &left, pieces, &**origin).await
    }

    /// The pass over the blob, begun if there is none.
    fn follow(&self, blob: &BlobStore, origin: &Arc<dyn BlobOrigin>) -> Pass {
        let passes = self.whole.0.lock();
        let mut passes = passes.unwrap_or_else(PoisonError::into_inner);
        if let Some(pass) = passes.get(&blob.digest()) {
            return pass.clone();
        }
        tracing::warn!(
            blob = %blob.digest(),
            "the registry ignores ranges: the whole blob is read to get a part of it"
        );
        let (sender, came_len) = watch::channel(0);
        let wrong = Arc::default();
        let pass = Pass {
            came_len,
            wrong: Arc::clone(&wrong),
        };
        passes.insert(blob.digest(), pass.clone());
        let running = Running {
            jobs: self.clone(),
            blob: blob.digest(),
            came_len: sender,
            wrong,
        };
        self.tasks
            .spawn(running.pass(blob.clone(), Arc::clone(origin)));
        pass
    }
}

impl Pass {
    fn over() -> Self {
        Self {
            came_len: watch::channel(0).1,
            wrong: Arc::default(),
        }
    }

    fn is_wrong(&self, index: ChunkIndex) -> bool {
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        wrong.contains(&index.get())
    }
}

impl Running {
    async fn pass(self, blob: BlobStore, origin: Arc<dyn BlobOrigin>) {
        let table = blob.table().clone();
        let mut pieces = origin.read_whole(blob.digest());
        self.jobs.counters.registry_requests.increment();
        let mut buffer = BytesMut::new();
        for index in table.all() {
            let len = usize::try_from(table.range(index).len()).unwrap_or(usize::MAX);
            while buffer.len() < len {
                // Nobody reads what comes for a node that stops.
                if self.jobs.events.is_closed() {
                    return;
                }
                match pieces.next().await {
                    Some(Ok(piece)) => {
                        buffer.extend_from_slice(&piece);
                        let len = piece.len() as u64;
                        self.jobs.counters.registry_bytes.add(len);
                        self.came_len.send_modify(|came_len| *came_len += len);
                    }
                    Some(Err(error)) => {
                        failure(&blob, &error);
                        return;
                    }
                    None => return,
                }
            }
            let bytes = buffer.split_to(len).freeze();
            if blob.has(index) {
                continue;
            }
            let (number, source) = (index.get(), origin.source());
            let taken = self.jobs.take_in(blob.clone(), number, bytes, source);
            if taken.await.arrival == Arrival::Wrong {
                let wrong = self.wrong.lock();
                wrong.unwrap_or_else(PoisonError::into_inner).insert(number);
            }
            self.came_len.send_modify(|_| {});
        }
        let blob = blob.digest();
        self.jobs.report(Event::Refilled { blob }).await;
    }
}

#[cfg(test)]
mod tests;
