//! Loop devices: block devices that the kernel makes out of a file.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::mount::BackingIo;

/// Choices when attaching a loop device.
#[derive(Debug, Clone, Copy)]
pub struct LoopOptions {
    /// Detach when the last user is gone, this process included. Without it, the device outlives a crash.
    pub auto_clear: bool,
    /// Ask for reads past the page cache of the file below.
    pub direct_io: bool,
}

impl Default for LoopOptions {
    fn default() -> Self {
        Self {
            auto_clear: true,
            direct_io: true,
        }
    }
}

/// Why a loop device could not be attached or detached.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoopError {
    /// A file or device could not be opened.
    #[error("cannot open {path}")]
    Open {
        /// What was to be opened.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel has no free loop device to give.
    #[error("no free loop device")]
    NoneFree {
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused to attach the file.
    #[error("cannot attach {backing} to {device}")]
    Attach {
        /// File that was to be attached.
        backing: PathBuf,
        /// The device.
        device: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused to detach the device.
    #[error("cannot detach {device}")]
    Detach {
        /// The device.
        device: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The list of block devices could not be read.
    #[error("cannot list loop devices")]
    List {
        /// What went wrong.
        #[source]
        source: io::Error,
    },
}

/// An attached read-only loop device.
///
/// Dropping it closes this process's descriptor, which detaches it as soon as it is not used if it was attached with
/// `auto_clear`, and leaves it attached otherwise.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    backing_io: BackingIo,
}

impl LoopDevice {
    /// Attaches the file `backing` read-only, with the default [`LoopOptions`].
    pub fn attach_read_only(backing: &Path) -> Result<Self, LoopError> {
        Self::attach_with(backing, LoopOptions::default())
    }

    /// Attaches the file `backing` read-only.
    pub fn attach_with(backing: &Path, options: LoopOptions) -> Result<Self, LoopError> {
        let _ = (backing, options);
        Err(LoopError::NoneFree {
            source: io::ErrorKind::Unsupported.into(),
        })
    }

    /// The loop devices that are attached to the file whose path was `backing` when it was attached, whoever attached them:
    /// how those are found that a crash left behind.
    pub fn find(backing: &Path) -> Result<Vec<Self>, LoopError> {
        let _ = backing;
        Err(LoopError::NoneFree {
            source: io::ErrorKind::Unsupported.into(),
        })
    }

    /// The block device: `/dev/loopN`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether reads go past the page cache of the file below.
    pub fn backing_io(&self) -> BackingIo {
        self.backing_io
    }

    /// Detaches the device: at once, or when its last user is gone.
    pub fn detach(self) -> Result<(), LoopError> {
        Err(LoopError::NoneFree {
            source: io::ErrorKind::Unsupported.into(),
        })
    }
}
