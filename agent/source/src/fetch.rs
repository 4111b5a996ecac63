//! One chunk, once: from the store, else from whoever the swarm's decisions name.
//!
//! Every reader of this node asks here. The store answers first; what it lacks is
//! wanted of the node's driver, which wants each chunk once however many readers
//! wait, and is led by nobody: a reader that goes away leaves the others waiting
//! for the same bytes. Nothing is returned, stored or served before the blob's
//! chunk table has verified it.

use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;
use tranship_format::wire::ChunkId;
use tranship_format::{ChunkIndex, Digest, Verified};
use tranship_store::BlobStore;

use crate::counters::{Counters, Source};

pub use origin::{BlobOrigin, BlobPieces, OriginError, RegistryOrigin};
pub use tranship_format::wire::Class;

pub(crate) use jobs::Jobs;

mod jobs;
mod origin;
mod whole;

/// Times that a reader looks in the store again because the chunk came and went meanwhile.
const LOOKS: usize = 4;

/// Why a chunk did not come.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum FetchError {
    /// No open image has the blob, so nobody knows where to read it.
    #[error("blob {blob} belongs to no open image")]
    NotOpen {
        /// The blob.
        blob: Digest,
    },
    /// No peer has the chunk and the registry failed.
    #[error("no source gives chunk {chunk} of blob {blob}: {why}")]
    Unavailable {
        /// The blob.
        blob: Digest,
        /// The chunk's number.
        chunk: u32,
        /// What was tried last.
        why: String,
    },
    /// No peer has the chunk and the registry does not have it, or does not let us read it.
    #[error("the registry refuses chunk {chunk} of blob {blob}: {why}")]
    Refused {
        /// The blob.
        blob: Digest,
        /// The chunk's number.
        chunk: u32,
        /// What the registry said.
        why: String,
    },
    /// What the registry has for the chunk is not what the manifest promises.
    #[error("the registry's chunk {chunk} of blob {blob} is not what the manifest promises")]
    Corrupt {
        /// The blob.
        blob: Digest,
        /// The chunk's number.
        chunk: u32,
    },
    /// More is wanted at once than this node may hold in flight.
    #[error("too many chunks are wanted at once")]
    Overloaded,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

/// Gets chunks. Cheap to clone; all clones share what is in flight.
#[derive(Clone, Debug)]
pub struct Fetcher {
    mailbox: Mailbox,
    counters: Arc<Counters>,
    tasks: TaskTracker,
}

impl Fetcher {
    pub(crate) fn new(mailbox: Mailbox, counters: Arc<Counters>, tasks: TaskTracker) -> Self {
        Self {
            mailbox,
            counters,
            tasks,
        }
    }

    /// The bytes of one chunk, verified: from the store, else from a peer, the
    /// seed or the registry, and then kept in the store if it has room.
    ///
    /// The blob must belong to an open image. There is no time limit here: whoever
    /// reads has one, and gives up by dropping the future; the chunk is no longer
    /// wanted when the last of its readers has.
    ///
    /// # Errors
    /// [`FetchError`] when no source gives it, after every source was tried more than once.
    pub async fn chunk(
        &self,
        blob: &BlobStore,
        index: ChunkIndex,
        class: Class,
    ) -> Result<Bytes, FetchError> {
        let mut absent = false;
        for _ in 0..LOOKS {
            if !absent && blob.has(index) {
                match self.look(blob, index).await {
                    Some(chunk) => {
                        self.counters
                            .came(Source::Store, chunk.bytes().len() as u64);
                        return Ok(chunk.into_bytes());
                    }
                    // It was there and cannot be read: it is fetched whatever the map says.
                    None => absent = true,
                }
            }
            if let Some(bytes) = self.wanted(blob, index, class, absent).await? {
                return Ok(bytes);
            }
            absent = false;
        }
        Err(FetchError::Unavailable {
            blob: blob.digest(),
            chunk: index.get(),
            why: "the store loses it as soon as it has it".to_owned(),
        })
    }

    /// What happened to chunks so far.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    async fn look(&self, blob: &BlobStore, index: ChunkIndex) -> Option<Verified> {
        let reading = blob.clone();
        let read = self.tasks.spawn_blocking(move || reading.get(index));
        match read.await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::warn!(blob = %blob.digest(), chunk = index.get(), error = &error as &dyn std::error::Error, "the store cannot read a chunk that it has");
                None
            }
            Err(_) => None,
        }
    }

    /// Waits for the driver. `None`: the store has it by now.
    async fn wanted(
        &self,
        blob: &BlobStore,
        index: ChunkIndex,
        class: Class,
        absent: bool,
    ) -> Result<Option<Bytes>, FetchError> {
        let chunk = ChunkId {
            blob: blob.digest(),
            number: index.get(),
        };
        let (reply, answer) = oneshot::channel();
        let wanted = Wanted {
            chunk,
            class,
            absent,
            reply,
        };
        let sent = self.mailbox.wanted.send(wanted).await;
        sent.map_err(|_| FetchError::Stopped)?;
        let _interest = Interest {
            chunk,
            dropped: self.mailbox.dropped.clone(),
        };
        answer.await.unwrap_or(Err(FetchError::Stopped))
    }
}

/// What a reader asks of the driver.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) chunk: ChunkId,
    pub(crate) class: Class,
    /// The store was asked and cannot give it, whatever its map says.
    pub(crate) absent: bool,
    pub(crate) reply: Reply,
}

/// `Ok(None)` sends the reader back to the store.
pub(crate) type Reply = oneshot::Sender<Result<Option<Bytes>, FetchError>>;

/// The driver's letter box for readers.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox {
    pub(crate) wanted: mpsc::Sender<Wanted>,
    /// Without bound, because a future that is dropped cannot wait; there is at
    /// most one letter here for each that went through `wanted`.
    pub(crate) dropped: mpsc::UnboundedSender<ChunkId>,
}

/// Tells the driver when a reader stops waiting, answered or not.
struct Interest {
    chunk: ChunkId,
    dropped: mpsc::UnboundedSender<ChunkId>,
}

impl Drop for Interest {
    fn drop(&mut self) {
        // A driver that is gone waits for nobody.
        let _ = self.dropped.send(self.chunk);
    }
}
