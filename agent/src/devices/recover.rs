//! Devices after a restart, and before one.
//!
//! What a daemon that was killed had is in the keeper's hands, and whoever reads it waits: it is gone on with. What the keeper does
//! not hold is FUSE mounts without a server and loop devices on them. They are cleared away first, before anyone can ask for
//! anything. A graduated device is wholly in the kernel, and is found there by its plain file; then each device is taken over or made again beside the others, as long as it takes. A device that cannot come
//! back keeps nobody from starting.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tranship_device::{KernelNbd, LoopDevice};

use crate::front_end::{FUSE_PART, LOOP_PART, SOCKET_PART, numbered};
use crate::plain;
use crate::process;
use crate::stale;

use super::{DeviceError, DeviceRecord, Devices, Slot};

/// First pause between tries to bring a device back.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// And the longest.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

impl Devices {
    /// Clears away what is left of an earlier run and begins to bring its devices back. Returns when each was tried once
    /// or `patience` is over; the rest goes on behind.
    pub(crate) async fn recover(self: &Arc<Self>, patience: Duration) {
        let records = match self.records.load_all() {
            Ok(records) => records,
            Err(error) => {
                tracing::error!(%error, "the records of devices cannot be read; none comes back");
                return;
            }
        };
        // One that nobody has is left of a crash in the middle of giving it up.
        let (records, unused): (Vec<_>, Vec<_>) = records
            .into_iter()
            .partition(|(_, record)| record.use_count > 0);
        let (run_dir, keeping) = (self.run_dir.clone(), Arc::clone(&self.keeping));
        let known: Vec<String> = records.iter().map(|(id, _)| id.clone()).collect();
        let clearing = move || {
            let held = keeping.names();
            let is_graduated = |id: &str| {
                LoopDevice::find(&plain::path_in(&run_dir.join(id)))
                    .is_ok_and(|devices| !devices.is_empty())
            };
            let is_kernel_nbd = |dir: &Path| {
                let found = KernelNbd::find(&dir.display().to_string());
                found.is_ok_and(|number| number.is_some())
            };
            let is_left = |id: &str| {
                let mut parts = held.iter();
                parts.any(|(device, part)| {
                    device == id && [FUSE_PART, SOCKET_PART].contains(&&**part)
                }) || process::is_alive(&run_dir.join(id))
                    || is_graduated(id)
                    || is_kernel_nbd(&run_dir.join(id))
                    || numbered::number_in(&run_dir.join(id)).is_some()
            };
            let kept: Vec<String> = known.into_iter().filter(|id| is_left(id)).collect();
            let is_kept = |id: &str| kept.iter().any(|kept| kept == id);
            for (id, part) in held
                .iter()
                .filter(|(id, part)| part == LOOP_PART && !is_kept(id))
            {
                keeping.let_go(id, &[part]);
            }
            stale::clear_away(&run_dir, |id| !is_kept(id));
            for (id, part) in held.iter().filter(|(id, _)| !is_kept(id)) {
                keeping.let_go(id, &[part]);
            }
        };
        let cleared = self.blocking(clearing).await;
        if let Err(error) = cleared {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "what an earlier run left standing stays"
            );
        }
        for (id, _) in unused {
            self.forget(&id);
        }
        self.forget_remains(&records);
        let mut tried = Vec::new();
        for (id, record) in records {
            let slot = self.slot_or_new(&id);
            {
                let mut work = slot.work.lock().await;
                work.record = Some(record);
                slot.show(&work, &self.device_dir(&id));
            }
            let (done, first) = tokio::sync::oneshot::channel();
            let devices = Arc::clone(self);
            self.tasks.spawn(async move {
                let stop = devices.stop.clone();
                stop.run_until_cancelled(devices.bring_back(&slot, done))
                    .await;
            });
            tried.push(first);
        }
        if timeout(patience, futures::future::join_all(tried))
            .await
            .is_err()
        {
            tracing::warn!("some devices are not back yet");
        }
    }

    /// Forgets what a crash left on disk of devices that are on no record any more, or not yet.
    fn forget_remains(&self, records: &[(String, DeviceRecord)]) {
        if let Err(error) = self.records.remove_unfinished() {
            tracing::warn!(%error, "a record that was half written stays");
        }
        let entries = std::fs::read_dir(&self.run_dir).into_iter().flatten();
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            if let Ok(id) = entry.file_name().into_string()
                && !records.iter().any(|(known, _)| *known == id)
            {
                self.forget(&id);
            }
        }
    }

    async fn bring_back(&self, slot: &Slot, done: tokio::sync::oneshot::Sender<()>) {
        let mut done = Some(done);
        let mut pause = FIRST_PAUSE;
        loop {
            let outcome = self.bring_back_once(slot).await;
            if let Some(done) = done.take() {
                // Nobody listens any more once patience is over.
                let _ = done.send(());
            }
            match outcome {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(
                        device = slot.id,
                        error = &error as &dyn std::error::Error,
                        "a device is not back yet"
                    );
                }
            }
            sleep(pause).await;
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    async fn bring_back_once(&self, slot: &Slot) -> Result<(), DeviceError> {
        let mut work = slot.work.lock().await;
        let Some(record) = work.record.clone() else {
            return Ok(());
        };
        if work.attached.is_some() {
            return Ok(());
        }
        // By its digest: what stands on the device is of this image, wherever its tag has moved.
        let resolved = self
            .images
            .resolve_manifest(&record.reference, record.plain_http, record.manifest)
            .await?
            .bottom(record.layer_count);
        self.bring_up(slot, &mut work, &resolved).await?;
        slot.show(&work, &self.device_dir(&slot.id));
        Ok(())
    }

    /// Whether stopping leaves devices to a successor.
    pub(crate) fn are_left(&self) -> bool {
        !self.options.detach_on_stop
    }

    /// From now on a read that cannot be served is left to the successor.
    pub(crate) fn retire(&self) {
        for slot in self.all_slots() {
            if let Some(supply) = &self.supply {
                supply.leave(&slot.id);
            }
            // One that somebody is changing is told when it is left.
            if let Ok(work) = slot.work.try_lock()
                && let Some(attached) = &work.attached
            {
                attached.presented.retire();
            }
        }
    }

    /// Takes all devices down, or leaves the kernel's part of them, and waits for what is under way. Their records stay:
    /// they come back with the next start.
    pub(crate) async fn stop(&self, grace: Duration) {
        self.stop.cancel();
        let slots = self.all_slots();
        let stopping = slots.iter().map(|slot| async move {
            let mut work = slot.work.lock().await;
            let mounts = work.record.as_ref().map(|record| record.mounts.clone()).unwrap_or_default();
            // Containers stand on what the snapshotter holds, and outlive us.
            let detach = self.options.detach_on_stop && mounts.iter().all(|mount| !mount.is_held);
            if detach && work.attached.is_some() {
                let unmade = self.blocking(move || {
                    for mount in &mounts {
                        if let Err(error) = mount.unmake(true) {
                            tracing::warn!(target = %mount.target.display(), error = &error as &dyn std::error::Error, "a mount stays");
                        }
                    }
                });
                // It ends by itself even when it is late.
                let _ = unmade.await;
            }
            self.take_down(slot, &mut work, detach).await;
        });
        if timeout(grace, futures::future::join_all(stopping))
            .await
            .is_err()
        {
            tracing::warn!(?grace, "some devices are late to stop");
        }
        self.tasks.close();
        if timeout(grace, self.tasks.wait()).await.is_err() {
            tracing::warn!(?grace, "some work on devices is late to stop");
        }
        self.keeping.end();
    }
}
