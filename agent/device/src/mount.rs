//! Mounts: EROFS from a file or a block device, ext4 from a block device, overlays on them, and taking them away again.
//!
//! Everything goes through mount(2) directly. The mount(8) of util-linux and of busybox silently puts a loop device under
//! a regular file, which is the very layer that a file-backed mount is there to avoid.

mod mountinfo;
mod overlay;

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags};
use thiserror::Error;

use crate::errno::{Refusal, refusal};

pub use mountinfo::{MountEntry, entries, entry_at, is_mounted};
pub use overlay::{Overlay, overlay};

/// How long to leave a busy mount alone between attempts to take it away: 511 ms in all.
const BUSY_PAUSES: [Duration; 9] = [
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(4),
    Duration::from_millis(8),
    Duration::from_millis(16),
    Duration::from_millis(32),
    Duration::from_millis(64),
    Duration::from_millis(128),
    Duration::from_millis(256),
];

/// Whether what lies on top caches pages (`Direct`) or pages are cached there and below, twice (`Buffered`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackingIo {
    /// Reads go past the page cache of the file below.
    Direct,
    /// Reads go through the page cache of the file below.
    Buffered,
}

/// Why a mount could not be made or taken away.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MountError {
    /// The kernel refused the mount.
    #[error("cannot mount {what} as {kind} at {target}")]
    Mount {
        /// Filesystem type.
        kind: &'static str,
        /// File, device or folders to be mounted.
        what: PathBuf,
        /// Where it was to appear.
        target: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused to take the mount away.
    #[error("cannot unmount {target}")]
    Unmount {
        /// Where the mount is.
        target: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Somebody uses the mount.
    #[error("{target} is in use")]
    Busy {
        /// Where the mount is.
        target: PathBuf,
    },
    /// Nothing is mounted there.
    #[error("nothing is mounted at {target}")]
    NotMounted {
        /// Where a mount was expected.
        target: PathBuf,
    },
    /// The table of mounts could not be read.
    #[error("cannot read the table of mounts")]
    MountInfo {
        /// What went wrong.
        #[source]
        source: io::Error,
    },
}

/// How to take a mount away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unmount {
    Orderly,
    Lazy,
    Forced,
}

/// Mounts the EROFS image in the regular file `image` read-only at the existing folder `target`, without a block device.
///
/// Needs Linux 6.12. Asks for direct I/O, so that pages are cached once, and goes without where the kernel refuses that.
pub fn erofs_file(image: &Path, target: &Path) -> Result<BackingIo, MountError> {
    match erofs(image, target, Some("directio")) {
        Err(error) if refusal(&error) == Refusal::Invalid => erofs(image, target, None)
            .map(|()| BackingIo::Buffered)
            .map_err(|source| erofs_error(image, target, source)),
        Err(source) => Err(erofs_error(image, target, source)),
        Ok(()) => Ok(BackingIo::Direct),
    }
}

/// Mounts the EROFS filesystem on the block device `device` read-only at the existing folder `target`.
pub fn erofs_device(device: &Path, target: &Path) -> Result<(), MountError> {
    erofs(device, target, None).map_err(|source| erofs_error(device, target, source))
}

/// Mounts the ext4 filesystem on the block device `device` read-only at the existing folder `target`.
///
/// Its journal, if it has one, is left alone: replaying it would want to write.
pub fn ext4_device(device: &Path, target: &Path) -> Result<(), MountError> {
    let flags = MountFlags::RDONLY | MountFlags::NODEV;
    mount(device, target, "ext4", flags, b"noload")
        .map_err(|source| mount_error("ext4", device, target, source))
}

/// Takes the uppermost mount at `target` away; [`MountError::Busy`] if somebody uses it, and still does half a second later.
///
/// Half a second, because users come that nobody asked for: a process that this one starts holds a copy of each of its
/// descriptors until it becomes another program, and the kernel tells nobody when a mount is no longer busy.
pub fn unmount(target: &Path) -> Result<(), MountError> {
    for pause in BUSY_PAUSES {
        match unmount_now(target) {
            Err(MountError::Busy { .. }) => thread::sleep(pause),
            outcome => return outcome,
        }
    }
    unmount_now(target)
}

/// Takes the uppermost mount at `target` away unless somebody uses it at this moment.
pub(crate) fn unmount_now(target: &Path) -> Result<(), MountError> {
    take_away(target, Unmount::Orderly)
}

/// Takes the uppermost mount at `target` out of sight at once; it ends when its last user is gone.
pub fn unmount_lazily(target: &Path) -> Result<(), MountError> {
    take_away(target, Unmount::Lazy)
}

/// Like [`unmount_lazily`], and makes a FUSE mount give up on its requests, so that its users get errors and go.
pub fn unmount_by_force(target: &Path) -> Result<(), MountError> {
    take_away(target, Unmount::Forced)
}

fn erofs(image: &Path, target: &Path, options: Option<&str>) -> io::Result<()> {
    let flags = MountFlags::RDONLY | MountFlags::NODEV;
    mount(
        image,
        target,
        "erofs",
        flags,
        options.unwrap_or_default().as_bytes(),
    )
}

/// mount(2) with its options as bytes.
pub(crate) fn mount(
    what: &Path,
    target: &Path,
    kind: &str,
    flags: MountFlags,
    options: &[u8],
) -> io::Result<()> {
    let options = CString::new(options)?;
    rustix::mount::mount(what, target, kind, flags, options.as_c_str())?;
    Ok(())
}

fn erofs_error(image: &Path, target: &Path, source: io::Error) -> MountError {
    mount_error("erofs", image, target, source)
}

fn mount_error(kind: &'static str, what: &Path, target: &Path, source: io::Error) -> MountError {
    MountError::Mount {
        kind,
        what: what.to_owned(),
        target: target.to_owned(),
        source,
    }
}

fn take_away(target: &Path, how: Unmount) -> Result<(), MountError> {
    let flags = UnmountFlags::NOFOLLOW
        | match how {
            Unmount::Orderly => UnmountFlags::empty(),
            Unmount::Lazy => UnmountFlags::DETACH,
            Unmount::Forced => UnmountFlags::DETACH | UnmountFlags::FORCE,
        };
    let Err(error) = rustix::mount::unmount(target.as_os_str().as_bytes(), flags) else {
        return Ok(());
    };
    let source = io::Error::from(error);
    let target = target.to_owned();
    Err(match refusal(&source) {
        Refusal::Busy => MountError::Busy { target },
        Refusal::Invalid | Refusal::NoEntry => MountError::NotMounted { target },
        _ => MountError::Unmount { target, source },
    })
}
