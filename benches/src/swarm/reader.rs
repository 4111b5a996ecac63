//! One host's reader: reads the working set once, some of it at the same time, and compares every byte.
//!
//! It speaks NBD over the agent's unix socket, which works across network namespaces and needs no kernel module. As a
//! container does, several readers go through files of some length in order: demand, with read-ahead behind it.

use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use super::image::Image;

/// Readers of one host at the same time.
const READERS: usize = 4;
/// What one of them reads in order before it takes the next piece.
const FILE_LEN: usize = 2 << 20;
/// What it asks for at once: what the kernel's read-ahead does.
const READ_LEN: usize = 128 << 10;
/// How long a reader looks for a device that went away because its agent is being restarted.
const RETURN: Duration = Duration::from_mins(1);

const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

/// One read of one host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) begun: Instant,
    pub(super) took: Duration,
    pub(super) len: usize,
    /// Bytes that were not what they must be.
    pub(super) wrong_len: usize,
    /// The device answered with an error.
    pub(super) failed: bool,
}

/// What a host's readers share.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    pub(super) image: &'a Image,
    /// The device's socket.
    pub(super) socket: PathBuf,
    /// The host is gone: its readers end, and nothing of that is an error.
    pub(super) gone: &'a AtomicBool,
    /// Its agent will be restarted: a lost device is looked for again.
    pub(super) restarts: bool,
    pub(super) samples: Sender<Sample>,
}

impl Reader<'_> {
    /// Reads everything; ends when the last reader has.
    pub(super) fn run(&self) -> Result<()> {
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            let readers: Vec<_> = (0..READERS)
                .map(|_| scope.spawn(|| self.read_files(&next)))
                .collect();
            for reader in readers {
                match reader.join() {
                    Ok(done) => done?,
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok(())
        })
    }

    fn read_files(&self, next: &AtomicUsize) -> Result<()> {
        let mut buffer = vec![0; READ_LEN];
        let mut device = self.connect()?;
        let work = self.image.work();
        loop {
            let start = work.start + next.fetch_add(1, Ordering::Relaxed) * FILE_LEN;
            let end = (start + FILE_LEN).min(work.end);
            if start >= end {
                return Ok(());
            }
            for at in (start..end).step_by(READ_LEN) {
                let len = READ_LEN.min(end - at);
                let buffer = buffer.get_mut(..len).context("a buffer")?;
                let begun = Instant::now();
                let outcome = loop {
                    match device.read(at as u64, buffer) {
                        Ok(outcome) => break outcome,
                        Err(_) if self.gone.load(Ordering::SeqCst) => return Ok(()),
                        Err(_) if self.restarts => device = self.connect()?,
                        Err(error) => return Err(error.context("read the device")),
                    }
                };
                let wrong_len = if outcome == Outcome::Failed {
                    0
                } else {
                    differing(buffer, self.image.expected(at..at + len))
                };
                let sample = Sample {
                    begun,
                    took: begun.elapsed(),
                    len,
                    wrong_len,
                    failed: outcome == Outcome::Failed,
                };
                // The run is over for a reason of its own.
                if self.samples.send(sample).is_err() {
                    return Ok(());
                }
            }
        }
    }

    fn connect(&self) -> Result<Device> {
        let deadline = Instant::now() + RETURN;
        loop {
            match Device::open(&self.socket) {
                Ok(device) => return Ok(device),
                Err(error) if !self.restarts || Instant::now() > deadline => return Err(error),
                Err(_) => thread::park_timeout(Duration::from_millis(10)),
            }
        }
    }
}

/// How many bytes are not the same; all of them where lengths differ.
fn differing(got: &[u8], expected: &[u8]) -> usize {
    if got == expected {
        return 0;
    }
    if got.len() != expected.len() {
        return got.len();
    }
    got.iter().zip(expected).filter(|(a, b)| a != b).count()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Read,
    /// An error of the device: the connection goes on.
    Failed,
}

/// A connection to an NBD server, one request at a time.
#[derive(Debug)]
struct Device {
    stream: UnixStream,
}

impl Device {
    fn open(socket: &Path) -> Result<Self> {
        let mut stream = UnixStream::connect(socket)
            .with_context(|| format!("connect to {}", socket.display()))?;
        nbd::client::handshake(&mut stream, b"").context("agree on NBD")?;
        Ok(Self { stream })
    }

    #[expect(clippy::big_endian_bytes, reason = "NBD is")]
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<Outcome> {
        let len = u32::try_from(buffer.len()).context("a short read")?;
        let mut request = [0; 28];
        let mut rest = &mut request[..];
        for field in [
            &REQUEST_MAGIC.to_be_bytes()[..],
            // No flags, and the command that reads.
            &[0; 4],
            &[0; 8],
            &offset.to_be_bytes(),
            &len.to_be_bytes(),
        ] {
            rest.write_all(field).context("a request")?;
        }
        self.stream.write_all(&request).context("send a request")?;
        let mut reply = [0; 16];
        self.stream.read_exact(&mut reply).context("hear a reply")?;
        let mut words = reply
            .chunks_exact(4)
            .filter_map(|word| word.try_into().ok().map(u32::from_be_bytes));
        let (magic, error) = (words.next(), words.next());
        ensure!(magic == Some(REPLY_MAGIC), "this is no reply: {reply:?}");
        match error {
            Some(0) => {
                self.stream.read_exact(buffer).context("read the bytes")?;
                Ok(Outcome::Read)
            }
            // ESHUTDOWN: the device is being taken down, and will be somewhere else.
            Some(108) => bail!("the device is being taken down"),
            _ => Ok(Outcome::Failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_bytes_are_counted_one_by_one() {
        assert_eq!(differing(b"abcd", b"abcd"), 0);
        assert_eq!(differing(b"abcd", b"xbcx"), 2);
        assert_eq!(differing(b"abcd", b"abc"), 4);
    }
}
