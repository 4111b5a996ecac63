//! A device as one read-only file in a FUSE mount of its own: the common ground of the front ends on this machine.
//!
//! The protocol is spoken here and not by a library, because one file needs a dozen kinds of requests, and because a live
//! connection must pass from a process to its successor, which libraries do not foresee. For the same reason the connection
//! has one descriptor, without clones, splice or `io_uring`: those lose the requests in flight when the process dies.

mod abi;
mod answer;
mod channel;
mod connection;
mod mounted;
mod requests;
mod session;

use std::error::Error;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::block_read::BlockRead;
use crate::mount::{self, MountError};

use abi::READ_LEN_MAX;

pub use mounted::FuseMount;
pub use session::Session;

/// Choices when mounting a file.
#[derive(Debug, Clone, Copy)]
pub struct FuseOptions {
    /// Most threads that answer reads. They are started as reads come together, each may wait in [`BlockRead::read_at`] and
    /// keeps a buffer of up to 1 MiB. At least 1.
    pub worker_count: usize,
    /// How far ahead the kernel may read for a buffered sequential reader, in bytes; the kernel's own limit is 128 KiB.
    pub read_ahead_len: u32,
    /// Whether others than root may open the file. A mount made from it does not need that.
    pub allow_other: bool,
    /// How long [`FuseFile::stop`] and dropping wait for users of the file, and then once more for reads in progress.
    pub stop_grace: Duration,
    /// After how long without a request a thread lets go of its buffer, and has the content [rest](BlockRead::rest).
    pub idle_after: Duration,
}

impl Default for FuseOptions {
    fn default() -> Self {
        Self {
            worker_count: 32,
            read_ahead_len: 1 << 20,
            allow_other: false,
            stop_grace: Duration::from_secs(5),
            idle_after: Duration::from_secs(30),
        }
    }
}

/// Why a FUSE file could not be mounted, taken over or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FuseError {
    /// `/dev/fuse` could not be opened.
    #[error("cannot open /dev/fuse")]
    Open {
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The mount was refused, or could not be taken away.
    #[error("the FUSE mount failed")]
    Mount {
        /// Why.
        #[source]
        source: MountError,
    },
    /// The name cannot be a file's name.
    #[error("{name:?} cannot be the name of a file")]
    FileName {
        /// The name.
        name: String,
    },
    /// A thread or the descriptor that wakes it could not be made.
    #[error("cannot start serving")]
    Start {
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel cannot resend requests in flight (Linux before 6.9), and nobody noted them: a connection cannot be taken over.
    #[error("the kernel does not resend requests")]
    Resend {
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Threads still wait in [`BlockRead::read_at`], past the grace; they end when it returns.
    #[error("{count} reads are still in progress")]
    StillReading {
        /// How many.
        count: usize,
    },
}

/// What a live mount consists of: whoever has a duplicate of both goes on with it.
#[derive(Debug)]
pub struct FuseConnection {
    /// The connection's descriptor.
    pub fd: OwnedFd,
    /// The memory in which those who serve it note requests; `None` if nobody did.
    pub requests: Option<OwnedFd>,
}

/// Filesystem type under which our mounts appear in the table of mounts.
const KIND: &str = "fuse.tranship";

/// A mounted FUSE filesystem with one read-only file in it.
///
/// Dropping it does what [`FuseFile::stop`] does and logs what went wrong.
#[derive(Debug)]
pub struct FuseFile {
    path: PathBuf,
    mount: Option<MountedAt>,
    session: Session,
}

/// A mount that is to be taken away in the end.
#[derive(Debug)]
struct MountedAt {
    dir: PathBuf,
    /// Number of the connection in the kernel.
    connection: u32,
}

impl FuseFile {
    /// Mounts `content` as the file `name` in the existing folder `dir`, whose own content is hidden.
    pub fn mount(
        dir: &Path,
        name: &str,
        content: Arc<dyn BlockRead>,
        options: FuseOptions,
    ) -> Result<Self, FuseError> {
        let (dir_found, fd) = mounted::make(dir, name, options.allow_other)?;
        let mounted = Self::at(dir_found.clone(), name, options.read_ahead_len, || {
            let requests = None;
            Session::new(FuseConnection { fd, requests }, name, content, options)
        });
        if mounted.is_err() {
            // Nobody answers there, and nobody else would take it away.
            let _ = mount::unmount_by_force(&dir_found);
        }
        mounted
    }

    /// Continues the mount at `dir` whose connection is `live`, in the place of a process that crashed or left. Name and
    /// content must be the same, and `dir` absolute and free of symbolic links.
    pub fn take_over(
        dir: &Path,
        live: FuseConnection,
        name: &str,
        content: Arc<dyn BlockRead>,
        options: FuseOptions,
    ) -> Result<Self, FuseError> {
        Self::at(dir.to_owned(), name, options.read_ahead_len, || {
            Session::take_over(live, name, content, options)
        })
    }

    fn at(
        dir: PathBuf,
        name: &str,
        read_ahead_len: u32,
        begin: impl FnOnce() -> Result<Session, FuseError>,
    ) -> Result<Self, FuseError> {
        let connection = mounted::connection_at(&dir)?;
        let session = begin()?;
        if let Err(error) = connection::set_read_ahead(connection, read_ahead_len) {
            tracing::debug!(error = &error as &dyn Error, "read-ahead stays as it is");
        }
        Ok(Self {
            path: dir.join(name),
            mount: Some(MountedAt { dir, connection }),
            session,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The session that answers the mount's requests.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Takes the mount away and ends its threads. Users of the file have the grace of [`FuseOptions::stop_grace`] to go;
    /// after that their reads fail.
    pub fn stop(mut self) -> Result<(), FuseError> {
        self.take_down()
    }

    /// Stops answering and leaves the mount as it is, for a successor to [`FuseFile::take_over`] by what is given.
    /// Reads in progress have the grace to be answered here; the others are the successor's.
    pub fn leave(mut self) -> Result<FuseConnection, FuseError> {
        let live = self.session.connection();
        let live = live.map_err(|source| FuseError::Start { source })?;
        self.mount = None;
        match self.session.stop() {
            // What those threads hold is resent by the kernel or noted, so nothing is lost.
            Ok(()) | Err(FuseError::StillReading { .. }) => Ok(live),
            Err(error) => Err(error),
        }
    }

    fn take_down(&mut self) -> Result<(), FuseError> {
        let Some(MountedAt { dir, connection }) = self.mount.take() else {
            return Ok(());
        };
        let removed = mounted::remove(&dir);
        if !self.session.wait_for_end(self.session.grace())
            && let Err(error) = connection::abort(connection)
        {
            tracing::warn!(
                error = &error as &dyn Error,
                connection,
                "cannot abort a FUSE connection"
            );
        }
        self.session.stop()?;
        removed.map_err(|source| FuseError::Mount { source })
    }
}

impl Drop for FuseFile {
    fn drop(&mut self) {
        if let Err(error) = self.take_down() {
            tracing::warn!(error = &error as &dyn Error, "a FUSE file stops badly");
        }
    }
}

/// Answers the requests in `bytes` as a server of `content` would, and sees that each reply is one.
pub(crate) fn answer_all(mut bytes: &[u8], content: Arc<dyn BlockRead>) {
    let file = answer::OneFile {
        name: b"device".to_vec(),
        content,
        read_ahead_len: 0,
        for_all: false,
    };
    let mut data = Vec::new();
    while let Some(len) = abi::message_len(bytes).filter(|len| *len > 0) {
        let (message, rest) = bytes.split_at(len.min(bytes.len()));
        if let Some((unique, answer)) = file.answer(message, &mut data) {
            answer.check(unique, &data);
        }
        bytes = rest;
    }
}

fn mount_options(fd: RawFd, allow_other: bool) -> String {
    let user = rustix::process::geteuid().as_raw();
    let group = rustix::process::getegid().as_raw();
    let allow_other = if allow_other { ",allow_other" } else { "" };
    format!(
        "fd={fd},rootmode=40000,user_id={user},group_id={group},default_permissions,max_read={READ_LEN_MAX}{allow_other}"
    )
}
