//! A fuse-loop device that moves between its FUSE file and a plain file with the same bytes, under whoever reads it.
//!
//! `LOOP_CHANGE_FD` waits for the reads that are under way and begins the next ones on the other file: a mounted filesystem and its
//! readers stay as they are. Which of the two files a device is on stands in the kernel, and is read there after a crash.

use std::fs;
use std::os::fd::BorrowedFd;
use std::path::Path;

use tranship_device::{LoopDevice, mount};

use super::{FUSE_DIR, FrontEndError, FrontEndOptions, Presented, Served, Server};

impl Presented {
    /// Puts the file `plain` in the place of the FUSE file of a fuse-loop device. The FUSE file comes back too, for the caller to
    /// [stop](Served::stop): nothing reads it any more. Any other device stays as it is.
    pub(crate) fn graduate(self, plain: &Path) -> (Self, Result<Option<Served>, FrontEndError>) {
        match self {
            Self::FuseLoop { fuse, device } => match device.change_backing(plain) {
                Ok(()) => (Self::Graduated { device }, Ok(Some(fuse))),
                Err(error) => (Self::FuseLoop { fuse, device }, Err(error.into())),
            },
            other => (other, Ok(None)),
        }
    }

    /// Puts a FUSE file that `server` answers again in the place of the plain one. `hold` is given its parts before anyone reads
    /// it. Any other device stays as it is.
    pub(crate) fn come_back(
        self,
        dir: &Path,
        server: Server,
        options: FrontEndOptions,
        hold: impl Fn(&str, BorrowedFd<'_>),
    ) -> (Self, Result<(), FrontEndError>) {
        let Self::Graduated { device } = self else {
            return (self, Ok(()));
        };
        match fuse_file(dir, server, options) {
            Err(error) => (Self::Graduated { device }, Err(error)),
            Ok(fuse) => {
                for (part, fd) in fuse.parts() {
                    hold(part, fd);
                }
                match device.change_backing(fuse.path()) {
                    Ok(()) => (Self::FuseLoop { fuse, device }, Ok(())),
                    Err(error) => (Self::Graduated { device }, Err(error.into())),
                }
            }
        }
    }

    /// Finds a device that an earlier process left on the file `plain`, and clears away what stands of its FUSE file.
    pub(crate) fn find_graduated(dir: &Path, plain: &Path) -> Result<Option<Self>, FrontEndError> {
        let Some(device) = LoopDevice::find(plain)?.into_iter().next() else {
            return Ok(None);
        };
        let fuse_dir = dir.join(FUSE_DIR);
        if mount::is_mounted(&fuse_dir)? {
            // Half of a way there or back: the device is on the plain file, so nobody reads this one.
            mount::unmount_by_force(&fuse_dir)?;
        }
        Ok(Some(Self::Graduated { device }))
    }

    /// Whether it reads a plain file of this node.
    pub(crate) fn is_graduated(&self) -> bool {
        matches!(self, Self::Graduated { .. })
    }
}

fn fuse_file(
    dir: &Path,
    server: Server,
    options: FrontEndOptions,
) -> Result<Served, FrontEndError> {
    let fuse_dir = dir.join(FUSE_DIR);
    fs::create_dir_all(&fuse_dir).map_err(|source| FrontEndError::Directory {
        path: fuse_dir.clone(),
        source,
    })?;
    server.begin(dir, &fuse_dir, options)
}
