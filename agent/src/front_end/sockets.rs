//! Devices that the agent itself answers, without a FUSE file: sockets for virtual machines and tools, and devices of the kernel's NBD and
//! ublk drivers.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use tranship_device::{
    BlockRead, DeviceSocket, Export, KernelNbd, KernelNbdOptions, NbdOptions, NbdServer,
    VhostUserOptions, VhostUserServer,
};

use super::{FrontEndError, FrontEndOptions, Presented};
use crate::control::FrontEndName;

/// Names of the sockets, in the device's directory.
const NBD_SOCKET: &str = "nbd.sock";
const VHOST_USER_SOCKET: &str = "vhost-user.sock";

/// Takes away the sockets that an agent which died had here.
pub(crate) fn forget(dir: &Path) {
    for name in [NBD_SOCKET, VHOST_USER_SOCKET] {
        // There may be none.
        let _ = fs::remove_file(dir.join(name));
    }
}

impl Presented {
    /// Serves `content` with a front end that is not [by FUSE](FrontEndName::is_by_fuse). A device of the kernel's that an earlier agent left
    /// is gone on with, under whoever uses it, and so is a socket that was `held` since. `dir` is the device's directory, and `description` for
    /// people.
    pub(crate) fn without_fuse(
        front_end: FrontEndName,
        dir: &Path,
        description: &str,
        content: Arc<dyn BlockRead>,
        options: FrontEndOptions,
        held: Option<OwnedFd>,
    ) -> Result<Self, FrontEndError> {
        fs::create_dir_all(dir).map_err(|source| FrontEndError::Directory {
            path: dir.to_owned(),
            source,
        })?;
        match front_end {
            FrontEndName::Ublk => super::numbered::begin(dir, &content, options),
            FrontEndName::KernelNbd => kernel_nbd(dir, &content, options),
            FrontEndName::VhostUserBlk => {
                let bounds = VhostUserOptions {
                    stop_grace: options.stop_grace,
                    ..VhostUserOptions::default()
                };
                // The end of the directory's name tells devices apart.
                let name = dir.file_name().unwrap_or_default().to_string_lossy();
                let path = dir.join(VHOST_USER_SOCKET);
                let server = match taken_over(&path, held) {
                    Some(socket) => VhostUserServer::serve(socket, &name, content, bounds),
                    None => VhostUserServer::bind(&path, &name, content, bounds),
                }?;
                Ok(Self::VhostUser { server })
            }
            _ => {
                let export = Export {
                    name: "device".to_owned(),
                    description: description.chars().take(1000).collect(),
                    content,
                };
                let bounds = NbdOptions {
                    stop_grace: options.stop_grace,
                    ..NbdOptions::default()
                };
                let path = dir.join(NBD_SOCKET);
                let server = match taken_over(&path, held) {
                    Some(socket) => NbdServer::serve(socket, vec![export], bounds),
                    None => NbdServer::bind(&path, vec![export], bounds),
                }?;
                Ok(Self::Nbd { server })
            }
        }
    }
}

/// The socket that an earlier agent listened on, with the clients that wait at it.
fn taken_over(path: &Path, held: Option<OwnedFd>) -> Option<DeviceSocket> {
    match DeviceSocket::take_over(path, held?) {
        Ok(socket) => Some(socket),
        Err(error) => {
            tracing::warn!(
                path = %path.display(),
                error = &error as &dyn std::error::Error,
                "a socket that was held is not where clients look for it; there is a new one"
            );
            None
        }
    }
}

fn kernel_nbd(
    dir: &Path,
    content: &Arc<dyn BlockRead>,
    options: FrontEndOptions,
) -> Result<Presented, FrontEndError> {
    let identifier = dir.display().to_string();
    let bounds = KernelNbdOptions {
        worker_count: options.worker_count,
        patience: options.agent_patience,
        stop_grace: options.stop_grace,
    };
    if let Some(number) = KernelNbd::find(&identifier)? {
        match KernelNbd::take_over(number, &identifier, Arc::clone(content), bounds) {
            Ok(device) => return Ok(Presented::KernelNbd { device }),
            Err(error) => {
                tracing::warn!(
                    device = identifier,
                    error = &error as &dyn std::error::Error,
                    "a device of an earlier run is made anew, and its readers get errors"
                );
                tranship_device::kernel_nbd::disconnect(number)?;
            }
        }
    }
    let device = KernelNbd::attach(&identifier, Arc::clone(content), bounds)?;
    Ok(Presented::KernelNbd { device })
}
