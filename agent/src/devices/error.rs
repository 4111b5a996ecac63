//! Why a device or mount was not made or taken away, with what to do about it.

use std::io;
use std::path::PathBuf;

use tranship_device::MountError;

use crate::front_end::FrontEndError;
use crate::image::OpenImageError;

/// Why a device or mount was not made or taken away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The image does not open.
    #[error(transparent)]
    Image(#[from] OpenImageError),
    /// The front end.
    #[error(transparent)]
    FrontEnd(#[from] FrontEndError),
    /// There is no such device.
    #[error("there is no device {id:?}")]
    NoSuchDevice {
        /// What was asked for.
        id: String,
    },
    /// Nothing of ours is mounted there.
    #[error("the agent has mounted nothing at {}", .target.display())]
    NoSuchMount {
        /// What was asked for.
        target: PathBuf,
    },
    /// The device cannot go while it is mounted.
    #[error("device {id} is mounted at {}", .target.display())]
    Mounted {
        /// The device.
        id: String,
        /// One of its mounts.
        target: PathBuf,
    },
    /// Another mount of ours is there already.
    #[error("device {id} is mounted at {} already", .target.display())]
    TargetTaken {
        /// The device that is mounted there.
        id: String,
        /// Where.
        target: PathBuf,
    },
    /// A mount point must be an absolute path.
    #[error("{} is not an absolute path", .target.display())]
    RelativeTarget {
        /// What was asked for.
        target: PathBuf,
    },
    /// The filesystem is not one that is mounted here.
    #[error("the device holds {fs_name}, and the agent mounts erofs and ext4 only")]
    Filesystem {
        /// What the layers' annotations say.
        fs_name: String,
    },
    /// Somebody uses the mount.
    #[error("the mount cannot be taken away")]
    Unmount(#[source] MountError),
    /// The device has not come back yet after a restart.
    #[error("device {id} is not back yet after a restart of the agent")]
    Recovering {
        /// The device.
        id: String,
    },
    /// What should be could not be written down.
    #[error("the state of device {id} could not be written down")]
    Record {
        /// The device.
        id: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The daemon is stopping.
    #[error("the agent is stopping")]
    Stopping,
}

impl DeviceError {
    /// What to do about it; empty when there is nothing to say.
    pub fn hint(&self) -> String {
        match self {
            Self::Image(error) => error.hint().to_owned(),
            Self::FrontEnd(FrontEndError::Obstacle { .. }) => {
                "ask for another front end, or for auto to have one chosen".to_owned()
            }
            Self::FrontEnd(FrontEndError::NoBlockDevice { .. }) => {
                "attach it with fuse-loop, which makes a block device, or with auto".to_owned()
            }
            Self::FrontEnd(FrontEndError::NotMountable { .. }) => {
                "attach it with fuse-loop or erofs-file to mount it; sockets are for virtual machines and copies".to_owned()
            }
            Self::FrontEnd(_) => "does the agent run as root, and are /dev/fuse and /dev/loop-control there?".to_owned(),
            Self::NoSuchDevice { .. } | Self::NoSuchMount { .. } => "tranship devices lists what there is".to_owned(),
            Self::Mounted { target, .. } => format!("unmount it first: tranship umount {}", target.display()),
            Self::TargetTaken { target, .. } => {
                format!("choose another place, or unmount that first: tranship umount {}", target.display())
            }
            Self::RelativeTarget { .. } => "give the path from the root".to_owned(),
            Self::Filesystem { fs_name } => {
                format!("attach it with fuse-loop and mount the block device: mount -t {fs_name} -o ro DEVICE DIRECTORY")
            }
            Self::Unmount(MountError::Busy { .. }) => "end what uses it; fuser -m tells who that is. If its reads hang: tranship detach --force".to_owned(),
            Self::Unmount(_) | Self::Record { .. } | Self::Stopping => String::new(),
            Self::Recovering { .. } => "the agent keeps trying; its log says what is in the way".to_owned(),
        }
    }

    /// Whose fault it is, as an HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::Image(error) => error.status(),
            Self::FrontEnd(
                FrontEndError::Obstacle { .. }
                | FrontEndError::NoBlockDevice { .. }
                | FrontEndError::NotMountable { .. },
            )
            | Self::Filesystem { .. } => 422,
            Self::FrontEnd(_) | Self::Record { .. } => 500,
            Self::NoSuchDevice { .. } | Self::NoSuchMount { .. } => 404,
            Self::Mounted { .. } | Self::TargetTaken { .. } | Self::Unmount(_) => 409,
            Self::RelativeTarget { .. } => 400,
            Self::Recovering { .. } | Self::Stopping => 503,
        }
    }
}
