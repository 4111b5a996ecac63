//! Attach and detach.

use std::error::Error;
use std::sync::Arc;

use tranship_store::BlobStore;

use crate::control::{
    AttachRequest, DetachReply, DeviceInfo, FrontEndChoice, FrontEndName, Unserved,
};
use crate::fill;
use crate::front_end::{
    self, FILE, FUSE_PARTS, Filesystem, LOOP_PART, Presented, Processes, SOCKET_PART, Server,
    numbered, sockets,
};
use crate::image::{Image, Resolved};
use crate::plain;
use crate::process::Description;
use crate::stale;

use super::left::{find_graduated, take_back};
use super::{Attached, DeviceError, DeviceRecord, Devices, Slot, Work};

/// Hex digits of the manifest's digest in a device's id: enough that no node ever has two alike.
const ID_DIGITS: usize = 12;

impl Devices {
    /// Makes a device of an image, or shares the one that is there. Goes on to its end even when the caller leaves.
    pub(crate) async fn attach(
        self: &Arc<Self>,
        request: AttachRequest,
    ) -> Result<DeviceInfo, DeviceError> {
        let devices = Arc::clone(self);
        let work = self
            .tasks
            .spawn(async move { devices.attach_now(request).await });
        work.await.map_err(|_| DeviceError::Stopping)?
    }

    async fn attach_now(&self, request: AttachRequest) -> Result<DeviceInfo, DeviceError> {
        let resolving = self.images.resolve(&request.reference, request.plain_http);
        let resolved = self.unless_stopping(Box::pin(resolving)).await??;
        let front_end = self.choose(request.front_end, &resolved).await?;
        let slot = self.slot_or_new(&device_id(&resolved, front_end));
        let mut work = slot.work.lock().await;
        let fresh = work.record.is_none();
        if let (Some(unserved), Some(attached)) = (request.unserved, &work.attached) {
            attached.image.waits().set_unserved(unserved);
        }
        let record = work.record.get_or_insert_with(|| DeviceRecord {
            reference: request.reference.clone(),
            plain_http: request.plain_http,
            manifest: resolved.manifest,
            layer_count: resolved.part(),
            front_end,
            use_count: 0,
            mounts: Vec::new(),
            graduated: None,
            unserved: Unserved::default(),
        });
        if let Some(unserved) = request.unserved {
            record.unserved = unserved;
        }
        record.use_count = record.use_count.saturating_add(1);
        let outcome = match work.attached {
            Some(_) => self.save(&slot, &work),
            None => self.bring_up(&slot, &mut work, &resolved).await,
        };
        if outcome.is_err() {
            match &mut work.record {
                Some(record) if !fresh => record.use_count = record.use_count.saturating_sub(1),
                _ => self.give_up(&slot, &mut work).await,
            }
        }
        slot.show(&work, &self.device_dir(&slot.id));
        drop(work);
        if let Err(error) = outcome {
            self.tidy(&slot);
            return Err(error);
        }
        slot.info().ok_or(DeviceError::Stopping)
    }

    /// The front end of a device that is to be made.
    pub(super) async fn choose(
        &self,
        wish: FrontEndChoice,
        resolved: &Resolved,
    ) -> Result<FrontEndName, DeviceError> {
        let choice = match wish {
            FrontEndChoice::Auto => self.options.front_end,
            named => named,
        };
        let scratch = self.run_dir.join("probe");
        let probed = self.probed.get_or_try_init(|| async {
            let probed = self.blocking(move || front_end::probe(&scratch)).await?;
            Ok::<_, DeviceError>(probed?)
        });
        Ok(front_end::choose(
            choice,
            resolved.fs_name(),
            probed.await?,
        )?)
    }

    /// Waits for what a registry may hold up, but not while the daemon stops.
    pub(super) async fn unless_stopping<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> Result<T, DeviceError> {
        let done = self.stop.run_until_cancelled(work).await;
        done.ok_or(DeviceError::Stopping)
    }

    /// Opens the image, makes the device, and mounts what the record says. The record is written first.
    pub(super) async fn bring_up(
        &self,
        slot: &Slot,
        work: &mut Work,
        resolved: &Resolved,
    ) -> Result<(), DeviceError> {
        let Some(record) = work.record.clone() else {
            return Err(DeviceError::NoSuchDevice {
                id: slot.id.clone(),
            });
        };
        let opening = self.images.open(resolved, record.unserved);
        let image = self.unless_stopping(opening).await??;
        let image = Arc::new(image);
        self.save(slot, work)?;
        let (dir, content, bounds) = (
            self.device_dir(&slot.id),
            image.content(),
            self.options.bounds,
        );
        let server = self.server(slot, &image, record.front_end);
        let front_end = record.front_end;
        let filesystem = Filesystem::named(&image.fs_name);
        let (keeping, id, run_dir) = (
            Arc::clone(&self.keeping),
            slot.id.clone(),
            self.run_dir.clone(),
        );
        let presented = self
            .blocking(move || {
                let graduated = find_graduated(&keeping, &id, &dir);
                let taken = graduated.or_else(|| take_back(&keeping, &id, &dir).and_then(|left| {
                    let taken = Presented::take_over(front_end, &dir, server.clone(), bounds, left);
                    if let Err(error) = &taken {
                        tracing::warn!(device = id, error = error as &dyn Error, "a device of an earlier run is made anew, and its readers get errors");
                        keeping.let_go(&id, &[LOOP_PART]);
                        stale::clear_away(&run_dir, |other| other == id);
                    }
                    taken.ok()
                }));
                let presented = match taken {
                    Some(presented) => presented,
                    None if !front_end.is_by_fuse() => {
                        let held = keeping.take(&id, SOCKET_PART);
                        Presented::without_fuse(front_end, &dir, &record.reference, content, bounds, held)?
                    }
                    None => Presented::new(front_end, &dir, server, bounds)?,
                };
                for (part, fd) in presented.descriptors() {
                    keeping.keep(&id, part, fd);
                }
                for mount in &record.mounts {
                    // What was mounted before had a filesystem that is mounted.
                    let Some(filesystem) = filesystem else { break };
                    if let Err(error) = mount.make_if_absent(&presented, filesystem) {
                        tracing::warn!(target = %mount.target.display(), error = &error as &dyn Error, "a mount does not come back");
                    }
                }
                Ok(presented)
            })
            .await;
        match presented.and_then(|presented| presented.map_err(DeviceError::FrontEnd)) {
            Ok(presented) => {
                if let Some(at_once) = self.options.fill {
                    fill::begin(&image, self.images.fetcher(), at_once);
                }
                tracing::info!(device = slot.id, path = %presented.path().display(), "a device is attached");
                work.attached = Some(Attached { image, presented });
                Ok(())
            }
            Err(error) => {
                if let Some(supply) = &self.supply {
                    supply.remove(&slot.id);
                }
                self.images.close(&image).await;
                Err(error)
            }
        }
    }

    /// Who answers the reads of a device: a process of its own where the operator wishes that and a keeper is there to let one follow
    /// another, and this process elsewhere.
    pub(super) fn server(
        &self,
        slot: &Slot,
        image: &Arc<Image>,
        front_end: FrontEndName,
    ) -> Server {
        let Some(supply) = &self.supply else {
            return Server::Here(image.content());
        };
        if !front_end.is_by_fuse() || !self.keeping.has_keeper() {
            return Server::Here(image.content());
        }
        // A store that is full keeps nothing, and what it will keep must be found.
        if let Err(error) = image.blobs().try_for_each(BlobStore::make_files) {
            tracing::warn!(
                device = slot.id,
                error = &error as &dyn Error,
                "a device is answered by the agent, since the store has no files for it"
            );
            return Server::Here(image.content());
        }
        supply.add(&slot.id, image);
        Server::Process(Box::new(Processes {
            keeping: Arc::clone(&self.keeping),
            supply: Arc::clone(supply),
            runtime: tokio::runtime::Handle::current(),
            description: Description {
                device: slot.id.clone(),
                store: self.images.store_dir(),
                layers: image.blobs().map(BlobStore::digest).collect(),
                file: FILE.to_owned(),
                keeper: self.keeping.socket().to_owned(),
                keeper_program: Some(self.keeping.program()),
                supply: supply.socket().to_owned(),
                block_cache_len: self.images.options().block_cache_len,
                worker_count: self.options.bounds.worker_count,
                read_ahead: self.images.options().read_ahead,
                deadline: image
                    .waits()
                    .patience_of_process(self.options.agent_patience),
                stop_grace: self.options.bounds.stop_grace,
            },
        }))
    }

    /// Gives up one attach; the last one takes the device away. By `force` it goes at once, whoever shares, mounts or reads it.
    pub(crate) async fn detach(
        self: &Arc<Self>,
        id: &str,
        force: bool,
    ) -> Result<DetachReply, DeviceError> {
        let (devices, slot) = (Arc::clone(self), self.slot(id)?);
        if force {
            slot.give_up_reads();
        }
        let work = self
            .tasks
            .spawn(async move { devices.detach_now(slot, force).await });
        work.await.map_err(|_| DeviceError::Stopping)?
    }

    async fn detach_now(&self, slot: Arc<Slot>, force: bool) -> Result<DetachReply, DeviceError> {
        let mut work = slot.work.lock().await;
        if force {
            self.force_unmount(&slot, &mut work).await;
        }
        let Some(record) = &mut work.record else {
            return Err(DeviceError::NoSuchDevice {
                id: slot.id.clone(),
            });
        };
        if record.use_count > 1 && !force {
            record.use_count = record.use_count.saturating_sub(1);
            let use_count = record.use_count;
            self.save(&slot, &work)?;
            slot.show(&work, &self.device_dir(&slot.id));
            return Ok(DetachReply { use_count });
        }
        if let Some(mount) = record.mounts.first().filter(|_| !force) {
            return Err(DeviceError::Mounted {
                id: slot.id.clone(),
                target: mount.target.clone(),
            });
        }
        self.give_up(&slot, &mut work).await;
        slot.show(&work, &self.device_dir(&slot.id));
        drop(work);
        self.tidy(&slot);
        tracing::info!(device = slot.id, "a device is detached");
        Ok(DetachReply { use_count: 0 })
    }

    /// Takes the device away and forgets that it should be there.
    pub(super) async fn give_up(&self, slot: &Slot, work: &mut Work) {
        self.take_down(slot, work, true).await;
        work.record = None;
        self.forget(&slot.id);
    }

    /// Forgets a device of which nothing is in the kernel any more.
    pub(super) fn forget(&self, id: &str) {
        let (dir, outcome) = (self.device_dir(id), self.records.remove(id));
        if let Err(error) = outcome {
            tracing::warn!(device = id, %error, "the record of a detached device stays");
        }
        plain::remove(&dir);
        numbered::forget(&dir);
        sockets::forget(&dir);
        // Only empty directories: whatever else lies there is worth a look.
        for dir in [dir.join("fuse"), dir] {
            let _ = std::fs::remove_dir(dir);
        }
    }

    /// Takes the kernel's part away, or leaves it as it is, and closes the image.
    pub(super) async fn take_down(&self, slot: &Slot, work: &mut Work, detach: bool) {
        let (keeping, id) = (Arc::clone(&self.keeping), slot.id.clone());
        let Some(Attached { image, presented }) = work.attached.take() else {
            if detach {
                let run_dir = self.run_dir.clone();
                let clearing = self.blocking(move || {
                    keeping.let_go(&id, &[LOOP_PART]);
                    stale::clear_away(&run_dir, |other| other == id);
                    keeping.let_go(&id, &FUSE_PARTS);
                    keeping.let_go(&id, &[SOCKET_PART]);
                });
                // It ends by itself even when it is late.
                let _ = clearing.await;
            }
            return;
        };
        if !detach {
            presented.retire();
            if let Some(supply) = &self.supply {
                supply.leave(&slot.id);
            }
        }
        // Reads that wait for a source end now, here or to begin again with the successor; what is here is given until the last
        // user is gone.
        image.stop_token().cancel();
        let stopped = self
            .blocking(move || {
                if detach {
                    // A loop device is detached when nobody has it open any more, and holds the FUSE file until then.
                    keeping.let_go(&id, &[LOOP_PART]);
                    let outcome = presented.stop();
                    keeping.let_go(&id, &FUSE_PARTS);
                    keeping.let_go(&id, &[SOCKET_PART]);
                    outcome
                } else {
                    presented.leave()
                }
            })
            .await;
        if let Ok(Err(error)) = stopped {
            tracing::warn!(
                device = slot.id,
                error = &error as &dyn Error,
                "a device stops badly"
            );
        }
        if let Some(supply) = &self.supply {
            supply.remove(&slot.id);
        }
        self.images.close(&image).await;
    }

    pub(super) fn save(&self, slot: &Slot, work: &Work) -> Result<(), DeviceError> {
        let Some(record) = &work.record else {
            return Ok(());
        };
        self.records
            .save(&slot.id, record)
            .map_err(|source| DeviceError::Record {
                id: slot.id.clone(),
                source,
            })
    }
}

/// What a device is called: the same image, or the same part of it, with the same front end is the same device.
pub(super) fn device_id(resolved: &Resolved, front_end: FrontEndName) -> String {
    let digits: String = resolved.manifest.hex().chars().take(ID_DIGITS).collect();
    match resolved.part() {
        Some(layers) => format!("{digits}.{layers}-{front_end}"),
        None => format!("{digits}-{front_end}"),
    }
}
