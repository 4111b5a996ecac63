//! A device process's line to the agent: asks for chunks, waits, and asks again when there is another agent.
//!
//! One thread reads; whoever asks writes. A write that is not taken within a second breaks the line: what waited is asked again over the next.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tranship_device::Speaks;

use super::AskError;
use super::message::{Class, ReadNote, ToAgent, ToProcess, read_frame};

/// Pauses between tries to reach the agent.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long a frame may take to be taken.
const WRITE_PATIENCE: Duration = Duration::from_secs(1);
/// When the log first speaks of a read that waits without an agent, how often again, and how often it is looked at beyond that.
const TOLD_AFTER: Duration = Duration::from_secs(5);
const TOLD_EVERY: Duration = Duration::from_mins(1);
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Reads and chunks that are noted before they are told, and how long they may wait for others.
const NOTES_MAX: usize = 512;
const NOTES_PATIENCE: Duration = Duration::from_millis(100);

/// See the module's words.
#[derive(Debug)]
pub(super) struct Link {
    agent: PathBuf,
    device: String,
    speaks: Speaks,
    state: Mutex<State>,
    changed: Condvar,
    /// Apart from the rest, since a write may take a while.
    writer: Mutex<Option<UnixStream>>,
    notes: Mutex<Notes>,
}

#[derive(Debug)]
struct State {
    next: u64,
    waiting: BTreeMap<u64, Waiting>,
    /// How long a read waits.
    patience: Duration,
    /// The version that this line is in.
    version: u8,
    is_connected: bool,
    is_serving: bool,
    is_leaving: bool,
}

#[derive(Debug)]
struct Waiting {
    layer: u16,
    chunk: u32,
    answer: Option<Result<Option<Vec<u8>>, AskError>>,
}

#[derive(Debug)]
struct Notes {
    reads: Vec<ReadNote>,
    touched: Vec<(u16, u32)>,
    told: Instant,
}

impl Link {
    /// Begins to look for the agent at `agent`, as a process that speaks those versions. Reads wait for `patience` until that says otherwise.
    pub(super) fn begin(
        agent: PathBuf,
        device: String,
        speaks: Speaks,
        patience: Duration,
    ) -> io::Result<Arc<Self>> {
        let link = Arc::new(Self {
            agent,
            device,
            speaks,
            state: Mutex::new(State {
                next: 0,
                waiting: BTreeMap::new(),
                patience,
                version: speaks.oldest,
                is_connected: false,
                is_serving: false,
                is_leaving: false,
            }),
            changed: Condvar::new(),
            writer: Mutex::default(),
            notes: Mutex::new(Notes {
                reads: Vec::new(),
                touched: Vec::new(),
                told: Instant::now(),
            }),
        });
        let reading = Arc::clone(&link);
        thread::Builder::new()
            .name("agent".to_owned())
            .spawn(move || reading.stay_connected())?;
        Ok(link)
    }

    /// Gets chunks of layers, side by side: for each, its bytes, or nothing when it is in the store now.
    pub(super) fn ask(&self, wanted: &[(u16, u32)]) -> Result<Vec<Option<Vec<u8>>>, AskError> {
        let mut requests = Vec::with_capacity(wanted.len());
        for (layer, chunk) in wanted {
            let mut state = self.state();
            let request = state.next;
            state.next = state.next.wrapping_add(1);
            let waiting = Waiting {
                layer: *layer,
                chunk: *chunk,
                answer: None,
            };
            let frame = waiting.frame(request);
            state.waiting.insert(request, waiting);
            drop(state);
            requests.push(request);
            self.write(&frame);
        }
        let answers = requests
            .iter()
            .map(|request| self.wait(*request))
            .collect::<Vec<_>>();
        answers.into_iter().collect()
    }

    fn wait(&self, request: u64) -> Result<Option<Vec<u8>>, AskError> {
        let begun = Instant::now();
        let mut told_at = TOLD_AFTER;
        let mut state = self.state();
        loop {
            let waiting = state.waiting.get_mut(&request);
            let answer = waiting.and_then(|waiting| waiting.answer.take());
            let waited = begun.elapsed();
            let left = state.patience.saturating_sub(waited);
            if answer.is_some() || left.is_zero() {
                state.waiting.remove(&request);
                return answer.unwrap_or(Err(AskError::TimedOut));
            }
            // Of one that has an agent the agent tells.
            if waited >= told_at && !state.is_connected {
                told_at = waited.saturating_add(TOLD_EVERY);
                if let Some(Waiting { layer, chunk, .. }) = state.waiting.get(&request) {
                    tracing::warn!(
                        device = self.device,
                        layer,
                        chunk,
                        ?waited,
                        ?left,
                        "a read hangs because there is no agent to ask for its chunk"
                    );
                }
            }
            let until_told = told_at.saturating_sub(waited).max(LOOK_AGAIN);
            state = self
                .changed
                .wait_timeout(state, left.min(until_told))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Wishes for a chunk that somebody will read soon; nothing comes back.
    pub(super) fn wish(&self, layer: u16, chunk: u32) {
        let want = ToAgent::Want {
            request: 0,
            class: Class::Prefetch,
            layer,
            chunk,
        };
        self.write(&want.encode());
    }

    /// Says that the kernel's requests are answered, now and to each agent that comes.
    pub(super) fn say_serving(&self) {
        self.state().is_serving = true;
        self.write(&ToAgent::Serving.encode());
    }

    /// Waits until the agent asks this process to leave, for `patience` at most; whether it did.
    pub(super) fn wait_to_leave(&self, patience: Duration) -> bool {
        let state = self.state();
        let waited = self
            .changed
            .wait_timeout_while(state, patience, |state| !state.is_leaving);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_leaving
    }

    /// Notes a read for the agent's numbers.
    pub(super) fn note_read(&self, note: ReadNote) {
        self.note(|notes| notes.reads.push(note));
    }

    /// Notes that a chunk was of use, so that the agent does not take it for one that nobody reads.
    pub(super) fn note_touched(&self, layer: u16, chunk: u32) {
        self.note(|notes| {
            if notes.touched.last() != Some(&(layer, chunk)) {
                notes.touched.push((layer, chunk));
            }
        });
    }

    fn note(&self, note: impl FnOnce(&mut Notes)) {
        let told = {
            let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
            note(&mut notes);
            let count = notes.reads.len().saturating_add(notes.touched.len());
            if count < NOTES_MAX && notes.told.elapsed() < NOTES_PATIENCE {
                return;
            }
            notes.told = Instant::now();
            ToAgent::Reads {
                reads: std::mem::take(&mut notes.reads),
                touched: std::mem::take(&mut notes.touched),
            }
        };
        self.write(&told.encode());
    }

    /// Sends a frame if there is an agent; what waits is sent again to the next.
    fn write(&self, frame: &[u8]) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = writer.as_mut()
            && stream.write_all(frame).is_err()
        {
            // Half a frame may have gone; the thread that reads sees the end and begins anew.
            let _ = stream.shutdown(Shutdown::Both);
            *writer = None;
        }
    }

    fn stay_connected(&self) {
        let mut pause = FIRST_PAUSE;
        loop {
            if let Ok(stream) = self.connect() {
                pause = FIRST_PAUSE;
                self.state().is_connected = true;
                self.listen(stream);
                self.state().is_connected = false;
                *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
            thread::sleep(pause);
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    fn connect(&self) -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(&self.agent)?;
        stream.set_write_timeout(Some(WRITE_PATIENCE))?;
        // The next agent may be of another release than the last.
        self.state().version = self.speaks.oldest;
        let hello = ToAgent::Hello {
            version: self.speaks.oldest,
            device: self.device.clone(),
        };
        let versions = ToAgent::Versions(self.speaks);
        stream.write_all(&[hello.encode(), versions.encode()].concat())?;
        let own = stream.try_clone()?;
        // Whoever asks from now on writes to this one; what waits already is sent by this thread.
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(own);
        let state = self.state();
        let serving = state.is_serving.then(|| ToAgent::Serving.encode());
        let unanswered = state
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.answer.is_none());
        let frames: Vec<Vec<u8>> = serving
            .into_iter()
            .chain(unanswered.map(|(request, waiting)| waiting.frame(*request)))
            .collect();
        drop(state);
        for frame in frames {
            self.write(&frame);
        }
        Ok(stream)
    }

    /// Takes answers until the line breaks.
    fn listen(&self, mut stream: UnixStream) {
        while let Ok(frame) = read_frame(&mut stream) {
            let (request, answer) = match ToProcess::decode(&frame) {
                Some(ToProcess::Agreed { version }) if self.agree(version) => continue,
                Some(ToProcess::Agreed { .. }) => return,
                Some(ToProcess::Kept { request }) => (request, Ok(None)),
                Some(ToProcess::Bytes { request, bytes }) => (request, Ok(Some(bytes))),
                Some(ToProcess::Failed { request, error }) => (request, Err(error)),
                Some(ToProcess::Patience { millis }) => {
                    self.state().patience = Duration::from_millis(millis);
                    self.changed.notify_all();
                    continue;
                }
                Some(ToProcess::Leave) => {
                    self.state().is_leaving = true;
                    self.changed.notify_all();
                    continue;
                }
                // A newer agent's word that this version does not know.
                None => continue,
            };
            if let Some(waiting) = self.state().waiting.get_mut(&request) {
                waiting.answer = Some(answer);
            }
            self.changed.notify_all();
        }
    }

    /// Speaks the version that the agent has chosen; whether this process can.
    fn agree(&self, version: u8) -> bool {
        let (device, ours) = (&self.device, self.speaks);
        if !ours.includes(version) {
            tracing::error!(device, version, %ours, "the agent chooses a version that this process does not speak");
            return false;
        }
        let mut state = self.state();
        if state.version != version {
            tracing::debug!(device, version, "another version is spoken with the agent");
            state.version = version;
            self.changed.notify_all();
        }
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn frame(&self, request: u64) -> Vec<u8> {
        ToAgent::Want {
            request,
            class: Class::Demand,
            layer: self.layer,
            chunk: self.chunk,
        }
        .encode()
    }
}

#[cfg(test)]
mod tests;
