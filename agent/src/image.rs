//! From a reference to an open image: manifest, chunk tables, lazy blobs, merged disk.
//!
//! The chain of trust is walked here. A manifest has the digest that was asked for; its annotations name the digest of
//! each layer's chunk table; a table is taken only with that digest; and from then on chunks may come from anyone. Blobs
//! of other tools have no table: those are read whole, must have their own digest, and get a table made here, unless the
//! operator trusts the proofs that lie beside them.
//!
//! What was learnt is kept, so that the same image opens again without any network.

mod ends;
mod error;
mod lazy_form;
mod open;
mod proof;
mod resolve;
mod table;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tranship_device::{BlockRead, BlockReadError};
use tranship_format::Digest;
use tranship_format::annotation::LayerAnnotations;
use tranship_source::fetch::Fetcher;
use tranship_source::manifest::Platform;
use tranship_source::net::SwarmNet;
use tranship_source::proof::TrustedProofs;
use tranship_source::registry::{RegistryClient, RegistryFailure, RegistryOptions};
use tranship_store::{BlobStore, ChunkStore};

use crate::control::FillInfo;
use crate::disk::ImageDisk;
use crate::lazy::LazyBlob;
use crate::metrics::Reads;
use crate::origin::ImageOrigin;
use crate::records::Records;
use crate::trace::FirstReads;
use crate::waits::Waits;

pub use error::OpenImageError;
pub(crate) use lazy_form::{LazyForm, NotLazy};
pub(crate) use proof::{Voucher, Vouchers};

pub(crate) use ends::chunks_of as opening_chunks;

/// What is kept of an image, under its manifest's digest.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ImageRecord {
    /// References that led to it, the latest one last.
    references: Vec<String>,
    /// The manifest, byte for byte.
    manifest: String,
    /// What the registry called it.
    media_type: String,
}

/// How images are opened.
#[derive(Clone, Debug)]
pub(crate) struct ImageOptions {
    pub(crate) registry: RegistryOptions,
    pub(crate) trusted_proofs: TrustedProofs,
    /// Whether the tracker's word on layers without a table counts.
    pub(crate) trust_tracker: bool,
    pub(crate) platform: Platform,
    pub(crate) block_cache_len: u64,
    pub(crate) read_deadline: Duration,
    pub(crate) read_ahead: u32,
    pub(crate) idle_images: usize,
}

/// An image whose manifest is known.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub(crate) reference: String,
    pub(crate) manifest: Digest,
    layers: Vec<LayerAnnotations>,
    /// How many of the layers make the device, from the bottom.
    shown: usize,
    origin: ImageOrigin,
}

impl Resolved {
    /// The layers that make the device.
    fn shown(&self) -> &[LayerAnnotations] {
        self.layers.get(..self.shown).unwrap_or(&self.layers)
    }

    /// The filesystem on the device.
    pub(crate) fn fs_name(&self) -> &str {
        self.shown().last().map_or("", LayerAnnotations::fs_name)
    }

    /// The image that the bottom layers alone make; all of them if there are no more.
    pub(crate) fn bottom(mut self, layer_count: Option<u32>) -> Self {
        let wanted = layer_count.and_then(|count| usize::try_from(count).ok());
        self.shown = wanted.map_or(self.layers.len(), |count| count.clamp(1, self.layers.len()));
        self
    }

    /// How many layers make the device, if those are not all.
    pub(crate) fn part(&self) -> Option<u32> {
        let is_part = self.shown < self.layers.len();
        is_part.then(|| u32::try_from(self.shown).unwrap_or(u32::MAX))
    }

    /// The blob of the uppermost layer that is shown.
    pub(crate) fn top_blob(&self) -> Option<Digest> {
        self.shown().last().map(|layer| layer.blob_digest)
    }
}

/// An image that devices read.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) manifest: Digest,
    pub(crate) fs_name: String,
    disk: Arc<ImageDisk>,
    layers: Vec<Arc<LazyBlob>>,
    waits: Arc<Waits>,
    first_reads: Arc<FirstReads>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Image {
    /// What front ends read from.
    pub(crate) fn content(&self) -> Arc<dyn BlockRead> {
        Arc::<ImageDisk>::clone(&self.disk)
    }

    /// Length of the device, in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.disk.len()
    }

    /// The layers' blobs, the bottom one first.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &BlobStore> {
        self.layers.iter().map(|layer| layer.blob())
    }

    /// One of its layers, counted from the bottom.
    pub(crate) fn layer(&self, layer: usize) -> Option<&Arc<LazyBlob>> {
        self.layers.get(layer)
    }

    /// Counts a read of a chunk that a device process made.
    pub(crate) fn touch(&self, layer: usize, chunk: u32) {
        let blob = self.layer(layer).map(|layer| layer.blob());
        if let Some((blob, index)) = blob.and_then(|blob| Some((blob, blob.table().index(chunk)?)))
        {
            blob.touch(index);
            self.first_reads.note(layer, chunk);
        }
    }

    /// What was read of it, in order.
    pub(crate) fn first_reads(&self) -> &Arc<FirstReads> {
        &self.first_reads
    }

    /// How much of it is here.
    pub(crate) fn fill(&self) -> FillInfo {
        self.blobs()
            .fold(FillInfo::default(), |sum, blob| FillInfo {
                present_len: sum.present_len.saturating_add(blob.present_len()),
                stored_len: sum.stored_len.saturating_add(blob.table().covered_len()),
            })
    }

    /// Whether every byte of it is here and proven.
    pub(crate) fn is_whole(&self) -> bool {
        self.layers.iter().all(|layer| layer.is_proven())
    }

    /// Reads the device's bytes for this node itself; it counts as no reader.
    pub(crate) fn read_plain(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockReadError> {
        self.disk.read(offset, buf)
    }

    /// Has blobs that are read by a proof checked as a whole, those of which all is here.
    pub(crate) fn check_whole(&self) {
        for layer in &self.layers {
            // A wrong one says so to its readers.
            let _ = layer.check_whole();
        }
    }

    /// Its reads that wait for a chunk.
    pub(crate) fn waits(&self) -> &Arc<Waits> {
        &self.waits
    }

    /// Ends with the image.
    pub(crate) fn stop_token(&self) -> &CancellationToken {
        &self.stop
    }

    /// Owns what goes on behind the image's reads.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }
}

/// Why images cannot be opened at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartImagesError {
    /// The state directory cannot be used.
    #[error("the state directory cannot be used")]
    State(#[from] io::Error),
    /// The HTTP client does not start.
    #[error("the registry client does not start")]
    Client(#[source] Box<RegistryFailure>),
}

/// Opens and closes images.
#[derive(Debug)]
pub(crate) struct Images {
    store: ChunkStore,
    net: Arc<SwarmNet>,
    client: RegistryClient,
    options: ImageOptions,
    records: Records<ImageRecord>,
    vouchers: Arc<Vouchers>,
    /// For blobs that are read whole.
    scratch: PathBuf,
    reads: Arc<Reads>,
    runtime: Handle,
    /// Images without a device that are still given to others, the longest without one first.
    idle: Mutex<VecDeque<Digest>>,
    /// How many open images have each blob, since images share layers.
    pins: Mutex<BTreeMap<Digest, u32>>,
}

impl Images {
    pub(crate) fn open_in(
        state_dir: &Path,
        store: ChunkStore,
        net: Arc<SwarmNet>,
        options: ImageOptions,
        reads: Arc<Reads>,
    ) -> Result<Self, StartImagesError> {
        let scratch = state_dir.join("scratch");
        // What lies there is half a blob of an earlier run.
        match std::fs::remove_dir_all(&scratch) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        std::fs::create_dir_all(&scratch)?;
        Ok(Self {
            store,
            net,
            client: RegistryClient::new(options.registry.clone())
                .map_err(|failure| StartImagesError::Client(Box::new(failure)))?,
            options,
            records: Records::open(state_dir.join("images"))?,
            vouchers: Arc::new(Vouchers::open(state_dir.join("proofs"))?),
            scratch,
            reads,
            runtime: Handle::current(),
            idle: Mutex::default(),
            pins: Mutex::default(),
        })
    }

    /// Bytes of disk and files that a blob takes here.
    pub(crate) fn disk_usage(&self, blob: &Digest) -> (u64, u64) {
        let known = self.store.known(blob);
        known.map_or((0, 0), |blob| blob.disk_usage())
    }

    /// How images are opened.
    pub(crate) fn options(&self) -> &ImageOptions {
        &self.options
    }

    /// The store's directory.
    pub(crate) fn store_dir(&self) -> PathBuf {
        let dir = self.store.dir();
        // Device processes work in another directory than this one.
        std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned())
    }

    /// Gets chunks of open images.
    pub(crate) fn fetcher(&self) -> &Fetcher {
        self.net.fetcher()
    }

    /// Ends an image's reads and tasks. Its chunks stay, and are given to others until as many other images as the
    /// configuration says have closed after it.
    pub(crate) async fn close(&self, image: &Image) {
        image.stop.cancel();
        image.tasks.close();
        image.tasks.wait().await;
        self.unpin(image.blobs().map(BlobStore::digest));
        let over = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push_back(image.manifest);
            if idle.len() > self.options.idle_images {
                idle.pop_front()
            } else {
                None
            }
        };
        if let Some(manifest) = over {
            self.net.close(manifest).await;
        }
    }

    /// Gives no image to others that has no device.
    async fn close_idle(&self) {
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        for manifest in idle {
            self.net.close(manifest).await;
        }
    }

    /// These blobs' chunks are evicted last from now on.
    fn pin(&self, blobs: impl Iterator<Item = Digest>) {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        for blob in blobs {
            let count = pins.entry(blob).or_default();
            *count = count.saturating_add(1);
            self.store.set_pinned(&blob, true);
        }
    }

    fn unpin(&self, blobs: impl Iterator<Item = Digest>) {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        for blob in blobs {
            let count = pins.entry(blob).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                pins.remove(&blob);
                self.store.set_pinned(&blob, false);
            }
        }
    }

    /// Whether the image is open for others only; it then counts as closed from here on.
    fn leave_idle(&self, manifest: Digest) -> bool {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let place = idle.iter().position(|other| *other == manifest);
        place.and_then(|place| idle.remove(place)).is_some()
    }
}
