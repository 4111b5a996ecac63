//! The agent's eye on a device process: there is one as long as there should be.
//!
//! A process has a file locked for as long as it lives, which it is handed with the lock on: nobody else can get the lock before it is
//! dead, and two never serve one device. Whose child it is does not matter, so a new agent watches the processes of the last one.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use tranship_device::apart::Place;

use super::{DESCRIPTION, LOCK, PROGRAM};

/// One that lived shorter than that is not replaced at once.
const SHORT_LIFE: Duration = Duration::from_secs(1);
/// Pauses before the next: readers wait, and one start in two seconds costs a node nothing.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The watching thread does little.
const STACK_LEN: usize = 128 << 10;

/// Sees to it that a device has a process, until it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    is_over: Arc<AtomicBool>,
}

impl Watch {
    /// Starts a process for the device in `dir` as soon as there is none; `is_fresh` when nobody has served the device yet.
    pub(crate) fn begin(dir: &Path, is_fresh: bool) -> io::Result<Self> {
        let is_over = Arc::<AtomicBool>::default();
        let watcher = Watcher {
            dir: dir.to_owned(),
            program: std::env::current_exe()?.with_file_name(PROGRAM),
            is_over: Arc::clone(&is_over),
        };
        thread::Builder::new()
            .name("device-watch".to_owned())
            .stack_size(STACK_LEN)
            .spawn(move || watcher.watch(is_fresh))?;
        Ok(Self { is_over })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
    }
}

struct Watcher {
    dir: PathBuf,
    program: PathBuf,
    is_over: Arc<AtomicBool>,
}

impl Watcher {
    fn watch(&self, mut is_fresh: bool) {
        let mut pause = FIRST_PAUSE;
        let mut place = Place::here();
        let mut last: Option<(Child, Instant)> = None;
        loop {
            let mut open = File::options();
            open.write(true).create(true).truncate(false);
            let locked = open.open(self.dir.join(LOCK)).and_then(|file| {
                flock(&file, FlockOperation::LockExclusive)?;
                Ok(file)
            });
            if self.is_over.load(Ordering::Acquire) {
                return;
            }
            let ended = last.take().map(|(mut child, started)| {
                // It has let go of the lock, so it is dead, and nobody has to wait.
                (child.wait(), started.elapsed())
            });
            match ended {
                Some((status, lived)) if lived < SHORT_LIFE => {
                    thread::sleep(pause);
                    pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
                    // A place that does not take it says so with a code. What somebody has killed was in its place.
                    if status.is_ok_and(|status| status.code().is_some_and(|code| code != 0)) {
                        place = place.other();
                    }
                }
                _ => {
                    pause = FIRST_PAUSE;
                    // What did not take it once may do so now.
                    place = Place::here();
                }
            }
            let started = locked.and_then(|lock| self.start(place, lock, is_fresh));
            match started {
                Ok(child) => {
                    if !is_fresh {
                        tracing::warn!(dir = %self.dir.display(), process = child.id(), "a device process was gone; there is a new one");
                    }
                    is_fresh = false;
                    last = Some((child, Instant::now()));
                }
                Err(error) => {
                    tracing::error!(dir = %self.dir.display(), %error, "a device process does not start");
                    place = place.other();
                    thread::sleep(pause);
                    pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    fn start(&self, place: Place, lock: File, is_fresh: bool) -> io::Result<Child> {
        place
            .command(&self.program)
            .arg(if is_fresh { "begin" } else { "go-on" })
            .arg(self.dir.join(DESCRIPTION))
            .stdin(Stdio::from(lock))
            .spawn()
    }
}
