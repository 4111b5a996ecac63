//! The giving side: a chunk from the store to a peer's stream.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;
use tranship_format::wire::{ChunkId, MAX_BODY_LEN, PeerId, PeerMessage};
use tranship_store::BlobStore;

use super::event::Event;
use super::stream::{Outbox, Outgoing};
use crate::fetch::Jobs;
use crate::net::Fault;

/// What bounds and bends the giving side.
#[derive(Debug)]
pub(crate) struct Server {
    jobs: Jobs,
    room: Arc<Semaphore>,
    limit: Option<RateLimit>,
    corruption: Corruption,
}

impl Server {
    pub(crate) fn new(
        jobs: Jobs,
        room: Arc<Semaphore>,
        upload_rate: Option<u64>,
        fault: Fault,
    ) -> Arc<Self> {
        Arc::new(Self {
            jobs,
            room,
            limit: upload_rate.map(RateLimit::new),
            corruption: Corruption::new(fault.corrupt_share),
        })
    }

    /// Sends a chunk, from memory if it is at hand, else from the store, and reports.
    pub(crate) fn serve(
        self: &Arc<Self>,
        (peer, request): (PeerId, u32),
        chunk: ChunkId,
        at_hand: Option<Bytes>,
        blob: Option<BlobStore>,
        outbox: Outbox,
    ) {
        let server = Arc::clone(self);
        self.jobs.tasks.spawn(async move {
            let sent = server.send(request, chunk, at_hand, blob, &outbox).await;
            let done = sent.is_some();
            let event = Event::Served {
                peer,
                request,
                done,
            };
            server.jobs.report(event).await;
        });
    }

    async fn send(
        &self,
        request: u32,
        chunk: ChunkId,
        at_hand: Option<Bytes>,
        blob: Option<BlobStore>,
        outbox: &Outbox,
    ) -> Option<()> {
        let bytes = match at_hand {
            Some(bytes) => bytes,
            None => self.load(blob?, chunk.number).await?,
        };
        let len = u32::try_from(bytes.len()).ok()?;
        if len > MAX_BODY_LEN {
            return None;
        }
        // Held until the connection has taken the bytes: a slow peer holds no more than its share.
        let _room = self.room.acquire_many(len).await.ok()?;
        if let Some(limit) = &self.limit {
            tokio::time::sleep_until(limit.reserve(len.into())).await;
        }
        let bytes = self.corruption.bend(bytes);
        let message = PeerMessage::Data { request, bytes };
        let (written, done) = oneshot::channel();
        let mut outgoing = Outgoing {
            written: Some(written),
            ..Outgoing::default()
        };
        if let Some(body) = message.encode_head(&mut outgoing.head) {
            outgoing.body = body.clone();
        }
        if !outbox.send(outgoing) {
            return None;
        }
        done.await.ok()?;
        self.jobs.counters.served.add(len.into());
        Some(())
    }

    async fn load(&self, blob: BlobStore, number: u32) -> Option<Bytes> {
        let index = blob.table().index(number)?;
        let reading = self.jobs.tasks.spawn_blocking(move || blob.get(index));
        match reading.await.ok()? {
            Ok(found) => found.map(tranship_format::Verified::into_bytes),
            Err(error) => {
                tracing::warn!(
                    chunk = number,
                    error = &error as &dyn std::error::Error,
                    "the store cannot read a chunk for a peer"
                );
                None
            }
        }
    }
}

/// A rate kept by handing out moments: each send may begin when those before it
/// have had their time.
#[derive(Debug)]
struct RateLimit {
    bytes_per_second: u64,
    free_at: Mutex<Instant>,
}

impl RateLimit {
    fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: bytes_per_second.max(1),
            free_at: Mutex::new(Instant::now()),
        }
    }

    /// When `len` bytes may begin.
    fn reserve(&self, len: u64) -> Instant {
        let takes = Duration::from_nanos(
            len.saturating_mul(1_000_000_000)
                .checked_div(self.bytes_per_second)
                .unwrap_or(0),
        );
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = (*free_at).max(Instant::now());
        *free_at = begin + takes;
        begin
    }
}

/// Flips a bit in a share of chunks, evenly spread, when a test asks for it.
#[derive(Debug)]
struct Corruption {
    per_million: u64,
    owed: AtomicU64,
}

impl Corruption {
    fn new(share: f64) -> Self {
        let share = if share.is_finite() {
            share.clamp(0.0, 1.0)
        } else {
            0.0
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share within 0 and 1 times a million is a small whole number"
        )]
        let per_million = (share * 1e6) as u64;
        Self {
            per_million,
            owed: AtomicU64::new(0),
        }
    }

    fn bend(&self, bytes: Bytes) -> Bytes {
        let before = self.owed.fetch_add(self.per_million, Relaxed);
        let after = before.wrapping_add(self.per_million);
        if after / 1_000_000 == before / 1_000_000 {
            return bytes;
        }
        let mut bent = bytes.to_vec();
        if let Some(first) = bent.first_mut() {
            *first ^= 1;
        }
        bent.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_chunks_is_bent() {
        for (share, expected) in [(0.0, 0), (0.25, 25), (0.5, 50), (1.0, 100), (f64::NAN, 0)] {
            let corruption = Corruption::new(share);
            let bent = (0..100)
                .filter(|_| corruption.bend(Bytes::from_static(b"ab")) != b"ab"[..])
                .count();
            assert_eq!(bent, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn sends_wait_for_their_time() {
        let limit = RateLimit::new(1_000);
        let first = limit.reserve(500);
        let second = limit.reserve(1_000);
        let third = limit.reserve(1);
        assert_eq!(second - first, Duration::from_millis(500));
        assert_eq!(third - second, Duration::from_secs(1));
    }
}
