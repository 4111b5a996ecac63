//! Device processes: for each attached image a small process that answers the kernel, so that a fault in one is one device's, and the
//! agent's death is noticed by nobody who reads what is here.
//!
//! A device process knows the image by a description that the agent wrote, reads what is present from the store's files by itself,
//! and asks the agent for the rest over a unix socket; while the agent is away it waits and asks again. It takes the kernel's
//! descriptor from the keeper, and never gives it back: when it dies, the agent starts another, which goes on.

mod content;
mod greeting;
mod link;
mod message;
mod second;
mod serve;
mod supplied;
mod supply;
mod watch;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tranship_format::Digest;

pub(crate) use message::SPEAKS;
pub use serve::{ServeError, serve};
pub(crate) use supply::Supply;
pub(crate) use watch::Watch;

/// Name of the program, beside the agent's own.
const PROGRAM: &str = "tranship-device";
/// Name of the socket on which the agent gives chunks, in the run directory.
const SOCKET: &str = "chunks.sock";
/// Names in a device's directory: the description, and the file that is locked for as long as its process lives.
const DESCRIPTION: &str = "process.json";
const LOCK: &str = "process.lock";

/// What a device process is told about its device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Description {
    pub(crate) device: String,
    /// The store's directory.
    pub(crate) store: PathBuf,
    /// The layers' blobs, the bottom one first.
    pub(crate) layers: Vec<Digest>,
    /// Name of the file in the FUSE mount.
    pub(crate) file: String,
    pub(crate) keeper: PathBuf,
    /// The keeper's program, and how many seconds it waits for an agent; an older agent does not say.
    #[serde(default)]
    pub(crate) keeper_program: Option<(PathBuf, u64)>,
    pub(crate) supply: PathBuf,
    pub(crate) block_cache_len: u64,
    pub(crate) worker_count: usize,
    pub(crate) read_ahead: u32,
    /// How long a read waits for a chunk, the agent's absence included, until the agent says otherwise.
    pub(crate) deadline: Duration,
    pub(crate) stop_grace: Duration,
}

impl Description {
    /// Writes it into the device's directory.
    pub(crate) fn save(&self, dir: &Path) -> io::Result<()> {
        std::fs::write(dir.join(DESCRIPTION), serde_json::to_vec_pretty(self)?)
    }
}

/// Whether the process of the device in `dir` lives.
pub(crate) fn is_alive(dir: &Path) -> bool {
    let lock = std::fs::File::open(dir.join(LOCK));
    lock.is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err())
}

/// Ends the process of the device in `dir` if it lives. What it had not answered, the kernel sends to the next.
pub(crate) fn kill(dir: &Path) {
    if !is_alive(dir) {
        return;
    }
    let signed = std::fs::read_to_string(dir.join(LOCK)).unwrap_or_default();
    // It lives, so the number is not another's.
    if let Some(pid) = signed.trim().parse().ok().and_then(Pid::from_raw)
        && let Err(error) = kill_process(pid, Signal::KILL)
    {
        tracing::warn!(dir = %dir.display(), %error, "a device process stays");
    }
}

/// Takes away what a device's process left in the device's directory.
pub(crate) fn forget(dir: &Path) {
    for name in [DESCRIPTION, LOCK] {
        // It may not be there.
        let _ = std::fs::remove_file(dir.join(name));
    }
}

/// Why the agent did not give a chunk; travels inside a [`std::io::Error`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum AskError {
    #[error("the chunk did not arrive in time")]
    TimedOut,
    #[error("the device is stopping")]
    Stopping,
    #[error("the agent cannot get the chunk: {reason}")]
    Refused { reason: String },
}
