//! The tracker's end of a conversation with one node.
//!
//! Who is at the other end is proved by the transport; whether it may join is the
//! tracker's to say.

use futures::future::BoxFuture;
use thiserror::Error;
use tokio::sync::oneshot;
use tranship_format::wire::{MAX_BODY_LEN, PeerId, TrackerReply, TrackerRequest, WireError};

use super::stream::{FrameReader, Outbox, Outgoing, StreamError, frames};
use super::transport::ByteStream;

/// A stream that a node opened to the tracker.
pub struct TrackerStream {
    peer: PeerId,
    requests: FrameReader,
    replies: Replies,
    writing: BoxFuture<'static, Result<(), StreamError>>,
}

impl std::fmt::Debug for TrackerStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrackerStream")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl TrackerStream {
    pub(crate) fn new(peer: PeerId, stream: ByteStream) -> Self {
        let (requests, writer) = frames(stream, MAX_BODY_LEN);
        let (queue, writing) = writer.queued();
        Self {
            peer,
            requests,
            replies: Replies { queue },
            writing: Box::pin(writing),
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Where answers go. They are written while [`TrackerStream::next`] runs, and
    /// the stream stays open as long as it does.
    pub fn replies(&self) -> Replies {
        self.replies.clone()
    }

    /// The next request and its number; `None` when the node closed the stream.
    /// May be dropped and called again without loss.
    ///
    /// # Errors
    /// [`TrackerStreamError`] when the stream breaks or what came is no request: it is then of no use.
    pub async fn next(&mut self) -> Result<Option<(u32, TrackerRequest)>, TrackerStreamError> {
        let frame = tokio::select! {
            frame = self.requests.next() => frame.map_err(|error| TrackerStreamError(Why::Stream(error)))?,
            written = &mut self.writing => {
                written.map_err(|error| TrackerStreamError(Why::Stream(error)))?;
                None
            }
        };
        match frame {
            Some(frame) => TrackerRequest::from_frame(&frame)
                .map(Some)
                .map_err(|error| TrackerStreamError(Why::Wire(error))),
            None => Ok(None),
        }
    }
}

/// Why a conversation cannot go on.
#[derive(Debug, Error)]
#[error("talk with a node")]
pub struct TrackerStreamError(#[source] Why);

#[derive(Debug, Error)]
enum Why {
    #[error("the stream failed")]
    Stream(#[source] StreamError),
    #[error("understand what came")]
    Wire(#[source] WireError),
}

/// Where answers to one node go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Replies {
    queue: Outbox,
}

impl Replies {
    /// Queues an answer; `false` when the stream has ended or the node does not read.
    /// `request` is the number of the request, 0 for what nobody asked for.
    pub fn send(&self, request: u32, reply: &TrackerReply) -> bool {
        let mut outgoing = Outgoing::default();
        reply.encode(request, &mut outgoing.head);
        self.queue.send(outgoing)
    }

    /// The same; the receiver hears when it has been written. `None` as `false` above.
    pub fn send_told(&self, request: u32, reply: &TrackerReply) -> Option<oneshot::Receiver<()>> {
        let (written, done) = oneshot::channel();
        let mut outgoing = Outgoing {
            written: Some(written),
            ..Outgoing::default()
        };
        reply.encode(request, &mut outgoing.head);
        self.queue.send(outgoing).then_some(done)
    }

    /// Whether two are of one stream.
    pub fn same_as(&self, other: &Self) -> bool {
        self.queue.same_as(&other.queue)
    }
}
