//! Devices of this node: made once however many ask, kept across restarts, taken away when nobody wants them.
//!
//! Each device is a slot with a lock of its own, so that a slow registry holds up one image and no other, and nobody who
//! only wants to look. What a slot should be is written down before it is made, so that a crash in between leaves nothing
//! that the next start does not know of.

mod error;
mod graduate;
mod holding;
mod left;
mod lifecycle;
mod mounting;
mod recover;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tranship_device::front_end::Probed;
use tranship_format::Digest;
use tranship_source::Trace;

use crate::control::{
    DeviceInfo, DeviceState, FrontEndChoice, FrontEndName, MountInfo, OrphanInfo, Unserved,
};
use crate::front_end::{FrontEndOptions, Presented};
use crate::image::{Image, Images};
use crate::keeping::Keeping;
use crate::metrics::Reads;
use crate::mounts::MountRecord;
use crate::plain::PlainBudget;
use crate::process::Supply;
use crate::records::Records;
use crate::stale;
use crate::trace::trace;
use crate::waits::{deadline, millis};

pub use error::DeviceError;
pub(crate) use holding::Holding;

/// How devices are made.
#[derive(Clone, Debug)]
pub(crate) struct DeviceOptions {
    /// For requests that leave it open.
    pub(crate) front_end: FrontEndChoice,
    pub(crate) bounds: FrontEndOptions,
    /// How long devices wait for another agent after this one has died.
    pub(crate) agent_patience: Duration,
    /// Whether each device has a process of its own.
    pub(crate) processes: bool,
    /// Whether stopping takes devices and mounts away.
    pub(crate) detach_on_stop: bool,
    /// Chunks under way at once to fill an attached image; `None` leaves it lazy.
    pub(crate) fill: Option<usize>,
    /// What plain files of graduated devices may take; `None` lets no device graduate.
    pub(crate) graduate: Option<PlainBudget>,
}

/// What is kept of a device.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct DeviceRecord {
    reference: String,
    plain_http: Option<bool>,
    manifest: Digest,
    /// How many of the image's layers make the device, from the bottom; `None` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layer_count: Option<u32>,
    front_end: FrontEndName,
    use_count: u32,
    mounts: Vec<MountRecord>,
    /// The digest of the plain file, once there is one that may be read. Whether the device is on it, the kernel knows.
    #[serde(default)]
    graduated: Option<Digest>,
    /// What reads do that no source serves.
    #[serde(default)]
    unserved: Unserved,
}

/// A device that answers reads.
#[derive(Debug)]
struct Attached {
    image: Arc<Image>,
    presented: Presented,
}

impl Attached {
    fn is_graduated(&self) -> bool {
        self.presented.is_graduated()
    }
}

/// What one slot should be and is; whoever changes either holds the lock.
#[derive(Debug, Default)]
struct Work {
    record: Option<DeviceRecord>,
    attached: Option<Attached>,
}

#[derive(Debug)]
struct Slot {
    id: String,
    work: tokio::sync::Mutex<Work>,
    /// How long its reads wait where nobody said otherwise.
    read_deadline: Duration,
    /// The last finished state, for those who only look.
    shown: Mutex<Option<Shown>>,
    /// How much room there must be before it is tried again to let the device graduate, in bytes.
    room_wanted_len: AtomicU64,
}

#[derive(Clone, Debug)]
struct Shown {
    info: DeviceInfo,
    image: Option<Arc<Image>>,
}

impl Slot {
    fn info(&self) -> Option<DeviceInfo> {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.as_ref().map(|shown| DeviceInfo {
            fill: shown
                .image
                .as_ref()
                .map(|image| image.fill())
                .unwrap_or_default(),
            waiting: shown.image.as_ref().and_then(|image| image.waits().look()),
            deadline_ms: millis(deadline(shown.info.unserved, self.read_deadline)),
            ..shown.info.clone()
        })
    }

    fn image(&self) -> Option<Arc<Image>> {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.as_ref().and_then(|shown| shown.image.clone())
    }

    /// Ends the reads that wait and all that come, without waiting for whoever holds the slot: it may be one of them.
    fn give_up_reads(&self) {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = shown.as_ref().and_then(|shown| shown.image.as_ref()) {
            image.stop_token().cancel();
        }
    }

    /// Whether there is a device that has not come back yet.
    fn is_recovering(&self) -> bool {
        self.info()
            .is_some_and(|info| info.state == DeviceState::Recovering)
    }

    fn has_new_room(&self, room_len: u64) -> bool {
        room_len >= self.room_wanted_len.load(Ordering::Relaxed)
    }

    fn note_room(&self, wanted_len: u64) {
        self.room_wanted_len.store(wanted_len, Ordering::Relaxed);
    }

    /// Shows what the slot is now.
    fn show(&self, work: &Work, run_dir: &Path) {
        let shown = work.record.as_ref().map(|record| {
            let attached = work.attached.as_ref();
            let info = DeviceInfo {
                id: self.id.clone(),
                reference: record.reference.clone(),
                manifest: record.manifest.to_string(),
                front_end: record.front_end,
                size: attached.map_or(0, |attached| attached.image.len()),
                path: attached.map_or_else(
                    || run_dir.to_path_buf(),
                    |attached| attached.presented.path().to_path_buf(),
                ),
                nbd_uri: attached.and_then(|attached| attached.presented.nbd_uri()),
                state: if attached.is_some() {
                    DeviceState::Attached
                } else {
                    DeviceState::Recovering
                },
                use_count: record.use_count,
                mounts: record
                    .mounts
                    .iter()
                    .map(|mount| mount_info(&self.id, mount))
                    .collect(),
                fill: crate::control::FillInfo::default(),
                graduated: attached.is_some_and(Attached::is_graduated),
                unserved: record.unserved,
                deadline_ms: 0,
                waiting: None,
                process: None,
            };
            Shown {
                info,
                image: attached.map(|attached| Arc::clone(&attached.image)),
            }
        });
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = shown;
    }
}

fn mount_info(id: &str, mount: &MountRecord) -> MountInfo {
    MountInfo {
        device: id.to_owned(),
        target: mount.target.clone(),
        writable: mount.overlay.is_some(),
    }
}

/// All devices of this node.
#[derive(Debug)]
pub(crate) struct Devices {
    images: Arc<Images>,
    options: DeviceOptions,
    keeping: Arc<Keeping>,
    /// Gives chunks to device processes, where devices have some.
    supply: Option<Arc<Supply>>,
    records: Records<DeviceRecord>,
    /// One directory a device, for sockets, FUSE mounts and what was written to writable mounts.
    run_dir: PathBuf,
    slots: Mutex<BTreeMap<String, Arc<Slot>>>,
    /// Held while a mount point is chosen and taken, so that no two devices take the same.
    targets: tokio::sync::Mutex<()>,
    probed: OnceCell<Vec<Probed>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Devices {
    pub(crate) fn open_in(
        state_dir: &Path,
        images: Arc<Images>,
        options: DeviceOptions,
        reads: Arc<Reads>,
    ) -> io::Result<Self> {
        let run_dir = state_dir.join("run");
        std::fs::create_dir_all(&run_dir)?;
        // The kernel shows paths without symbolic links, and ours are compared with what it shows.
        let run_dir = run_dir.canonicalize()?;
        let tasks = TaskTracker::new();
        let supply = if options.processes {
            Some(Supply::begin(
                &run_dir,
                reads,
                options.agent_patience,
                &tasks,
            )?)
        } else {
            None
        };
        Ok(Self {
            images,
            supply,
            keeping: Keeping::begin(&run_dir, options.agent_patience),
            options,
            records: Records::open(state_dir.join("devices"))?,
            run_dir,
            slots: Mutex::default(),
            targets: tokio::sync::Mutex::default(),
            probed: OnceCell::new(),
            tasks,
            stop: CancellationToken::new(),
        })
    }

    /// All devices, by id.
    pub(crate) fn list(&self) -> Vec<DeviceInfo> {
        let process = |id: &str| self.supply.as_ref()?.process(id);
        self.all_slots()
            .iter()
            .filter_map(|slot| slot.info())
            .map(|info| DeviceInfo {
                process: process(&info.id),
                ..info
            })
            .collect()
    }

    /// What was read of a device since this daemon has it, in order.
    pub(crate) fn trace(&self, id: &str) -> Result<Trace, DeviceError> {
        let image = self.slot(id)?.image();
        let recovering = || DeviceError::Recovering { id: id.to_owned() };
        image.map(|image| trace(&image)).ok_or_else(recovering)
    }

    /// What is ours in the kernel or with the keeper and belongs to no device. The next start clears it away.
    pub(crate) async fn orphans(self: &Arc<Self>) -> Result<Vec<OrphanInfo>, DeviceError> {
        let devices = Arc::clone(self);
        let known: Vec<String> = self
            .all_slots()
            .iter()
            .map(|slot| slot.id.clone())
            .collect();
        self.blocking(move || {
            let is_orphan = |id: &str| !known.iter().any(|known| known == id);
            let mut found = stale::find(&devices.run_dir, is_orphan);
            let held = devices.keeping.names().into_iter();
            found.extend(
                held.filter(|(id, _)| is_orphan(id))
                    .map(|(device, part)| OrphanInfo {
                        kind: "kept".to_owned(),
                        what: format!("{device}/{part}"),
                        device,
                    }),
            );
            found
        })
        .await
    }

    fn all_slots(&self) -> Vec<Arc<Slot>> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.values().cloned().collect()
    }

    fn slot(&self, id: &str) -> Result<Arc<Slot>, DeviceError> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots
            .get(id)
            .cloned()
            .ok_or_else(|| DeviceError::NoSuchDevice { id: id.to_owned() })
    }

    fn slot_or_new(&self, id: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.entry(id.to_owned()).or_insert_with(|| {
            Arc::new(Slot {
                id: id.to_owned(),
                work: tokio::sync::Mutex::default(),
                read_deadline: self.images.options().read_deadline,
                shown: Mutex::default(),
                room_wanted_len: AtomicU64::new(0),
            })
        });
        Arc::clone(slot)
    }

    /// Forgets a slot that holds nothing, unless somebody else is about to use it.
    fn tidy(&self, slot: &Arc<Slot>) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // One is the map's and one the caller's.
        if Arc::strong_count(slot) <= 2 && slot.info().is_none() {
            slots.remove(&slot.id);
        }
    }

    fn device_dir(&self, id: &str) -> PathBuf {
        self.run_dir.join(id)
    }

    /// Runs blocking work of devices; it is finished even when nobody waits for it any more.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, DeviceError> {
        self.tasks
            .spawn_blocking(work)
            .await
            .map_err(|_| DeviceError::Stopping)
    }
}
