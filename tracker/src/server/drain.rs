//! How the tracker takes leave: its members turn to another, or to each other, before it is gone.
//!
//! Whoever reads the registry under a lease may bring that to its end; nobody gets another lease, and no question is
//! answered any more. The seed is not told: it goes on serving those who have it as their parent until it ends with the tracker.

use std::time::Duration;

use futures::future::join_all;
use tokio_util::sync::CancellationToken;
use tranship_format::wire::{ErrorCode, TrackerReply, TrackerRequest};

use super::{Server, error};

/// A node that reads nothing is waited for so long.
const FAREWELL: Duration = Duration::from_secs(1);

/// The course of leave-taking, for those outside.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drain {
    /// It is to begin.
    pub(crate) begin: CancellationToken,
    /// All members were told.
    pub(crate) told: CancellationToken,
    /// Nobody reads under a lease any more.
    pub(crate) done: CancellationToken,
}

impl Server {
    /// Tells the members.
    pub(super) fn begin_drain(&mut self) {
        self.is_draining = true;
        self.tracker.drain();
        let seed = self.seed.as_ref().map(|(seed, _)| seed.peer);
        let members = self.sessions.iter();
        let members = members.filter(|(peer, _)| seed.as_ref() != Some(*peer));
        let written: Vec<_> = members
            .filter_map(|(_, session)| session.replies.send_told(0, &TrackerReply::Farewell))
            .collect();
        tracing::info!(members = written.len(), "the tracker says farewell");
        let told = self.drain.told.clone();
        self.tasks.spawn(async move {
            // Who does not read finds out by the end of its stream.
            let _ = tokio::time::timeout(FAREWELL, join_all(written)).await;
            told.cancel();
        });
    }

    /// Notes when nobody reads under a lease any more.
    pub(super) fn look_whether_drained(&self) {
        if self.is_draining && self.tracker.reading_count() == 0 {
            self.drain.done.cancel();
        }
    }

    /// The answer to what is not answered any more.
    pub(super) fn refusal(&self, message: &TrackerRequest) -> Option<TrackerReply> {
        let is_question = matches!(
            message,
            TrackerRequest::Join(_)
                | TrackerRequest::Open(_)
                | TrackerRequest::Lookup { .. }
                | TrackerRequest::Prove(_)
        );
        (self.is_draining && is_question)
            .then(|| error(ErrorCode::Stopping, "the tracker is stopping"))
    }
}
