//! Loop devices: block devices that the kernel makes out of a file.
//!
//! Attached in one step by `LOOP_CONFIGURE` (Linux 5.8), so that none is ever seen half set up, with direct I/O, so that the
//! pages of what is mounted on it are cached once and not again in the file below.

mod abi;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;

use thiserror::Error;

use crate::errno::{Refusal, refusal};
use crate::mount::BackingIo;

/// Where loop devices are asked for.
const CONTROL: &str = "/dev/loop-control";
/// Where the kernel lists block devices.
const BLOCK_DEVICES: &str = "/sys/block";
/// How often another may be faster to take the free device that the kernel named. Each time somebody got one, so this many
/// lost races in a row mean that something else is wrong.
const ATTEMPTS: usize = 1000;

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
    device: File,
    backing_io: BackingIo,
}

impl LoopDevice {
    /// Attaches the file `backing` read-only, with the default [`LoopOptions`].
    pub fn attach_read_only(backing: &Path) -> Result<Self, LoopError> {
        Self::attach_with(backing, LoopOptions::default())
    }

    /// Attaches the file `backing` read-only. Bytes behind its last whole sector of 512 bytes are cut off.
    pub fn attach_with(backing: &Path, options: LoopOptions) -> Result<Self, LoopError> {
        let control = open(Path::new(CONTROL))?;
        let backing_file = open(backing)?;
        let mut flags = abi::READ_ONLY;
        if options.auto_clear {
            flags |= abi::AUTO_CLEAR;
        }
        if options.direct_io {
            flags |= abi::DIRECT_IO;
        }
        let mut attempts = 0..ATTEMPTS;
        loop {
            let number =
                abi::free_number(&control).map_err(|source| LoopError::NoneFree { source })?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let attached = match open(&path) {
                Ok(device) => abi::configure(&device, &backing_file, flags).map(|()| device),
                Err(LoopError::Open { source, .. }) => Err(source),
                Err(error) => return Err(error),
            };
            let error = match attached {
                Ok(device) => return Self::of(path, device),
                Err(error) => error,
            };
            match refusal(&error) {
                Refusal::Invalid if flags & abi::DIRECT_IO != 0 => flags &= !abi::DIRECT_IO,
                // Another was faster to take the device, or to remove it.
                Refusal::Busy | Refusal::Unknown | Refusal::NoEntry
                    if attempts.next().is_some() =>
                {
                    thread::yield_now();
                }
                _ => {
                    return Err(LoopError::Attach {
                        backing: backing.to_owned(),
                        device: path,
                        source: error,
                    });
                }
            }
        }
    }

    /// The loop devices that are attached to the file whose path was `backing` when it was attached, whoever attached them:
    /// how those are found that a crash left behind. The path must be absolute and free of symbolic links.
    pub fn find(backing: &Path) -> Result<Vec<Self>, LoopError> {
        let list_error = |source| LoopError::List { source };
        let mut found = Vec::new();
        for entry in fs::read_dir(BLOCK_DEVICES).map_err(list_error)? {
            let name = entry.map_err(list_error)?.file_name();
            if !name.as_bytes().starts_with(b"loop") || !is_attached_to(&name, backing) {
                continue;
            }
            let path = Path::new("/dev").join(&name);
            // Between looking and opening it may have been detached, and attached to something else.
            if let Ok(device) = open(&path)
                && is_attached_to(&name, backing)
                && let Ok(device) = Self::of(path, device)
            {
                found.push(device);
            }
        }
        Ok(found)
    }

    /// The attached loop device that `fd` is open on: one that an earlier process left to this one.
    pub fn take_over(fd: OwnedFd) -> Result<Self, LoopError> {
        let device = File::from(fd);
        let (number, _) = abi::status(&device).map_err(|source| LoopError::Open {
            path: PathBuf::from("/dev/loop"),
            source,
        })?;
        Self::of(PathBuf::from(format!("/dev/loop{number}")), device)
    }

    fn of(path: PathBuf, device: File) -> Result<Self, LoopError> {
        let (_, flags) = match abi::status(&device) {
            Ok(status) => status,
            Err(source) => return Err(LoopError::Open { path, source }),
        };
        let backing_io = if flags & abi::DIRECT_IO == 0 {
            BackingIo::Buffered
        } else {
            BackingIo::Direct
        };
        Ok(Self {
            path,
            device,
            backing_io,
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

    /// Puts the file `backing`, which must have the same bytes, in the place of the one below, under whoever uses the
    /// device: when the content is wholly on this node, a plain file serves it without this process.
    pub fn change_backing(&self, backing: &Path) -> Result<(), LoopError> {
        let backing_file = open(backing)?;
        abi::change_backing(&self.device, &backing_file).map_err(|source| LoopError::Attach {
            backing: backing.to_owned(),
            device: self.path.clone(),
            source,
        })?;
        if self.backing_io == BackingIo::Direct {
            // A file that cannot be read past its cache ends that, and the next one does not bring it back by itself.
            let _ = abi::ask_direct_io(&self.device);
        }
        Ok(())
    }

    /// Detaches the device: at once, or when its last user is gone.
    pub fn detach(self) -> Result<(), LoopError> {
        match abi::clear(&self.device) {
            Err(error) if refusal(&error) != Refusal::Unknown => Err(LoopError::Detach {
                device: self.path,
                source: error,
            }),
            // Unknown: it was detached already.
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

impl AsFd for LoopDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

fn open(path: &Path) -> Result<File, LoopError> {
    File::open(path).map_err(|source| LoopError::Open {
        path: path.to_owned(),
        source,
    })
}

/// Whether the kernel names `backing` as the file under the loop device `name`. It ends the name with a newline.
fn is_attached_to(name: &OsStr, backing: &Path) -> bool {
    let link = Path::new(BLOCK_DEVICES)
        .join(name)
        .join("loop/backing_file");
    fs::read(link)
        .is_ok_and(|shown| shown.strip_suffix(b"\n") == Some(backing.as_os_str().as_bytes()))
}
