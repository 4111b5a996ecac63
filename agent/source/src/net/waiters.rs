//! The local readers that wait for chunks.
//!
//! All readers of a chunk are equal: the driver wants the chunk as long as one of
//! them still waits, so none has to take over from another that went away.

use std::collections::BTreeMap;

use bytes::Bytes;
use tranship_format::wire::ChunkId;
use tranship_swarm::node::FailReason;

use crate::fetch::{FetchError, Reply};

/// Readers by the chunk that they wait for.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    chunks: BTreeMap<ChunkId, Vec<Reply>>,
}

impl Waiters {
    pub(crate) fn add(&mut self, chunk: ChunkId, reply: Reply) {
        self.chunks.entry(chunk).or_default().push(reply);
    }

    /// Forgets readers that went away; `true` when the chunk was wanted and no longer is.
    pub(crate) fn prune(&mut self, chunk: &ChunkId) -> bool {
        let Some(replies) = self.chunks.get_mut(chunk) else {
            return false;
        };
        replies.retain(|reply| !reply.is_closed());
        let empty = replies.is_empty();
        if empty {
            self.chunks.remove(chunk);
        }
        empty
    }

    /// Gives a chunk to all that wait for it; without bytes they look in the store.
    pub(crate) fn complete(&mut self, chunk: &ChunkId, bytes: Option<&Bytes>) {
        for reply in self.chunks.remove(chunk).unwrap_or_default() {
            // A reader that went away wants nothing.
            let _ = reply.send(Ok(bytes.cloned()));
        }
    }

    /// Tells all that wait for a chunk that it does not come. `origin` is what the
    /// origin said last.
    pub(crate) fn fail(&mut self, id: &ChunkId, why: FailReason, origin: &str) {
        let (blob, chunk) = (id.blob, id.number);
        let unavailable = |why: &str| FetchError::Unavailable {
            blob,
            chunk,
            why: why.to_owned(),
        };
        let error = match why {
            FailReason::TimedOut => unavailable("its time is over"),
            FailReason::RegistryFailed => unavailable(origin),
            FailReason::Refused => FetchError::Refused {
                blob,
                chunk,
                why: origin.to_owned(),
            },
            FailReason::WrongAtRegistry => FetchError::Corrupt { blob, chunk },
            FailReason::Unknown => FetchError::NotOpen { blob },
            FailReason::Overloaded => FetchError::Overloaded,
        };
        for reply in self.chunks.remove(id).unwrap_or_default() {
            let _ = reply.send(Err(error.clone()));
        }
    }

    /// Chunks that somebody waits for.
    pub(crate) fn count(&self) -> usize {
        self.chunks.len()
    }
}
