//! What comes in on a peer's stream, no faster than it can be taken.
//!
//! Chunks wait for room in memory, which all peers share; wishes come at most so
//! fast; events wait for the driver. While one of them waits the stream is not
//! read, so whoever sends too much fills its own connection and nothing of ours.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep_until};
use tranship_format::wire::{Grant, PeerId, PeerMessage, WireError};

use super::certificate::{Authority, unix_seconds};
use super::event::Event;
use super::stream::{FrameReader, StreamError};
use crate::counters::Counters;

/// WANTs of one stream a second: twice what 10 Gb/s of chunks of the usual size need.
const WANTS_PER_SECOND: u32 = 10_000;
/// WANTs that may come at once after a silence.
const WANTS_AT_ONCE: u32 = 4_096;

/// Why a stream is read no further.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReceiveError {
    #[error("the stream failed")]
    Stream(#[source] StreamError),
    #[error("understand what came")]
    Wire(#[source] WireError),
    #[error("a greeting where none belongs")]
    OutOfTurn,
}

/// Judges the grants that come on a stream.
#[derive(Debug)]
pub(super) struct GrantJudge {
    pub(super) authority: Option<Authority>,
    pub(super) counters: Arc<Counters>,
}

impl GrantJudge {
    fn believes(&self, grant: &Grant, peer: &PeerId) -> bool {
        let Some(authority) = &self.authority else {
            return false;
        };
        let checked = authority.check_grant(grant, peer, unix_seconds());
        if let Err(error) = &checked {
            self.counters.refused_grants.increment();
            tracing::debug!(%peer, %error, "a peer's grant is not believed");
        }
        checked.is_ok()
    }
}

/// Reads until the stream ends.
pub(super) async fn receive(
    peer: PeerId,
    mut reader: FrameReader,
    events: &mpsc::Sender<Event>,
    room: &Arc<Semaphore>,
    judge: &GrantJudge,
) -> Result<(), ReceiveError> {
    let mut pace = Pace::new();
    while let Some(frame) = reader.next().await.map_err(ReceiveError::Stream)? {
        let message = PeerMessage::from_frame(frame).map_err(ReceiveError::Wire)?;
        let message = match message {
            PeerMessage::Grant(grant) => {
                // One that is not believed is ignored: clocks differ, and a better one may follow.
                if judge.believes(&grant, &peer)
                    && events.send(Event::Granted { peer, grant }).await.is_err()
                {
                    break;
                }
                continue;
            }
            message => message,
        };
        let room = match &message {
            PeerMessage::Hello(_) | PeerMessage::HelloAck(_) => {
                return Err(ReceiveError::OutOfTurn);
            }
            PeerMessage::Data { bytes, .. } => {
                let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                Arc::clone(room).acquire_many_owned(len).await.ok()
            }
            PeerMessage::Want { .. } => {
                pace.keep().await;
                None
            }
            _ => None,
        };
        let message = Event::Message {
            peer,
            message,
            room,
        };
        if events.send(message).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// A rate with a burst: each wish has its moment, and may come before it by as much as the burst takes.
#[derive(Debug)]
struct Pace {
    next: Instant,
}

impl Pace {
    fn new() -> Self {
        Self {
            next: Instant::now(),
        }
    }

    async fn keep(&mut self) {
        let each = Duration::from_secs(1) / WANTS_PER_SECOND;
        let now = Instant::now();
        self.next = self.next.max(now) + each;
        let ahead = each * WANTS_AT_ONCE;
        if let Some(begin) = self.next.checked_sub(ahead)
            && begin > now
        {
            sleep_until(begin).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::time::timeout;
    use tranship_format::Digest;
    use tranship_format::wire::{ChunkId, Class, Want};

    use super::super::stream::{FrameWriter, frames};
    use super::*;

    /// One end writes; what the other received comes out of the channel.
    fn stream(room: &Arc<Semaphore>) -> (FrameWriter, mpsc::Receiver<Event>) {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (_, writer) = frames(Box::new(ours), 1 << 20);
        let (reader, _) = frames(Box::new(theirs), 1 << 20);
        let (events, received) = mpsc::channel(1 << 16);
        let (peer, room) = (PeerId::from_bytes(b"peer").unwrap(), Arc::clone(room));
        let judge = GrantJudge {
            authority: None,
            counters: Arc::default(),
        };
        tokio::spawn(async move { receive(peer, reader, &events, &room, &judge).await });
        (writer, received)
    }

    fn encoded(message: &PeerMessage) -> Vec<u8> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        bytes
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_wait_for_room_that_all_peers_share() {
        let room = Arc::new(Semaphore::new(1_000));
        let (mut one, mut from_one) = stream(&room);
        let (mut other, mut from_other) = stream(&room);
        let data = |request| {
            let bytes = Bytes::from(vec![1; 600]);
            encoded(&PeerMessage::Data { request, bytes })
        };
        one.send(&data(1)).await.unwrap();
        let first = from_one.recv().await.unwrap();
        one.send(&data(2)).await.unwrap();
        other.send(&data(1)).await.unwrap();
        let minute = Duration::from_mins(1);
        assert!(timeout(minute, from_one.recv()).await.is_err());
        assert!(timeout(minute, from_other.recv()).await.is_err());
        drop(first);
        let next = tokio::select! {
            next = from_one.recv() => next,
            next = from_other.recv() => next,
        };
        assert!(matches!(next, Some(Event::Message { room: Some(_), .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn wishes_come_no_faster_than_a_node_may_wish() {
        let (mut writer, mut received) = stream(&Arc::new(Semaphore::new(1)));
        let count = WANTS_AT_ONCE + WANTS_PER_SECOND;
        let mut bytes = Vec::new();
        for request in 1..=count {
            let want = Want {
                class: Class::Demand,
                chunk: ChunkId {
                    blob: Digest::of(b"blob"),
                    number: 0,
                },
                hash: None,
            };
            PeerMessage::Want { request, want }.encode(&mut bytes);
        }
        tokio::spawn(async move { writer.send(&bytes).await });
        let began = Instant::now();
        for at in 1..=count {
            received.recv().await.unwrap();
            if at == WANTS_AT_ONCE {
                assert!(began.elapsed() < Duration::from_millis(10));
            }
        }
        let took = began.elapsed().as_millis();
        assert!(
            (990..1_100).contains(&took),
            "{took} ms for a second's worth"
        );
    }
}
