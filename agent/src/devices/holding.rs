//! Mounts that the snapshotter holds: containers stand on them.
//!
//! A held mount is attach and mount in one, written down in one step and named by its target alone: asked for again after a crash on
//! either side, it is found, or made once. It stays when the daemon stops, and the next daemon takes it over.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tranship_format::Digest;

use crate::control::{FrontEndChoice, Unserved};
use crate::front_end::Filesystem;
use crate::mounts::MountRecord;

use super::lifecycle::device_id;
use super::{DeviceError, DeviceRecord, Devices, Slot, Work};

/// What is to be held.
#[derive(Clone, Debug)]
pub(crate) struct Holding {
    /// The image, as its user names it.
    pub(crate) reference: String,
    /// The digest of its manifest.
    pub(crate) manifest: Digest,
    /// How many of its layers, from the bottom.
    pub(crate) layer_count: u32,
}

impl Devices {
    /// Mounts an image at `target`, which must be absolute, without symbolic links and nobody else's, unless it is there already. Goes on to
    /// its end even when the caller leaves.
    pub(crate) async fn hold(
        self: &Arc<Self>,
        holding: Holding,
        target: &Path,
    ) -> Result<(), DeviceError> {
        let (devices, target) = (Arc::clone(self), target.to_path_buf());
        let work = self
            .tasks
            .spawn(async move { devices.hold_now(holding, target).await });
        work.await.map_err(|_| DeviceError::Stopping)?
    }

    async fn hold_now(&self, holding: Holding, target: PathBuf) -> Result<(), DeviceError> {
        let resolving = self
            .images
            .resolve_manifest(&holding.reference, None, holding.manifest);
        let resolved = self
            .unless_stopping(Box::pin(resolving))
            .await??
            .bottom(Some(holding.layer_count));
        let front_end = self.choose(FrontEndChoice::Auto, &resolved).await?;
        // It may stand there with another front end, from before the settings changed.
        let slot = match self.mounted_at(&target) {
            Some(slot) => slot,
            None => self.slot_or_new(&device_id(&resolved, front_end)),
        };
        let mut work = slot.work.lock().await;
        let record = work.record.get_or_insert_with(|| DeviceRecord {
            reference: holding.reference,
            plain_http: None,
            manifest: resolved.manifest,
            layer_count: resolved.part(),
            front_end,
            use_count: 0,
            mounts: Vec::new(),
            graduated: None,
            unserved: Unserved::default(),
        });
        let mount = MountRecord {
            target,
            overlay: None,
            is_held: true,
        };
        let is_new = !record.mounts.contains(&mount);
        if is_new {
            record.mounts.push(mount.clone());
            record.use_count = record.use_count.saturating_add(1);
        }
        let mut outcome = match work.attached {
            Some(_) if is_new => self.save(&slot, &work),
            Some(_) => Ok(()),
            None => self.bring_up(&slot, &mut work, &resolved).await,
        };
        if outcome.is_ok() {
            outcome = self.make_held(&mut work, &mount).await;
        }
        if outcome.is_err() && is_new {
            self.let_go(&slot, &mut work, &mount).await;
        }
        slot.show(&work, &self.device_dir(&slot.id));
        drop(work);
        if outcome.is_err() {
            self.tidy(&slot);
        }
        outcome
    }

    /// Bringing a device up makes its mounts as well as it can; this says what came of it.
    async fn make_held(&self, work: &mut Work, mount: &MountRecord) -> Result<(), DeviceError> {
        let Some(attached) = work.attached.take() else {
            return Err(DeviceError::Stopping);
        };
        let fs_name = attached.image.fs_name.clone();
        let Some(filesystem) = Filesystem::named(&fs_name) else {
            work.attached = Some(attached);
            return Err(DeviceError::Filesystem { fs_name });
        };
        let making = mount.clone();
        let (attached, made) = self
            .blocking(move || {
                let made = making.make_if_absent(&attached.presented, filesystem);
                (attached, made)
            })
            .await?;
        work.attached = Some(attached);
        Ok(made?)
    }

    /// Gives up a held mount; the last attach takes the device away with it.
    pub(crate) async fn release(self: &Arc<Self>, target: &Path) -> Result<(), DeviceError> {
        let Some(slot) = self.mounted_at(target) else {
            return Ok(());
        };
        let (devices, target) = (Arc::clone(self), target.to_path_buf());
        let work = self
            .tasks
            .spawn(async move { devices.release_now(slot, target).await });
        work.await.map_err(|_| DeviceError::Stopping)?
    }

    async fn release_now(&self, slot: Arc<Slot>, target: PathBuf) -> Result<(), DeviceError> {
        let mut work = slot.work.lock().await;
        let mounts = work.record.iter().flat_map(|record| &record.mounts);
        let held = mounts.clone().find(|mount| mount.target == target);
        let Some(mount) = held.cloned() else {
            return Ok(());
        };
        let taking = mount.clone();
        self.blocking(move || taking.unmake(false))
            .await?
            .map_err(DeviceError::Unmount)?;
        self.let_go(&slot, &mut work, &mount).await;
        slot.show(&work, &self.device_dir(&slot.id));
        drop(work);
        self.tidy(&slot);
        Ok(())
    }

    /// Counts a held mount out. The last is not written down first: after a crash in between the record would be of a device that nobody
    /// has, and that nobody would give up; with its mount on record it is made again, and released again.
    async fn let_go(&self, slot: &Slot, work: &mut Work, mount: &MountRecord) {
        let Some(record) = &mut work.record else {
            return;
        };
        if record.use_count <= 1 {
            self.give_up(slot, work).await;
            return;
        }
        record.use_count = record.use_count.saturating_sub(1);
        self.forget_mount(slot, work, mount);
    }
}
