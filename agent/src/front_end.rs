//! A device as the kernel or a virtual machine sees it, made and unmade by one of the front ends.
//!
//! Everything here blocks on the kernel and runs on threads that may.

mod served;

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tranship_device::front_end::Probed;
use tranship_device::{
    FrontEnd, FuseConnection, FuseError, FuseOptions, KernelNbd, KernelNbdError, LoopDevice,
    LoopError, MountError, NbdError, NbdServer, Speaks, Ublk, UblkError, VhostUserError,
    VhostUserServer, front_end, mount,
};

use crate::control::{FrontEndChoice, FrontEndName};

pub(crate) use served::{Processes, Served, Server};

mod graduated;
pub(crate) mod numbered;
pub(crate) mod sockets;

/// Name of the one file in a device's FUSE mount.
pub(crate) const FILE: &str = "device";
/// Where that is mounted, in the device's directory.
const FUSE_DIR: &str = "fuse";

/// Why a front end did not do as it was told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrontEndError {
    /// This machine cannot do it.
    #[error("the front end {front_end} does not work on this machine: {obstacle}")]
    Obstacle {
        /// The front end.
        front_end: FrontEndName,
        /// Why not.
        obstacle: String,
    },
    /// A directory could not be made.
    #[error("cannot make {}", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The FUSE file.
    #[error("the FUSE file does not work")]
    Fuse(#[from] FuseError),
    /// The loop device.
    #[error("the loop device does not work")]
    Loop(#[from] LoopError),
    /// The NBD server.
    #[error("the NBD server does not work")]
    Nbd(#[from] NbdError),
    /// The device of the kernel's ublk driver.
    #[error("the ublk device does not work")]
    Ublk(#[from] UblkError),
    /// The device of the kernel's NBD driver.
    #[error("the kernel's NBD device does not work")]
    KernelNbd(#[from] KernelNbdError),
    /// The vhost-user-blk server.
    #[error("the vhost-user-blk server does not work")]
    VhostUser(#[from] VhostUserError),
    /// A mount.
    #[error("the mount does not work")]
    Mount(#[from] MountError),
    /// The process of a device does not start.
    #[error("the process of the device does not start")]
    Process {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It started and does not answer.
    #[error("the process of the device does not answer the kernel within {patience:?}")]
    NoProcess {
        /// How long was waited.
        patience: Duration,
    },
    /// It has no version in common with this agent.
    #[error(
        "the program of device processes speaks {theirs} and this agent {ours}: install all programs of one release and restart the agent"
    )]
    OtherProcess {
        /// The agent's.
        ours: Speaks,
        /// The program's.
        theirs: Speaks,
    },
    /// Only EROFS is mounted from a file.
    #[error("the front end erofs-file shows EROFS only, and this image holds {filesystem}")]
    NoBlockDevice {
        /// What it holds.
        filesystem: String,
    },
    /// Sockets are not mounted here.
    #[error("a device with the front end {front_end} cannot be mounted by the agent")]
    NotMountable {
        /// The front end.
        front_end: FrontEndName,
    },
}

/// A filesystem that is mounted here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filesystem {
    /// What images of our own have.
    Erofs,
    /// What images of overlaybd's converters have.
    Ext4,
}

impl Filesystem {
    /// The one with this name in a layer's annotations.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "erofs" => Some(Self::Erofs),
            "ext4" => Some(Self::Ext4),
            _ => None,
        }
    }
}

/// Bounds of front ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrontEndOptions {
    pub(crate) worker_count: usize,
    pub(crate) stop_grace: Duration,
    /// How long readers wait for the next agent.
    pub(crate) agent_patience: Duration,
}

impl FrontEndOptions {
    fn fuse(self) -> FuseOptions {
        FuseOptions {
            worker_count: self.worker_count,
            stop_grace: self.stop_grace,
            ..FuseOptions::default()
        }
    }
}

/// Names of the descriptors that a device consists of.
pub(crate) const FUSE_PART: &str = "fuse";
/// The memory in which requests to the FUSE file are noted.
pub(crate) const REQUESTS_PART: &str = "requests";
pub(crate) const LOOP_PART: &str = "loop";
/// The socket on which clients find a device.
pub(crate) const SOCKET_PART: &str = "socket";
/// What goes with the FUSE file.
pub(crate) const FUSE_PARTS: [&str; 2] = [FUSE_PART, REQUESTS_PART];

/// What an earlier process left of a device that is used on.
#[derive(Debug)]
pub(crate) struct Left {
    /// The FUSE connection.
    pub(crate) fuse: FuseConnection,
    /// The loop device, if the front end has one and it had come so far.
    pub(crate) device: Option<OwnedFd>,
}

/// A device as it is seen.
#[derive(Debug)]
pub(crate) enum Presented {
    FuseLoop {
        fuse: Served,
        device: LoopDevice,
    },
    /// A fuse-loop device under which a plain file of this node has taken the place of the FUSE file.
    Graduated {
        device: LoopDevice,
    },
    ErofsFile {
        fuse: Served,
    },
    Ublk {
        device: Ublk,
    },
    KernelNbd {
        device: KernelNbd,
    },
    Nbd {
        server: NbdServer,
    },
    VhostUser {
        server: VhostUserServer,
    },
}

/// Tries all front ends on this machine, in `scratch`.
pub(crate) fn probe(scratch: &Path) -> Result<Vec<Probed>, FrontEndError> {
    fs::create_dir_all(scratch).map_err(|source| FrontEndError::Directory {
        path: scratch.to_path_buf(),
        source,
    })?;
    Ok(front_end::probe(scratch))
}

/// Finds the front end for a wish: the first that works here and can show an image with the filesystem `fs_name`, or the
/// one named if it does.
pub(crate) fn choose(
    choice: FrontEndChoice,
    fs_name: &str,
    probed: &[Probed],
) -> Result<FrontEndName, FrontEndError> {
    let from_file = Filesystem::named(fs_name) == Some(Filesystem::Erofs);
    if choice == FrontEndChoice::ErofsFile && !from_file {
        return Err(FrontEndError::NoBlockDevice {
            filesystem: fs_name.to_owned(),
        });
    }
    let wanted = match choice {
        FrontEndChoice::Auto => None,
        FrontEndChoice::FuseLoop => Some(FrontEnd::FuseLoop),
        FrontEndChoice::ErofsFile => Some(FrontEnd::ErofsFile),
        FrontEndChoice::Ublk => Some(FrontEnd::Ublk),
        FrontEndChoice::KernelNbd => Some(FrontEnd::KernelNbd),
        FrontEndChoice::Nbd => Some(FrontEnd::Nbd),
        FrontEndChoice::VhostUserBlk => Some(FrontEnd::VhostUserBlk),
    };
    let mut refused = None;
    for probed in probed {
        let is_wanted = wanted.is_none_or(|wanted| wanted == probed.front_end);
        if !is_wanted || (probed.front_end == FrontEnd::ErofsFile && !from_file) {
            continue;
        }
        match &probed.obstacle {
            None => return Ok(name(probed.front_end)),
            Some(obstacle) => {
                refused.get_or_insert((name(probed.front_end), obstacle.clone()));
            }
        }
    }
    let (front_end, obstacle) =
        refused.unwrap_or((FrontEndName::FuseLoop, "it is not known here".to_owned()));
    Err(FrontEndError::Obstacle {
        front_end,
        obstacle,
    })
}

fn name(front_end: FrontEnd) -> FrontEndName {
    match front_end {
        FrontEnd::ErofsFile => FrontEndName::ErofsFile,
        FrontEnd::FuseLoop => FrontEndName::FuseLoop,
        FrontEnd::Ublk => FrontEndName::Ublk,
        FrontEnd::KernelNbd => FrontEndName::KernelNbd,
        FrontEnd::Nbd => FrontEndName::Nbd,
        FrontEnd::VhostUserBlk => FrontEndName::VhostUserBlk,
    }
}

impl Presented {
    /// Makes a device whose reads `server` answers; what it needs lies in `dir`, which is its own.
    pub(crate) fn new(
        front_end: FrontEndName,
        dir: &Path,
        server: Server,
        options: FrontEndOptions,
    ) -> Result<Self, FrontEndError> {
        let fuse_dir = fuse_dir(dir);
        fs::create_dir_all(&fuse_dir).map_err(|source| FrontEndError::Directory {
            path: fuse_dir.clone(),
            source,
        })?;
        let fuse = server.begin(dir, &fuse_dir, options)?;
        Ok(match front_end {
            FrontEndName::FuseLoop => {
                let device = LoopDevice::attach_read_only(fuse.path())?;
                Self::FuseLoop { fuse, device }
            }
            _ => Self::ErofsFile { fuse },
        })
    }

    /// Goes on with a device that an earlier process left, under whoever uses it.
    pub(crate) fn take_over(
        front_end: FrontEndName,
        dir: &Path,
        server: Server,
        options: FrontEndOptions,
        left: Left,
    ) -> Result<Self, FrontEndError> {
        let fuse = server.take_over(dir, &fuse_dir(dir), left.fuse, options)?;
        Ok(match (front_end, left.device) {
            (FrontEndName::FuseLoop, Some(device)) => Self::FuseLoop {
                fuse,
                device: LoopDevice::take_over(device)?,
            },
            (FrontEndName::FuseLoop, None) => {
                let device = LoopDevice::attach_read_only(fuse.path())?;
                Self::FuseLoop { fuse, device }
            }
            (_, _) => Self::ErofsFile { fuse },
        })
    }

    /// What must stay open for the device to outlive this process, each with its name.
    pub(crate) fn descriptors(&self) -> Vec<(&'static str, BorrowedFd<'_>)> {
        match self {
            Self::FuseLoop { fuse, device } => {
                let mut parts = fuse.parts();
                parts.push((LOOP_PART, device.as_fd()));
                parts
            }
            Self::Graduated { device } => vec![(LOOP_PART, device.as_fd())],
            Self::ErofsFile { fuse } => fuse.parts(),
            Self::Nbd { server } => vec![(SOCKET_PART, server.socket())],
            Self::VhostUser { server } => vec![(SOCKET_PART, server.socket())],
            Self::Ublk { .. } | Self::KernelNbd { .. } => Vec::new(),
        }
    }

    /// The block device, the FUSE file or the socket.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::FuseLoop { device, .. } | Self::Graduated { device } => device.path(),
            Self::ErofsFile { fuse } => fuse.path(),
            Self::Ublk { device } => device.path(),
            Self::KernelNbd { device } => device.path(),
            Self::Nbd { server } => server.path(),
            Self::VhostUser { server } => server.path(),
        }
    }

    /// The same for NBD clients.
    pub(crate) fn nbd_uri(&self) -> Option<String> {
        match self {
            Self::Nbd { server } => Some(server.uri("")),
            _ => None,
        }
    }

    /// Mounts the device's filesystem at an existing directory, read-only.
    pub(crate) fn mount(&self, filesystem: Filesystem, target: &Path) -> Result<(), FrontEndError> {
        match (self, filesystem) {
            (Self::ErofsFile { fuse }, Filesystem::Erofs) => {
                mount::erofs_file(fuse.path(), target)?;
            }
            (Self::ErofsFile { .. }, Filesystem::Ext4) => {
                return Err(FrontEndError::NoBlockDevice {
                    filesystem: "ext4".to_owned(),
                });
            }
            (Self::Nbd { .. }, _) => return Err(NOT_NBD),
            (Self::VhostUser { .. }, _) => return Err(NOT_VHOST_USER),
            (block_device, Filesystem::Erofs) => mount::erofs_device(block_device.path(), target)?,
            (block_device, Filesystem::Ext4) => mount::ext4_device(block_device.path(), target)?,
        }
        Ok(())
    }

    /// Takes the device away.
    pub(crate) fn stop(self) -> Result<(), FrontEndError> {
        match self {
            Self::FuseLoop { fuse, device } => {
                let detached = device.detach();
                fuse.stop()?;
                detached?;
            }
            Self::Graduated { device } => device.detach()?,
            Self::ErofsFile { fuse } => fuse.stop()?,
            Self::Ublk { device } => device.detach()?,
            Self::KernelNbd { device } => device.detach()?,
            Self::Nbd { server } => server.stop()?,
            Self::VhostUser { server } => server.stop()?,
        }
        Ok(())
    }

    /// From now on a read that cannot be served is left to the successor, and the others are answered as ever.
    pub(crate) fn retire(&self) {
        match self {
            Self::FuseLoop { fuse, .. } | Self::ErofsFile { fuse } => fuse.retire(),
            // A plain file's reads do not fail; kernel and virtual machines are left what fails because the device stops.
            _ => {}
        }
    }

    /// Ends this process's part and leaves the kernel's as it is, for the next start to take over or clear away.
    pub(crate) fn leave(self) -> Result<(), FrontEndError> {
        match self {
            Self::FuseLoop { fuse, device } => {
                fuse.leave()?;
                drop(device);
            }
            Self::Graduated { device } => drop(device),
            Self::ErofsFile { fuse } => fuse.leave()?,
            Self::Ublk { device } => device.leave()?,
            Self::KernelNbd { device } => device.leave()?,
            Self::Nbd { server } => server.leave()?,
            Self::VhostUser { server } => server.leave()?,
        }
        Ok(())
    }
}

/// What is said of sockets that somebody wants to mount.
const NOT_NBD: FrontEndError = FrontEndError::NotMountable {
    front_end: FrontEndName::Nbd,
};
const NOT_VHOST_USER: FrontEndError = FrontEndError::NotMountable {
    front_end: FrontEndName::VhostUserBlk,
};

fn fuse_dir(dir: &Path) -> PathBuf {
    dir.join(FUSE_DIR)
}

/// The file under a device's loop device, in the device's directory.
pub(crate) fn backing_file(dir: &Path) -> PathBuf {
    fuse_dir(dir).join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probed(front_end: FrontEnd, obstacle: Option<&str>) -> Probed {
        Probed {
            front_end,
            obstacle: obstacle.map(str::to_owned),
        }
    }

    #[test]
    fn first_front_end_that_works_is_taken_unless_one_is_named() {
        let machine = [
            probed(FrontEnd::ErofsFile, Some("an old kernel")),
            probed(FrontEnd::FuseLoop, None),
            probed(FrontEnd::Nbd, None),
        ];
        assert_eq!(
            choose(FrontEndChoice::Auto, "erofs", &machine).unwrap(),
            FrontEndName::FuseLoop
        );
        assert_eq!(
            choose(FrontEndChoice::Nbd, "erofs", &machine).unwrap(),
            FrontEndName::Nbd
        );
        let error = choose(FrontEndChoice::ErofsFile, "erofs", &machine).unwrap_err();
        assert!(error.to_string().contains("an old kernel"), "{error}");
    }

    #[test]
    fn what_is_not_erofs_gets_a_block_device() {
        let machine = [
            probed(FrontEnd::ErofsFile, None),
            probed(FrontEnd::FuseLoop, None),
            probed(FrontEnd::Nbd, None),
        ];
        assert_eq!(
            choose(FrontEndChoice::Auto, "erofs", &machine).unwrap(),
            FrontEndName::ErofsFile
        );
        for fs_name in ["ext4", "xfs", ""] {
            assert_eq!(
                choose(FrontEndChoice::Auto, fs_name, &machine).unwrap(),
                FrontEndName::FuseLoop
            );
            let refused = choose(FrontEndChoice::ErofsFile, fs_name, &machine);
            assert!(matches!(refused, Err(FrontEndError::NoBlockDevice { .. })));
        }
        let error = choose(FrontEndChoice::Auto, "ext4", &machine[..1]).unwrap_err();
        assert!(error.to_string().contains("fuse-loop"), "{error}");
    }
}
