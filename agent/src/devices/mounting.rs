//! Mount and unmount.
//!
//! A mount is written down before it is made: one that a crash leaves half made is found and made again by the next start.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::control::{MountInfo, MountRequest};
use crate::front_end::{Filesystem, FrontEndError};
use crate::mounts::{self, MountRecord};

use super::{Attached, DeviceError, Devices, Slot, Work, mount_info};

impl Devices {
    /// Mounts a device's filesystem.
    pub(crate) async fn mount(
        self: &Arc<Self>,
        id: &str,
        request: MountRequest,
    ) -> Result<MountInfo, DeviceError> {
        if !request.target.is_absolute() {
            return Err(DeviceError::RelativeTarget {
                target: request.target,
            });
        }
        let (devices, slot) = (Arc::clone(self), self.slot(id)?);
        let work = self
            .tasks
            .spawn(async move { devices.mount_now(slot, request).await });
        work.await.map_err(|_| DeviceError::Stopping)?
    }

    async fn mount_now(
        &self,
        slot: Arc<Slot>,
        request: MountRequest,
    ) -> Result<MountInfo, DeviceError> {
        let _turn = self.targets.lock().await;
        let wanted = request.target.clone();
        let target = self
            .blocking(move || mounts::settle_target(&wanted))
            .await??;
        if let Some(other) = self.mounted_at(&target) {
            return Err(DeviceError::TargetTaken {
                id: other.id.clone(),
                target,
            });
        }
        let mut work = slot.work.lock().await;
        let Some(attached) = work.attached.take() else {
            return Err(DeviceError::Recovering {
                id: slot.id.clone(),
            });
        };
        let (attached, outcome) = self
            .make_mount(&slot, &mut work, attached, target, request.writable)
            .await;
        work.attached = attached;
        slot.show(&work, &self.device_dir(&slot.id));
        outcome
    }

    async fn make_mount(
        &self,
        slot: &Slot,
        work: &mut Work,
        attached: Attached,
        target: PathBuf,
        writable: bool,
    ) -> (Option<Attached>, Result<MountInfo, DeviceError>) {
        let front_end = work.record.as_ref().map(|record| record.front_end);
        if let Some(front_end) = front_end.filter(|front_end| !front_end.is_mountable()) {
            let refused = FrontEndError::NotMountable { front_end };
            return (Some(attached), Err(refused.into()));
        }
        let Some(filesystem) = Filesystem::named(&attached.image.fs_name) else {
            let fs_name = attached.image.fs_name.clone();
            return (Some(attached), Err(DeviceError::Filesystem { fs_name }));
        };
        let overlay = writable.then(|| self.overlay_dir(&slot.id, work));
        let mount = MountRecord {
            target,
            overlay,
            is_held: false,
        };
        if let Some(record) = &mut work.record {
            record.mounts.push(mount.clone());
        }
        if let Err(error) = self.save(slot, work) {
            self.forget_mount(slot, work, &mount);
            return (Some(attached), Err(error));
        }
        let making = mount.clone();
        let made = self
            .blocking(move || {
                let outcome = making.make(&attached.presented, filesystem);
                (attached, outcome)
            })
            .await;
        match made {
            Ok((attached, Ok(()))) => (Some(attached), Ok(mount_info(&slot.id, &mount))),
            Ok((attached, Err(error))) => {
                self.forget_mount(slot, work, &mount);
                (Some(attached), Err(error.into()))
            }
            Err(error) => (None, Err(error)),
        }
    }

    /// Takes a mount away and throws away what was written to it.
    pub(crate) async fn unmount(self: &Arc<Self>, target: &Path) -> Result<MountInfo, DeviceError> {
        let slot = if let Some(slot) = self.mounted_at(target) {
            Some((slot, target.to_path_buf()))
        } else {
            // Perhaps it was named by way of a symbolic link.
            let target = target.to_path_buf();
            let found = self.blocking(move || target.canonicalize().ok()).await?;
            found.and_then(|target| Some((self.mounted_at(&target)?, target)))
        };
        let Some((slot, target)) = slot else {
            return Err(DeviceError::NoSuchMount {
                target: target.to_path_buf(),
            });
        };
        let devices = Arc::clone(self);
        let work = self
            .tasks
            .spawn(async move { devices.unmount_now(slot, target).await });
        work.await.map_err(|_| DeviceError::Stopping)?
    }

    async fn unmount_now(
        &self,
        slot: Arc<Slot>,
        target: PathBuf,
    ) -> Result<MountInfo, DeviceError> {
        let mut work = slot.work.lock().await;
        let found = work
            .record
            .iter()
            .flat_map(|record| &record.mounts)
            .find(|mount| mount.target == target);
        let Some(mount) = found.cloned() else {
            return Err(DeviceError::NoSuchMount { target });
        };
        let taking = mount.clone();
        self.blocking(move || taking.unmake(false))
            .await?
            .map_err(DeviceError::Unmount)?;
        self.forget_mount(&slot, &mut work, &mount);
        slot.show(&work, &self.device_dir(&slot.id));
        Ok(mount_info(&slot.id, &mount))
    }

    /// Takes all mounts of a device out of sight, also those that somebody uses.
    pub(super) async fn force_unmount(&self, slot: &Slot, work: &mut Work) {
        let mounts = work.record.iter().flat_map(|record| &record.mounts);
        for mount in mounts.cloned().collect::<Vec<_>>() {
            let taking = mount.clone();
            match self.blocking(move || taking.unmake(true)).await {
                Ok(Ok(())) => self.forget_mount(slot, work, &mount),
                Ok(Err(error)) => {
                    tracing::warn!(target = %mount.target.display(), error = &error as &dyn std::error::Error, "a mount of a device that goes stays");
                }
                Err(_) => return,
            }
        }
    }

    pub(super) fn forget_mount(&self, slot: &Slot, work: &mut Work, mount: &MountRecord) {
        if let Some(record) = &mut work.record {
            record.mounts.retain(|other| other != mount);
        }
        mount.discard();
        if let Err(error) = self.save(slot, work) {
            tracing::warn!(
                device = slot.id,
                error = &error as &dyn std::error::Error,
                "a mount that is gone stays on record"
            );
        }
    }

    /// A directory for what is written, that no other mount of the device has.
    fn overlay_dir(&self, id: &str, work: &Work) -> PathBuf {
        let taken: Vec<&PathBuf> = work
            .record
            .iter()
            .flat_map(|record| &record.mounts)
            .filter_map(|mount| mount.overlay.as_ref())
            .collect();
        let dir = self.device_dir(id);
        (0..=u32::MAX)
            .map(|number| dir.join(format!("written-{number}")))
            .find(|dir| !taken.contains(&dir) && !dir.exists())
            .unwrap_or(dir)
    }

    pub(super) fn mounted_at(&self, target: &Path) -> Option<Arc<Slot>> {
        self.all_slots().into_iter().find(|slot| {
            slot.info()
                .is_some_and(|info| info.mounts.iter().any(|mount| mount.target == target))
        })
    }
}
