//! Frames on a byte stream: a reader that cuts, a writer with a queue.
//!
//! What is queued is written in batches, short frames in one buffer, and flushed
//! when the queue is empty: half the processor time of a small request is
//! otherwise spent on flushing. A chunk is encrypted from where it lies. Words go
//! before chunks: a WAIT that came behind four of them would come too late.

use std::io;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tranship_format::wire::{Frame, FrameDecoder, WireError};

use super::transport::ByteStream;

/// Most bytes of one read: a record of TLS, which is all that comes at once. A
/// read clears what it may fill, so more would cost more than it saves.
const READ_LEN: usize = 16 << 10;
/// A batch is written once it has so many bytes: a record of TLS.
const BATCH_LEN: usize = 16 << 10;
/// Room for what comes next that a stream with nothing to write keeps.
const IDLE_LEN: usize = 4 << 10;
/// A stream of which the other end takes nothing for so long is given up: what is
/// on its way to it holds memory, and a place that others wait for.
const STALL: Duration = Duration::from_secs(15);
/// Frames of each kind that may wait. A peer that lets so many pile up is not reading.
const QUEUE: usize = 4096;

/// Why a stream is of no use any more.
#[derive(Debug, Error)]
pub enum StreamError {
    /// The connection failed.
    #[error("the stream broke")]
    Broken(#[source] io::Error),
    /// What came is not a frame.
    #[error("the other end does not keep to the protocol")]
    Wire(#[source] WireError),
}

/// The receiving half of a stream.
pub struct FrameReader {
    stream: ReadHalf<ByteStream>,
    decoder: FrameDecoder,
}

impl FrameReader {
    /// The next frame; `None` when the other end closed the stream between two frames.
    ///
    /// # Errors
    /// [`StreamError`]; nothing can be read any more.
    pub async fn next(&mut self) -> Result<Option<Frame>, StreamError> {
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
    pub fn set_max_body_len(&mut self, len: u32) {
        self.decoder.set_max_body_len(len);
    }
}

impl std::fmt::Debug for FrameReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameReader")
            .field("decoder", &self.decoder)
            .finish_non_exhaustive()
    }
}

/// The sending half of a stream, before it has a queue.
pub struct FrameWriter {
    stream: WriteHalf<ByteStream>,
}

impl std::fmt::Debug for FrameWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameWriter").finish_non_exhaustive()
    }
}

impl FrameWriter {
    /// Writes encoded frames and makes sure that they leave.
    ///
    /// # Errors
    /// [`StreamError::Broken`] when the connection is gone.
    pub async fn send(&mut self, frames: &[u8]) -> Result<(), StreamError> {
        self.stream
            .write_all(frames)
            .await
            .map_err(StreamError::Broken)?;
        self.stream.flush().await.map_err(StreamError::Broken)
    }

    /// Gives the writer a queue. The future writes what is queued until all
    /// handles are gone or the stream breaks; whoever owns the stream runs it.
    pub fn queued(
        self,
    ) -> (
        Outbox,
        impl Future<Output = Result<(), StreamError>> + Send + 'static,
    ) {
        let (words, of_words) = mpsc::channel(QUEUE);
        let (chunks, of_chunks) = mpsc::channel(QUEUE);
        let queue = Queue {
            words: of_words,
            chunks: of_chunks,
        };
        (Outbox { words, chunks }, write(self.stream, queue))
    }
}

/// Splits a stream into frames. Bodies may have at most `max_body_len` bytes.
pub fn frames(stream: ByteStream, max_body_len: u32) -> (FrameReader, FrameWriter) {
    let (read, write) = tokio::io::split(stream);
    let reader = FrameReader {
        stream: read,
        decoder: FrameDecoder::with_max_body_len(max_body_len),
    };
    (reader, FrameWriter { stream: write })
}

/// A frame on its way out.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// The encoded frame, or all of it but a long body.
    pub head: Vec<u8>,
    /// The long body.
    pub body: Bytes,
    /// Told when the frame was handed to the connection.
    pub written: Option<oneshot::Sender<()>>,
}

/// Queue of one stream. The stream ends when all clones are gone.
#[derive(Clone, Debug)]
pub struct Outbox {
    words: mpsc::Sender<Outgoing>,
    chunks: mpsc::Sender<Outgoing>,
}

/// What waits to be written.
struct Queue {
    words: mpsc::Receiver<Outgoing>,
    chunks: mpsc::Receiver<Outgoing>,
}

impl Queue {
    /// The next frame, words first; `None` once all handles are gone and everything was taken.
    async fn next(&mut self) -> Option<Outgoing> {
        tokio::select! {
            biased;
            Some(word) = self.words.recv() => Some(word),
            Some(chunk) = self.chunks.recv() => Some(chunk),
            else => None,
        }
    }

    fn next_now(&mut self) -> Option<Outgoing> {
        let word = self.words.try_recv();
        word.or_else(|_| self.chunks.try_recv()).ok()
    }

    fn is_empty(&self) -> bool {
        self.words.is_empty() && self.chunks.is_empty()
    }
}

impl Outbox {
    /// Queues a frame without waiting. `false`: the stream has ended, or the
    /// other end reads so slowly that it should.
    pub fn send(&self, outgoing: Outgoing) -> bool {
        let queue = if outgoing.body.is_empty() {
            &self.words
        } else {
            &self.chunks
        };
        queue.try_send(outgoing).is_ok()
    }

    /// Whether two handles are of one stream.
    pub fn same_as(&self, other: &Self) -> bool {
        self.words.same_channel(&other.words)
    }
}

/// What a stream does in time.
async fn within<T>(work: impl Future<Output = io::Result<T>>) -> Result<T, StreamError> {
    let done = tokio::time::timeout(STALL, work).await;
    done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(StreamError::Broken)
}

async fn put(stream: &mut WriteHalf<ByteStream>, mut bytes: &[u8]) -> Result<(), StreamError> {
    while !bytes.is_empty() {
        let count = within(stream.write(bytes)).await?;
        let rest = bytes.get(count..).filter(|_| count > 0);
        bytes = rest.ok_or_else(|| StreamError::Broken(io::ErrorKind::WriteZero.into()))?;
    }
    Ok(())
}

async fn write(mut stream: WriteHalf<ByteStream>, mut queue: Queue) -> Result<(), StreamError> {
    let mut batch = Vec::new();
    let mut written = Vec::new();
    while let Some(first) = queue.next().await {
        let mut next = Some(first);
        while let Some(outgoing) = next {
            batch.extend_from_slice(&outgoing.head);
            written.extend(outgoing.written);
            // A long body fills up what is begun, and goes on by itself without being copied.
            let room = BATCH_LEN.saturating_sub(batch.len());
            let (begin, rest) = outgoing.body.split_at(room.min(outgoing.body.len()));
            batch.extend_from_slice(begin);
            if !rest.is_empty() {
                put(&mut stream, &batch).await?;
                batch.clear();
                put(&mut stream, rest).await?;
            }
            next = (batch.len() < BATCH_LEN && rest.is_empty())
                .then(|| queue.next_now())
                .flatten();
        }
        put(&mut stream, &batch).await?;
        batch.clear();
        for told in written.drain(..) {
            // Whoever asked may have lost interest.
            let _ = told.send(());
        }
        if queue.is_empty() {
            within(stream.flush()).await?;
            // A long answer now and then: a thousand streams would hold the room for one each.
            batch.shrink_to(IDLE_LEN);
        }
    }
    within(stream.shutdown()).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;
    use tranship_format::wire::PeerMessage;

    fn queued(message: &PeerMessage) -> Outgoing {
        let mut outgoing = Outgoing::default();
        if let Some(body) = message.encode_head(&mut outgoing.head) {
            outgoing.body = body.clone();
        }
        outgoing
    }

    // On full links WAIT came a second late, behind chunks for the same peer, and who waited for it
    // had given its parent up and read the registry.
    #[tokio::test]
    async fn words_go_before_chunks_that_are_not_begun() {
        let (ours, theirs) = tokio::io::duplex(1 << 10);
        let (_, writer) = frames(Box::new(ours), 1 << 20);
        let (outbox, writing) = writer.queued();
        for request in 1..=2 {
            let bytes = Bytes::from(vec![0; 64 << 10]);
            assert!(outbox.send(queued(&PeerMessage::Data { request, bytes })));
        }
        let writing = tokio::spawn(writing);
        let (mut reader, _) = frames(Box::new(theirs), 1 << 20);
        let first = {
            let first = reader.next();
            tokio::pin!(first);
            // As much of the first chunk as the stream takes is on its way.
            assert!(futures::poll!(&mut first).is_pending());
            tokio::task::yield_now().await;
            assert!(outbox.send(queued(&PeerMessage::Miss { request: 3 })));
            drop(outbox);
            first.await
        };
        let mut came = vec![first.unwrap().unwrap().request];
        while let Some(frame) = reader.next().await.unwrap() {
            came.push(frame.request);
        }
        assert_eq!(came, [1, 3, 2]);
        writing.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_whose_other_end_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 10);
        let (_, writer) = frames(Box::new(ours), 1 << 20);
        let (outbox, writing) = writer.queued();
        let writing = tokio::spawn(writing);
        let outgoing = Outgoing {
            body: vec![0; 16 << 10].into(),
            ..Outgoing::default()
        };
        assert!(outbox.send(outgoing));
        let began = Instant::now();
        let mut taken = [0; 1 << 10];
        for _ in 0..4 {
            tokio::time::sleep(STALL * 9 / 10).await;
            theirs.read_exact(&mut taken).await.unwrap();
        }
        let ended = writing.await.unwrap();
        assert!(matches!(
            ended,
            Err(StreamError::Broken(error)) if error.kind() == io::ErrorKind::TimedOut
        ));
        assert!(began.elapsed() > STALL * 4);
    }
}
