//! Frames on a byte stream: a reader that cuts, a writer with a queue.
//!
//! What is queued is written in batches, header and body in one buffer, and
//! flushed when the queue is empty: half the processor time of a small request
//! is otherwise spent on flushing.

use std::io;

use bytes::{BufMut, Bytes};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tranship_format::wire::{Frame, FrameDecoder, WireError};

use super::transport::ByteStream;

/// Most bytes of one read: a read clears what it may fill, so more would cost
/// more than it saves.
const READ_LEN: usize = 64 << 10;
/// A batch is written once it has so many bytes.
const BATCH_LEN: usize = 256 << 10;
/// Frames that may wait in a queue. A peer that lets so many pile up is not reading.
const QUEUE: usize = 4096;

/// Why a stream is of no use any more.
#[derive(Debug, Error)]
pub(crate) enum StreamError {
    /// The connection failed.
    #[error("the stream broke")]
    Broken(#[source] io::Error),
    /// What came is not a frame.
    #[error("the other end does not keep to the protocol")]
    Wire(#[source] WireError),
}

/// The receiving half of a stream.
pub(crate) struct FrameReader {
    stream: ReadHalf<ByteStream>,
    decoder: FrameDecoder,
}

impl FrameReader {
    /// The next frame; `None` when the other end closed the stream between two frames.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, StreamError> {
        loop {
            if let Some(frame) = self.decoder.next_frame().map_err(StreamError::Wire)? {
                return Ok(Some(frame));
            }
            let mut room = self.decoder.buffer_mut().limit(READ_LEN);
            let count = self.stream.read_buf(&mut room).await;
            if count.map_err(StreamError::Broken)? == 0 {
                return match self.decoder.buffered_len() {
                    0 => Ok(None),
                    _ => Err(StreamError::Broken(io::ErrorKind::UnexpectedEof.into())),
                };
            }
        }
    }

    /// Changes the longest body that is accepted.
    pub(crate) fn set_max_body_len(&mut self, len: u32) {
        self.decoder.set_max_body_len(len);
    }
}

/// The sending half of a stream, before it has a queue.
pub(crate) struct FrameWriter {
    stream: WriteHalf<ByteStream>,
}

impl FrameWriter {
    /// Writes encoded frames and makes sure that they leave.
    pub(crate) async fn send(&mut self, frames: &[u8]) -> Result<(), StreamError> {
        self.stream
            .write_all(frames)
            .await
            .map_err(StreamError::Broken)?;
        self.stream.flush().await.map_err(StreamError::Broken)
    }

    /// Gives the writer a queue. The future writes what is queued until all
    /// handles are gone or the stream breaks; whoever owns the stream runs it.
    pub(crate) fn queued(
        self,
    ) -> (
        Outbox,
        impl Future<Output = Result<(), StreamError>> + Send + 'static,
    ) {
        let (sender, queue) = mpsc::channel(QUEUE);
        (Outbox { queue: sender }, write(self.stream, queue))
    }
}

/// Splits a stream into frames. Bodies may have at most `max_body_len` bytes.
pub(crate) fn frames(stream: ByteStream, max_body_len: u32) -> (FrameReader, FrameWriter) {
    let (read, write) = tokio::io::split(stream);
    let reader = FrameReader {
        stream: read,
        decoder: FrameDecoder::with_max_body_len(max_body_len),
    };
    (reader, FrameWriter { stream: write })
}

/// A frame on its way out.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    /// The encoded frame, or all of it but a long body.
    pub(crate) head: Vec<u8>,
    /// The long body.
    pub(crate) body: Bytes,
    /// Told when the frame was handed to the connection.
    pub(crate) written: Option<oneshot::Sender<()>>,
}

/// Queue of one stream. The stream ends when all clones are gone.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    queue: mpsc::Sender<Outgoing>,
}

impl Outbox {
    /// Queues a frame without waiting. `false`: the stream has ended, or the
    /// other end reads so slowly that it should.
    pub(crate) fn send(&self, outgoing: Outgoing) -> bool {
        self.queue.try_send(outgoing).is_ok()
    }

    /// Whether two handles are of one stream.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        self.queue.same_channel(&other.queue)
    }
}

async fn write(
    mut stream: WriteHalf<ByteStream>,
    mut queue: mpsc::Receiver<Outgoing>,
) -> Result<(), StreamError> {
    let mut batch = Vec::new();
    let mut written = Vec::new();
    while let Some(first) = queue.recv().await {
        let mut next = Some(first);
        while let Some(outgoing) = next {
            batch.extend_from_slice(&outgoing.head);
            batch.extend_from_slice(&outgoing.body);
            written.extend(outgoing.written);
            next = (batch.len() < BATCH_LEN)
                .then(|| queue.try_recv().ok())
                .flatten();
        }
        stream
            .write_all(&batch)
            .await
            .map_err(StreamError::Broken)?;
        batch.clear();
        for told in written.drain(..) {
            // Whoever asked may have lost interest.
            let _ = told.send(());
        }
        if queue.is_empty() {
            stream.flush().await.map_err(StreamError::Broken)?;
        }
    }
    stream.shutdown().await.map_err(StreamError::Broken)
}
