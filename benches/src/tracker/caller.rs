//! A bare end of a conversation with a tracker: it says what it is given and decides nothing.

use anyhow::{Context, Result};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tranship_format::wire::{MAX_BODY_LEN, TrackerReply, TrackerRequest};
use tranship_source::net::TrackerAddress;
use tranship_source::net::identity::Identity;
use tranship_source::net::stream::{FrameReader, FrameWriter, frames};
use tranship_source::net::transport::{Arrival, Limits, Purpose, Transport};

/// One stream to a tracker; closed when this is dropped.
pub(super) struct Caller {
    reader: FrameReader,
    writer: FrameWriter,
    last_request: u32,
    _arrivals: mpsc::Receiver<Arrival>,
    /// Connections end with the last handle.
    _transport: Transport,
    _stop: DropGuard,
}

impl Caller {
    /// Connects as `identity`. The tracker expects JOIN first.
    pub(super) async fn connect(identity: &Identity, tracker: &TrackerAddress) -> Result<Self> {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let guard = stop.clone().drop_guard();
        let starting = Transport::start(identity, &[], Limits::NODE, &tasks, stop);
        let (transport, arrivals) = starting.await.context("start a client")?;
        let addresses = std::slice::from_ref(&tracker.address);
        let opening = transport.open(tracker.peer, addresses, Purpose::Tracker);
        let stream = opening.await.context("connect to the tracker")?;
        let (reader, writer) = frames(stream, MAX_BODY_LEN);
        Ok(Self {
            reader,
            writer,
            last_request: 0,
            _arrivals: arrivals,
            _transport: transport,
            _stop: guard,
        })
    }

    /// Says something and waits for the answer to it; routes that nobody asked for are passed over.
    pub(super) async fn call(&mut self, request: &TrackerRequest) -> Result<TrackerReply> {
        // 0 is for what nobody asked.
        self.last_request = self.last_request.wrapping_add(1).max(1);
        let mut bytes = Vec::new();
        request.encode(self.last_request, &mut bytes);
        self.writer.send(&bytes).await.context("call the tracker")?;
        loop {
            let frame = self.reader.next().await.context("hear the tracker")?;
            let frame = frame.context("the tracker has closed the stream")?;
            let (number, reply) = TrackerReply::from_frame(&frame)?;
            if number == self.last_request {
                return Ok(reply);
            }
        }
    }
}
