//! Reads one node's requests and hands them to the server.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tranship_format::wire::{PeerId, TrackerRequest};
use tranship_source::net::{Replies, TrackerStream};

/// A node has so long for its first request, and for every one after: members
/// send heartbeats far more often.
const PATIENCE: [Duration; 2] = [Duration::from_secs(3), Duration::from_mins(2)];

/// What a stream's task tells the server.
#[derive(Debug)]
pub(super) enum Heard {
    /// A request.
    Request {
        from: PeerId,
        request: u32,
        message: TrackerRequest,
        replies: Replies,
    },
    /// The stream ended.
    Ended { from: PeerId, replies: Replies },
}

/// Reads until the stream ends.
pub(super) async fn listen(
    mut stream: TrackerStream,
    hear: mpsc::Sender<Heard>,
    stop: CancellationToken,
) {
    let (from, replies) = (stream.peer(), stream.replies());
    let [mut patience, later] = PATIENCE;
    loop {
        let next = tokio::select! {
            () = stop.cancelled() => return,
            next = tokio::time::timeout(patience, stream.next()) => next,
        };
        patience = later;
        match next {
            Ok(Ok(Some((request, message)))) => {
                let heard = Heard::Request {
                    from,
                    request,
                    message,
                    replies: replies.clone(),
                };
                if hear.send(heard).await.is_err() {
                    return;
                }
            }
            Ok(Ok(None)) | Err(_) => break,
            Ok(Err(error)) => {
                tracing::debug!(peer = %from, error = &error as &dyn std::error::Error, "a node's stream ended");
                break;
            }
        }
    }
    // A server that has stopped does not mind.
    let _ = hear.send(Heard::Ended { from, replies }).await;
}
