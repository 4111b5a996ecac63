//! Graduation: a device whose image is wholly on this node moves to a plain file, and back when the disk wants the room again.
//!
//! Once moved, a read no longer passes through any process of ours: nothing is left that could crash, be slow or be upgraded. The
//! file is written while the device goes on as it is, one device at a time; only the switch holds the device's lock. What a crash
//! leaves is told from what the kernel says, see [`recover`](super::recover).

use std::cmp::Reverse;
use std::error::Error;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tranship_format::Digest;
use tranship_store::BlobStore;

use crate::control::FrontEndName;
use crate::front_end::{FUSE_PARTS, FrontEndError, Presented};
use crate::image::Image;
use crate::plain::{self, PlainBudget, PlainError};

use super::{Attached, DeviceError, Devices, Slot, Work};

/// How often devices are looked at.
const ROUND: Duration = Duration::from_secs(1);
/// By how much the room must have grown before a file is tried again that did not find enough.
const MORE_ROOM_LEN: u64 = 64 << 20;
/// Devices with whose plain files a new one may share bytes. Each costs a pass of reading, and who has the most in common with it
/// is likely to have all that the next would have.
const MOST_NEIGHBOURS: usize = 4;
/// The part of an image, one in so many stored bytes, that it must have in common with another for that pass to be worth it.
const COMMON_SHARE: u64 = 16;

/// A device that may graduate.
struct Candidate {
    slot: Arc<Slot>,
    image: Arc<Image>,
    /// Of the plain file that is there already, if it holds what it should.
    digest: Option<Digest>,
}

impl Devices {
    /// Moves devices from now on, until the daemon stops.
    pub(crate) fn begin_graduation(self: &Arc<Self>) {
        let devices = Arc::clone(self);
        self.tasks.spawn(async move {
            // A round is never broken off: a device is on its way in some of them.
            while devices.graduation_round().await {
                let pause = devices.stop.run_until_cancelled(sleep(ROUND));
                if pause.await.is_none() {
                    return;
                }
            }
        });
    }

    /// Whether there may be something to do in another round.
    async fn graduation_round(&self) -> bool {
        let slots = self.all_slots();
        let graduated: Vec<Arc<Slot>> = slots
            .iter()
            .filter(|slot| slot.info().is_some_and(|info| info.graduated))
            .cloned()
            .collect();
        let Some(budget) = self.options.graduate else {
            for slot in &graduated {
                self.bring_down(slot, "the settings no longer allow it")
                    .await;
            }
            // Nobody sets it while the daemon runs; one that is busy is tried again.
            return !graduated.is_empty() || slots.iter().any(|slot| slot.is_recovering());
        };
        let free_len = match plain::free_len(&self.run_dir) {
            Ok(free_len) => free_len,
            Err(error) => {
                tracing::warn!(%error, "nobody knows how much of the disk is free; no device graduates");
                return true;
            }
        };
        let taken_len: u64 = slots.iter().map(|slot| self.plain_len(slot)).sum();
        if budget.is_passed(taken_len, free_len) {
            let largest = graduated.iter().max_by_key(|slot| self.plain_len(slot));
            if let Some(slot) = largest {
                self.bring_down(slot, "the disk wants its room").await;
            }
            return true;
        }
        for slot in slots {
            if !self.stop.is_cancelled() {
                self.consider(slot, budget, taken_len, free_len).await;
            }
        }
        true
    }

    fn plain_len(&self, slot: &Slot) -> u64 {
        plain::taken_len(&plain::path_in(&self.device_dir(&slot.id)))
    }

    async fn consider(&self, slot: Arc<Slot>, budget: PlainBudget, taken_len: u64, free_len: u64) {
        let Some(candidate) = candidate(&slot) else {
            return;
        };
        let own_len = self.plain_len(&slot);
        let room_len = budget.room_len(taken_len.saturating_sub(own_len), free_len);
        // What is stored is compressed: it never takes less when it is plain.
        if room_len < candidate.image.fill().present_len || !slot.has_new_room(room_len) {
            return;
        }
        match self.write_plain(&candidate, room_len).await {
            Ok(digest) => self.move_up(&candidate, digest).await,
            Err(error @ (PlainError::Stopping | PlainError::NotWhole)) => {
                tracing::debug!(device = slot.id, %error, "a device does not graduate now");
            }
            Err(error) => {
                slot.note_room(room_len.saturating_add(MORE_ROOM_LEN));
                tracing::warn!(
                    device = slot.id,
                    error = &error as &dyn Error,
                    "a device does not graduate"
                );
            }
        }
    }

    /// Writes the plain file, or believes the one that is there if it holds what it should.
    async fn write_plain(
        &self,
        candidate: &Candidate,
        room_len: u64,
    ) -> Result<Digest, PlainError> {
        let (image, dir) = (
            Arc::clone(&candidate.image),
            self.device_dir(&candidate.slot.id),
        );
        let (digest, stop) = (candidate.digest, self.stop.clone());
        let neighbours = self.neighbours(candidate);
        let image_stop = image.stop_token().clone();
        let writing = candidate.image.tasks().spawn_blocking(move || {
            let is_stopping = || stop.is_cancelled() || image_stop.is_cancelled();
            if let Some(digest) = digest
                && plain::holds(&dir, image.len(), digest, &is_stopping)?
            {
                return Ok(digest);
            }
            plain::write(&image, &dir, room_len, &neighbours, &is_stopping)
        });
        writing.await.unwrap_or(Err(PlainError::Stopping))
    }

    /// Plain files of devices whose images have layers in common with this one's, that with the most of them first.
    fn neighbours(&self, candidate: &Candidate) -> Vec<PathBuf> {
        let own = &candidate.image;
        let mut found: Vec<(u64, PathBuf)> = self
            .all_slots()
            .iter()
            .filter(|slot| slot.id != candidate.slot.id)
            .filter_map(|slot| {
                let common_len = common_len(own, slot.image()?.as_ref());
                let path = plain::path_in(&self.device_dir(&slot.id));
                Some((common_len, path))
            })
            .filter(|(common_len, path)| {
                *common_len > own.fill().stored_len / COMMON_SHARE && path.exists()
            })
            .collect();
        found.sort_by_key(|(common_len, _)| Reverse(*common_len));
        found.truncate(MOST_NEIGHBOURS);
        found.into_iter().map(|(_, path)| path).collect()
    }

    /// Puts the device on its plain file, if it still is the one for which that was written.
    async fn move_up(&self, candidate: &Candidate, digest: Digest) {
        let slot = &candidate.slot;
        let mut work = slot.work.lock().await;
        let is_same = work
            .attached
            .as_ref()
            .is_some_and(|attached| Arc::ptr_eq(&attached.image, &candidate.image));
        if !is_same || self.stop.is_cancelled() {
            return;
        }
        if let Some(record) = &mut work.record {
            record.graduated = Some(digest);
        }
        if let Err(error) = self.save(slot, &work) {
            warn(slot, &error, "a device does not graduate");
            return;
        }
        let plain = plain::path_in(&self.device_dir(&slot.id));
        let (keeping, id) = (Arc::clone(&self.keeping), slot.id.clone());
        let moved = self.change(&mut work, move |presented| {
            let (presented, outcome) = presented.graduate(&plain);
            let ended = outcome.and_then(|fuse| fuse.map_or(Ok(()), |fuse| Ok(fuse.stop()?)));
            if presented.is_graduated() {
                keeping.let_go(&id, &FUSE_PARTS);
            }
            (presented, ended)
        });
        match moved.await {
            Ok(()) => tracing::info!(
                device = slot.id,
                "a device has graduated: it reads a plain file of this node"
            ),
            Err(error) => warn(slot, &error, "a device does not graduate as it should"),
        }
        slot.show(&work, &self.device_dir(&slot.id));
    }

    /// Puts a device back on its FUSE file and removes the plain one.
    async fn bring_down(&self, slot: &Slot, why: &'static str) {
        let mut work = slot.work.lock().await;
        if !work.attached.as_ref().is_some_and(Attached::is_graduated) {
            return;
        }
        let dir = self.device_dir(&slot.id);
        let (keeping, id, bounds) = (
            Arc::clone(&self.keeping),
            slot.id.clone(),
            self.options.bounds,
        );
        let Some(image) = work
            .attached
            .as_ref()
            .map(|attached| Arc::clone(&attached.image))
        else {
            return;
        };
        let server = self.server(slot, &image, FrontEndName::FuseLoop);
        let moved = self.change(&mut work, move |presented| {
            let hold = |part: &str, fd: BorrowedFd<'_>| keeping.keep(&id, part, fd);
            let (presented, outcome) = presented.come_back(&dir, server, bounds, hold);
            if outcome.is_ok() {
                plain::remove(&dir);
            } else {
                keeping.let_go(&id, &FUSE_PARTS);
            }
            (presented, outcome)
        });
        match moved.await {
            Ok(()) => {
                if let Some(record) = &mut work.record {
                    record.graduated = None;
                }
                if let Err(error) = self.save(slot, &work) {
                    warn(
                        slot,
                        &error,
                        "a device that came back stays on record as graduated",
                    );
                }
                tracing::info!(
                    device = slot.id,
                    why,
                    "a device no longer reads a plain file"
                );
            }
            Err(error) => warn(slot, &error, "a device stays on its plain file"),
        }
        slot.show(&work, &self.device_dir(&slot.id));
    }

    /// Has `change` done to what presents the device; the kernel may take its time.
    async fn change(
        &self,
        work: &mut Work,
        change: impl FnOnce(Presented) -> (Presented, Result<(), FrontEndError>) + Send + 'static,
    ) -> Result<(), DeviceError> {
        let Some(Attached { image, presented }) = work.attached.take() else {
            return Err(DeviceError::Stopping);
        };
        let (attached, outcome) = self
            .blocking(move || {
                let (presented, outcome) = change(presented);
                (Attached { image, presented }, outcome)
            })
            .await?;
        work.attached = Some(attached);
        Ok(outcome?)
    }
}

/// The slot, if its device is on a FUSE file and its image wholly here. One that somebody is about to change is passed over.
fn candidate(slot: &Arc<Slot>) -> Option<Candidate> {
    let work = slot.work.try_lock().ok()?;
    let (record, attached) = (work.record.as_ref()?, work.attached.as_ref()?);
    let is_fit = record.front_end == FrontEndName::FuseLoop
        && !attached.is_graduated()
        && attached.image.is_whole();
    is_fit.then(|| Candidate {
        slot: Arc::clone(slot),
        image: Arc::clone(&attached.image),
        digest: record.graduated,
    })
}

/// Stored bytes of the layers that both have. A layer lies at the same offsets of each device that it is part of.
fn common_len(one: &Image, other: &Image) -> u64 {
    let is_common =
        |blob: &&BlobStore| other.blobs().any(|theirs| theirs.digest() == blob.digest());
    let lens = one.blobs().filter(is_common);
    lens.map(|blob| blob.table().covered_len()).sum()
}

fn warn(slot: &Slot, error: &DeviceError, what: &'static str) {
    tracing::warn!(device = slot.id, error = error as &dyn Error, "{what}");
}
