//! Bounded pipes between the stages of a conversion: a stage that is ahead waits, so memory stays bounded whatever the
//! layers' sizes, and a stage that fails ends its neighbours.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

/// Reads what another thread sends. The end must be sent as an empty piece: a sender that is gone without it has failed,
/// and a tar that ends too early must not look like a whole one.
#[derive(Debug)]
pub(super) struct PieceReader<C> {
    channel: C,
    piece: Bytes,
    ended: bool,
}

/// Where pieces come from.
pub(super) trait Pieces {
    /// The next piece; `None` if the sender is gone.
    fn next(&mut self) -> Option<io::Result<Bytes>>;
}

impl Pieces for mpsc::Receiver<io::Result<Bytes>> {
    fn next(&mut self) -> Option<io::Result<Bytes>> {
        self.blocking_recv()
    }
}

impl Pieces for Receiver<io::Result<Bytes>> {
    fn next(&mut self) -> Option<io::Result<Bytes>> {
        self.recv().ok()
    }
}

impl<C: Pieces> PieceReader<C> {
    pub(super) const fn new(channel: C) -> Self {
        Self {
            channel,
            piece: Bytes::new(),
            ended: false,
        }
    }
}

impl<C: Pieces> Read for PieceReader<C> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && !self.ended {
            let gone = || {
                io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the stage before this one stopped",
                )
            };
            self.piece = self.channel.next().ok_or_else(gone)??;
            self.ended = self.piece.is_empty();
        }
        let len = self.piece.len().min(buf.len());
        if let Some(into) = buf.get_mut(..len) {
            self.piece.copy_to_slice(into);
        }
        Ok(len)
    }
}

/// Reads a source to its end and gives its bytes on in pieces, each to all of `to`, then marks the end. Stops quietly when
/// a receiver is gone.
///
/// # Errors
/// The source fails; the receivers are told too.
pub(super) fn pump(
    source: &mut impl Read,
    to: &[SyncSender<io::Result<Bytes>>],
    piece_len: usize,
) -> io::Result<()> {
    let limit = u64::try_from(piece_len).unwrap_or(u64::MAX);
    loop {
        let mut piece = Vec::with_capacity(piece_len);
        let read = source.by_ref().take(limit).read_to_end(&mut piece);
        let piece = Bytes::from(piece);
        for receiver in to {
            let told = match &read {
                Ok(_) => Ok(piece.clone()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            };
            if receiver.send(told).is_err() {
                return read.map(|_| ());
            }
        }
        if read? == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pumped_is_read() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| (n % 253) as u8).collect();
        let (sender, receiver) = std::sync::mpsc::sync_channel(2);
        let mut read = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| pump(&mut bytes.as_slice(), &[sender], 4096).unwrap());
            PieceReader::new(receiver).read_to_end(&mut read).unwrap();
        });
        assert_eq!(read, bytes);
    }

    #[test]
    fn a_sender_that_is_gone_is_an_error_and_no_end() {
        let (sender, receiver) = std::sync::mpsc::sync_channel(2);
        sender.send(Ok(Bytes::from_static(b"half"))).unwrap();
        drop(sender);
        let mut read = Vec::new();
        let error = PieceReader::new(receiver)
            .read_to_end(&mut read)
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
