//! Mounts of devices: the filesystem at the target, or an overlay over it whose changes lie in the daemon's directory.
//!
//! Everything here blocks on the kernel. Mount points are never looked at with stat(2): behind one whose server is gone,
//! that hangs or fails.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tranship_device::MountError;
use tranship_device::mount::{self, Overlay};

use crate::front_end::{Filesystem, FrontEndError, Presented};

/// A mount of a device, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountRecord {
    /// Where; absolute and free of symbolic links.
    pub(crate) target: PathBuf,
    /// The directory of a writable mount's lower, upper and work directories.
    pub(crate) overlay: Option<PathBuf>,
    /// Whether it is one of the snapshotter's: it counts for an attach, and stays when the daemon stops.
    #[serde(default, skip_serializing_if = "is_not")]
    pub(crate) is_held: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it so")]
fn is_not(held: &bool) -> bool {
    !held
}

impl MountRecord {
    fn overlay_dirs(&self) -> Option<Overlay> {
        let dir = self.overlay.as_ref()?;
        Some(Overlay {
            lower: dir.join("lower"),
            upper: dir.join("upper"),
            work: dir.join("work"),
        })
    }

    /// Mounts it.
    pub(crate) fn make(
        &self,
        device: &Presented,
        filesystem: Filesystem,
    ) -> Result<(), FrontEndError> {
        make_dir(&self.target)?;
        let Some(overlay) = self.overlay_dirs() else {
            return device.mount(filesystem, &self.target);
        };
        for dir in [&overlay.lower, &overlay.upper, &overlay.work] {
            make_dir(dir)?;
        }
        device.mount(filesystem, &overlay.lower)?;
        if let Err(error) = mount::overlay(&overlay, &self.target) {
            warn(&overlay.lower, mount::unmount_lazily(&overlay.lower));
            return Err(error.into());
        }
        Ok(())
    }

    /// Mounts it unless it is standing on the device already.
    pub(crate) fn make_if_absent(
        &self,
        device: &Presented,
        filesystem: Filesystem,
    ) -> Result<(), FrontEndError> {
        if self.stands_on(device)? {
            return Ok(());
        }
        if let Some(overlay) = self.overlay_dirs() {
            // A half of it may be there.
            take_away(&overlay.lower, true)?;
        }
        self.make(device, filesystem)
    }

    fn stands_on(&self, device: &Presented) -> Result<bool, MountError> {
        let Some(entry) = mount::entry_at(&self.target)? else {
            return Ok(false);
        };
        Ok(match self.overlay_dirs() {
            None => entry.source == device.path(),
            Some(overlay) => {
                let upper = format!("upperdir={}", overlay.upper.display());
                entry.kind == "overlay" && entry.options.split(',').any(|option| option == upper)
            }
        })
    }

    /// Takes it away; [`MountError::Busy`] while somebody uses it, unless `force`.
    pub(crate) fn unmake(&self, force: bool) -> Result<(), MountError> {
        take_away(&self.target, force)?;
        if let Some(overlay) = self.overlay_dirs() {
            // Users of the overlay are gone, or hold what is left of it by themselves.
            take_away(&overlay.lower, true)?;
        }
        Ok(())
    }

    /// Throws away what was written.
    pub(crate) fn discard(&self) {
        let Some(dir) = &self.overlay else {
            return;
        };
        if let Err(error) = fs::remove_dir_all(dir)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %dir.display(), %error, "what was written to a mount stays behind");
        }
    }
}

/// The path by which the kernel knows a mount point, which it is made if it is not there.
pub(crate) fn settle_target(target: &Path) -> Result<PathBuf, FrontEndError> {
    make_dir(target)?;
    target
        .canonicalize()
        .map_err(|source| FrontEndError::Directory {
            path: target.to_path_buf(),
            source,
        })
}

fn make_dir(path: &Path) -> Result<(), FrontEndError> {
    fs::create_dir_all(path).map_err(|source| FrontEndError::Directory {
        path: path.to_path_buf(),
        source,
    })
}

fn take_away(target: &Path, force: bool) -> Result<(), MountError> {
    match mount::unmount(target) {
        Err(MountError::Busy { .. }) if force => mount::unmount_lazily(target),
        // Somebody else took it away, which is what was asked for.
        Err(MountError::NotMounted { .. }) => Ok(()),
        outcome => outcome,
    }
}

fn warn(place: &Path, outcome: Result<(), MountError>) {
    if let Err(error) = outcome {
        tracing::warn!(target = %place.display(), error = &error as &dyn Error, "a mount stays");
    }
}
