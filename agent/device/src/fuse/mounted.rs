//! A FUSE mount apart from whoever answers its requests: made before there is anybody who does, and taken away whether or not
//! there still is.

use std::error::Error;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;

use crate::mount::{self, MountError};

use super::{FuseConnection, FuseError, FuseOptions, KIND, connection, mount_options, requests};

/// A mounted FUSE filesystem with one read-only file in it, whose requests another process answers with a
/// [`Session`](super::Session) over a duplicate of [`FuseMount::fd`].
///
/// Dropping it leaves the mount as it is.
#[derive(Debug)]
pub struct FuseMount {
    dir: PathBuf,
    path: PathBuf,
    live: FuseConnection,
    /// Number of the connection in the kernel.
    connection: u32,
}

impl FuseMount {
    /// Mounts a file called `name` in the existing folder `dir`, whose own content is hidden. Until somebody answers, whoever looks
    /// at it waits.
    pub fn make(dir: &Path, name: &str, options: FuseOptions) -> Result<Self, FuseError> {
        let file = requests::file().map_err(|source| FuseError::Start { source })?;
        let (dir, fd) = make(dir, name, options.allow_other)?;
        let live = FuseConnection {
            fd,
            requests: Some(file),
        };
        Self::take_over(&dir, live, name).inspect_err(|_| {
            // Nobody else would take it away.
            let _ = mount::unmount_by_force(&dir);
        })
    }

    /// The mount at `dir` whose connection is `live`, made by another process. `dir` is absolute and free of symbolic links.
    pub fn take_over(dir: &Path, live: FuseConnection, name: &str) -> Result<Self, FuseError> {
        let connection = connection_at(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            path: dir.join(name),
            live,
            connection,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The connection's descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.live.fd.as_fd()
    }

    /// The memory in which requests are noted, unless whoever made the mount noted none.
    pub fn requests(&self) -> Option<BorrowedFd<'_>> {
        self.live.requests.as_ref().map(AsFd::as_fd)
    }

    /// Lets the kernel read ahead that far, in bytes. Somebody must have begun to answer requests.
    pub fn set_read_ahead(&self, len: u32) {
        if let Err(error) = connection::set_read_ahead(self.connection, len) {
            tracing::debug!(error = &error as &dyn Error, "read-ahead stays as it is");
        }
    }

    /// Takes the mount away. Users of the file have `grace` to go; after that their reads fail. Whoever answers requests sees the
    /// connection's end.
    pub fn stop(self, grace: Duration) -> Result<(), FuseError> {
        let removed = remove(&self.dir);
        if !self.has_ended(grace)
            && let Err(error) = connection::abort(self.connection)
        {
            tracing::warn!(
                error = &error as &dyn Error,
                "cannot abort a FUSE connection"
            );
        }
        removed.map_err(|source| FuseError::Mount { source })
    }

    /// Waits until the kernel has ended the connection; whether that was so in time.
    fn has_ended(&self, patience: Duration) -> bool {
        let begun = Instant::now();
        loop {
            let left = patience.saturating_sub(begun.elapsed());
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut waits = [PollFd::new(&self.live.fd, PollFlags::empty())];
            let polled = poll(&mut waits, Some(&timeout));
            let [wait] = &waits;
            if wait.revents().intersects(PollFlags::ERR | PollFlags::HUP) {
                return true;
            }
            if left.is_zero() || polled.is_err_and(|errno| errno != rustix::io::Errno::INTR) {
                return false;
            }
        }
    }
}

/// Mounts a connection that nobody answers yet; the folder as the kernel knows it, and the connection.
pub(super) fn make(
    dir: &Path,
    name: &str,
    allow_other: bool,
) -> Result<(PathBuf, OwnedFd), FuseError> {
    let mount_error = |source| FuseError::Mount {
        source: MountError::Mount {
            kind: KIND,
            what: PathBuf::from(name),
            target: dir.to_owned(),
            source,
        },
    };
    let dir_found = dir.canonicalize().map_err(mount_error)?;
    let fd = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(
        |error| FuseError::Open {
            source: error.into(),
        },
    )?;
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
    let words = mount_options(fd.as_raw_fd(), allow_other);
    mount::mount(
        Path::new("tranship"),
        &dir_found,
        KIND,
        flags,
        words.as_bytes(),
    )
    .map_err(mount_error)?;
    Ok((dir_found, fd))
}

/// The number of the connection that is mounted at `dir`. The folder itself is not looked at: that would ask a server that may not
/// be there.
pub(super) fn connection_at(dir: &Path) -> Result<u32, FuseError> {
    let entry = mount::entry_at(dir).map_err(|source| FuseError::Mount { source })?;
    match entry.filter(|entry| entry.kind == KIND) {
        Some(entry) => Ok(entry.device.1),
        None => Err(FuseError::Mount {
            source: MountError::NotMounted {
                target: dir.to_owned(),
            },
        }),
    }
}

/// Takes the mount out of sight, at once or as soon as its users are gone.
pub(super) fn remove(dir: &Path) -> Result<(), MountError> {
    let removed = match mount::unmount_now(dir) {
        // Out of sight, so that no new users come while the present ones may finish.
        Err(MountError::Busy { .. }) => mount::unmount_lazily(dir),
        removed => removed,
    };
    match removed {
        Err(MountError::NotMounted { .. }) => Ok(()),
        removed => removed,
    }
}
