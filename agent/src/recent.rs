//! The few chunks that were fetched and could not be kept.
//!
//! When the store is full a read goes through to the source. A chunk holds several blocks, so without this each of them
//! would fetch the chunk anew.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use lru::LruCache;

/// Chunks kept, for each blob: one for each of a few readers. Chunks are at most 4 MiB, mostly a sixteenth of that.
const CHUNK_COUNT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(7);

/// Verified chunks that the store had no room for, the latest few.
#[derive(Debug)]
pub(crate) struct Recent {
    chunks: Mutex<LruCache<u32, Bytes>>,
}

impl Recent {
    pub(crate) fn new() -> Self {
        Self {
            chunks: Mutex::new(LruCache::new(CHUNK_COUNT)),
        }
    }

    pub(crate) fn get(&self, chunk: u32) -> Option<Bytes> {
        self.lock().get(&chunk).cloned()
    }

    pub(crate) fn insert(&self, chunk: u32, bytes: Bytes) {
        self.lock().put(chunk, bytes);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<u32, Bytes>> {
        // A cache is as good after a panic as before.
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latest_chunks_are_kept_and_older_ones_go() {
        let recent = Recent::new();
        for chunk in 0..20 {
            recent.insert(chunk, Bytes::from(vec![7; 10]));
        }
        assert!(recent.get(19).is_some() && recent.get(12).is_some());
        assert!(recent.get(11).is_none());
    }
}
