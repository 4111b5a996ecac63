//! Readers that check every byte, past the page cache, for as long as they are let: files of a mounted image, or the whole device over an
//! NBD socket.
//!
//! An error does not end them: what they have seen is asked for after each fault, so that it is known which one it was. A client of a
//! socket connects again when its server is gone, as qemu does that is told `reconnect-delay`; what the server answers counts.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nbd::client::{NbdClient, handshake};
use rustix::fs::{Advice, fadvise};

use super::image::{FILE_COUNT, content, name};

/// Readers at one time.
pub(crate) const READER_COUNT: usize = 4;
/// What is read at a time.
const PIECE_LEN: usize = 64 << 10;
/// Progress that readers must make between one fault and the next, each its part of it.
const STRIDE_LEN: u64 = 4 << 20;
/// How long a reader does nothing after each piece.
const BREATH: Duration = Duration::from_millis(1);
/// How long readers may stand still before they are taken to hang.
const PATIENCE: Duration = Duration::from_mins(2);

/// What readers have met since they were asked before.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// Reads that failed.
    pub(crate) error_count: u64,
    /// Bytes that were others than they should be.
    pub(crate) wrong_len: u64,
    /// The longest time that one read took.
    pub(crate) longest: Duration,
}

#[derive(Debug, Default)]
struct State {
    stop: AtomicBool,
    /// Bytes that each has read.
    read_lens: [AtomicU64; READER_COUNT],
    seen: Mutex<Seen>,
}

/// Readers of an image, until they are told to stop.
pub(crate) struct Readers {
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
}

/// What one reader reads, over and over.
enum Source {
    /// Files and what they should hold.
    Files(Vec<(PathBuf, Vec<u8>)>),
    /// A socket, and what the device should hold.
    Socket(PathBuf, Arc<Vec<u8>>),
}

impl Readers {
    /// Begins to read the files of the image that is mounted there.
    pub(crate) fn start(mounted: &Path) -> Self {
        Self::of(|number| {
            let own = (number..FILE_COUNT).step_by(READER_COUNT);
            Source::Files(
                own.map(|file| (mounted.join(name(file)), content(file)))
                    .collect(),
            )
        })
    }

    /// Begins to read the device behind an NBD socket, which should hold `bytes`.
    pub(crate) fn of_socket(path: &Path, bytes: &Arc<Vec<u8>>) -> Self {
        Self::of(|_| Source::Socket(path.to_path_buf(), Arc::clone(bytes)))
    }

    fn of(source: impl Fn(usize) -> Source) -> Self {
        let state = Arc::<State>::default();
        let threads = (0..READER_COUNT)
            .map(|number| {
                let (source, state) = (source(number), Arc::clone(&state));
                thread::spawn(move || {
                    while !state.stop.load(Ordering::Relaxed) {
                        source.read_once(number, &state);
                    }
                })
            })
            .collect();
        Self { state, threads }
    }

    /// Waits until every reader has read some more.
    pub(crate) fn wait_for_progress(&self) {
        let part = STRIDE_LEN / READER_COUNT as u64;
        let goals = self.read_lens().map(|len| len + part);
        self.wait_until(|lens| lens.iter().zip(goals).all(|(len, goal)| *len >= goal));
    }

    /// Waits until they have read so many bytes, all together.
    pub(crate) fn wait_for(&self, len: u64) {
        let goal = self.read_lens().iter().sum::<u64>() + len;
        self.wait_until(|lens| lens.iter().sum::<u64>() >= goal);
    }

    fn wait_until(&self, is_done: impl Fn(&[u64]) -> bool) {
        let begun = Instant::now();
        while !is_done(&self.read_lens()) {
            assert!(
                begun.elapsed() < PATIENCE,
                "readers hang: {:?}",
                self.seen()
            );
            assert!(
                !self.threads.iter().any(JoinHandle::is_finished),
                "a reader has ended"
            );
            thread::yield_now();
        }
    }

    fn read_lens(&self) -> [u64; READER_COUNT] {
        std::array::from_fn(|number| self.state.read_lens[number].load(Ordering::Relaxed))
    }

    fn seen(&self) -> Seen {
        *self.state.seen.lock().expect("what was seen")
    }

    /// What they have seen since this was asked before.
    pub(crate) fn take(&self) -> Seen {
        std::mem::take(&mut *self.state.seen.lock().expect("what was seen"))
    }

    /// Ends the reading; what was seen since it was asked before.
    pub(crate) fn end(self) -> Seen {
        self.state.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a reader");
        }
        *self.state.seen.lock().expect("what was seen")
    }

    /// Ends the reading; gives the longest time that one read took. Fails on an error or a wrong byte.
    pub(crate) fn finish(self) -> Duration {
        let seen = self.end();
        assert!(seen.error_count == 0 && seen.wrong_len == 0, "{seen:?}");
        seen.longest
    }
}

impl Source {
    fn read_once(&self, number: usize, state: &State) {
        match self {
            Self::Files(files) => {
                for (path, bytes) in files {
                    if let Err(error) = read_file(path, bytes, number, state) {
                        state.note_error(&error);
                    }
                }
            }
            Self::Socket(path, bytes) => match read_socket(path, bytes, number, state) {
                // The server is gone, or not there yet.
                Err(error) if !is_answer(&error) => thread::yield_now(),
                Err(error) => state.note_error(&error),
                Ok(()) => {}
            },
        }
    }
}

/// Whether the server has answered with an error, as the client's library puts it.
fn is_answer(error: &io::Error) -> bool {
    error.raw_os_error().is_none()
        && matches!(error.kind(), ErrorKind::Other | ErrorKind::PermissionDenied)
}

fn read_file(path: &Path, bytes: &[u8], number: usize, state: &State) -> io::Result<()> {
    let file = File::open(path)?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    let mut buf = vec![0; PIECE_LEN];
    for (place, expected) in bytes.chunks(PIECE_LEN).enumerate() {
        if state.stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let begun = Instant::now();
        let part = &mut buf[..expected.len()];
        let read = file.read_exact_at(part, (place * PIECE_LEN) as u64);
        state.note(number, begun.elapsed(), part, expected, read)?;
    }
    Ok(())
}

/// Reads until the connection breaks, each reader from a place of its own on.
fn read_socket(path: &Path, bytes: &[u8], number: usize, state: &State) -> io::Result<()> {
    let begun = Instant::now();
    let mut stream = UnixStream::connect(path)?;
    let export = handshake(&mut stream, b"")?;
    let mut client = NbdClient::new(stream, &export);
    let mut buf = vec![0; PIECE_LEN];
    let piece_count = bytes.len() / PIECE_LEN;
    let first = piece_count * number / READER_COUNT;
    let mut begun = Some(begun);
    for place in (first..piece_count).chain(0..first).cycle() {
        if state.stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        // The first read has waited for the server, too.
        let begun = begun.take().unwrap_or_else(Instant::now);
        let at = place * PIECE_LEN;
        client.seek(SeekFrom::Start(at as u64))?;
        let read = client.read_exact(&mut buf);
        let expected = &bytes[at..at + PIECE_LEN];
        state.note(number, begun.elapsed(), &buf, expected, read)?;
    }
    Ok(())
}

impl State {
    fn note(
        &self,
        number: usize,
        took: Duration,
        found: &[u8],
        expected: &[u8],
        read: io::Result<()>,
    ) -> io::Result<()> {
        let mut seen = self.seen.lock().expect("what was seen");
        seen.longest = seen.longest.max(took);
        read?;
        if found != expected {
            let pairs = found.iter().zip(expected);
            seen.wrong_len += pairs.filter(|(found, expected)| found != expected).count() as u64;
        }
        self.read_lens[number].fetch_add(found.len() as u64, Ordering::Relaxed);
        drop(seen);
        // Those that are to answer share the processors with many readers.
        thread::park_timeout(BREATH);
        Ok(())
    }

    fn note_error(&self, error: &io::Error) {
        let mut seen = self.seen.lock().expect("what was seen");
        if seen.error_count == 0 {
            println!("a read failed: {error}");
        }
        seen.error_count += 1;
        drop(seen);
        // A device that is not there fails as fast as one can ask.
        thread::park_timeout(Duration::from_millis(1));
    }
}
