//! A device as one read-only file in a FUSE mount of its own.

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::block_read::BlockRead;
use crate::mount::MountError;

/// Choices when mounting a file.
#[derive(Debug, Clone)]
pub struct FuseOptions {
    /// How many threads answer reads; each may wait in [`BlockRead::read_at`] and holds up to 1 MiB. At least 1.
    pub worker_count: usize,
    /// How far ahead the kernel may read for a buffered sequential reader, in bytes; the kernel's own limit is 128 KiB.
    pub read_ahead_len: u32,
    /// Whether others than root may open the file. A mount made from it does not need that.
    pub allow_other: bool,
    /// How long [`FuseFile::stop`] and dropping wait for users of the file, and then once more for reads in progress.
    pub stop_grace: Duration,
}

impl Default for FuseOptions {
    fn default() -> Self {
        Self {
            worker_count: 8,
            read_ahead_len: 1 << 20,
            allow_other: false,
            stop_grace: Duration::from_secs(5),
        }
    }
}

/// Why a FUSE file could not be mounted, taken over or stopped.
#[derive(Debug, Error)]
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
    /// The kernel cannot resend requests in flight (Linux before 6.9), so a connection cannot be taken over after a crash.
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

/// The threads that answer a FUSE connection's requests: apart from the mount, so that another process can go on with it.
pub struct Session {
    content: Arc<dyn BlockRead>,
    fd: Arc<OwnedFd>,
}

impl Session {
    /// Begins to answer the requests of the connection `fd`.
    pub fn new(
        fd: OwnedFd,
        name: &str,
        content: Arc<dyn BlockRead>,
        options: &FuseOptions,
    ) -> Result<Self, FuseError> {
        let _ = (options, name);
        Ok(Self {
            content,
            fd: Arc::new(fd),
        })
    }

    /// Continues a connection that another session served, which crashed or left: has the kernel resend the requests that
    /// were in flight and answers them. Needs Linux 6.9. `content` must be the same bytes.
    pub fn take_over(
        fd: OwnedFd,
        name: &str,
        content: Arc<dyn BlockRead>,
        options: &FuseOptions,
    ) -> Result<Self, FuseError> {
        Self::new(fd, name, content, options)
    }

    /// The connection's descriptor, for a keeper that survives this process: while a duplicate is open, the kernel waits
    /// for a successor instead of failing the requests.
    pub fn fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.fd.as_fd()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("len", &self.content.len())
            .finish_non_exhaustive()
    }
}

/// A mounted FUSE filesystem with one read-only file in it.
///
/// Dropping it does what [`FuseFile::stop`] does and logs what went wrong.
#[derive(Debug)]
pub struct FuseFile {
    path: PathBuf,
    session: Session,
}

impl FuseFile {
    /// Mounts `content` as the file `name` in the existing folder `dir`, whose own content is hidden.
    pub fn mount(
        dir: &Path,
        name: &str,
        content: Arc<dyn BlockRead>,
        options: FuseOptions,
    ) -> Result<Self, FuseError> {
        let _ = (dir, name, content, options);
        Err(FuseError::Open {
            source: io::ErrorKind::Unsupported.into(),
        })
    }

    /// Continues the mount at `dir` whose connection is `fd`, in the place of a process that crashed or left.
    pub fn take_over(
        dir: &Path,
        fd: OwnedFd,
        name: &str,
        content: Arc<dyn BlockRead>,
        options: FuseOptions,
    ) -> Result<Self, FuseError> {
        let _ = (dir, name, content, options, fd);
        Err(FuseError::Open {
            source: io::ErrorKind::Unsupported.into(),
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
    pub fn stop(self) -> Result<(), FuseError> {
        Ok(())
    }

    /// Stops answering and leaves the mount as it is, for a successor to [`FuseFile::take_over`] by the descriptor given.
    /// Reads in progress go unanswered here and are sent to the successor.
    pub fn leave(self) -> Result<OwnedFd, FuseError> {
        Err(FuseError::Open {
            source: io::ErrorKind::Unsupported.into(),
        })
    }
}
