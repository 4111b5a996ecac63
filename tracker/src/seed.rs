//! Chunks near the registry, kept for whoever comes later.
//!
//! The seed is a member like any other, with a store and a place in the stripes'
//! trees. By itself it reads nothing that nobody asked for: a chunk comes to it
//! because a node wanted it of the seed, so what it reads of the registry is what
//! the nodes would have read, once. A blob without a chunk table it reads whole when a
//! node asks for its proof (`seed/proving.rs`). The operator may order it to fetch an
//! image, or what a start reads of it, before anybody starts it (`seed/order.rs`).

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tranship_format::Digest;
use tranship_format::wire::ImageSource;
use tranship_source::fetch::RegistryOrigin;
use tranship_source::proof::TrustedProofs;
use tranship_source::{OpenImage, RegistryClient, RepoRef, SwarmNet, places};
use tranship_store::{BlobStore, ChunkStore, StoreError};

use crate::proofs::Proofs;
use crate::status::SeedStatus;
use crate::tables::{self, LayerTable, TableError};
use order::Orders;

mod order;
mod part;
mod proving;

pub(crate) use order::OrderError;
pub(crate) use proving::unproven;

/// Images whose tables are read at once: each may take many megabytes of memory.
const OPENING: usize = 4;

/// The tracker's own member of the swarm.
#[derive(Debug)]
pub(crate) struct Seed {
    net: Arc<SwarmNet>,
    store: ChunkStore,
    client: RegistryClient,
    /// Registries, or parts of them, that it reads; all if empty.
    allowed: Vec<String>,
    trusted: TrustedProofs,
    proofs: Arc<Proofs>,
    /// For blobs that are read whole.
    scratch: PathBuf,
    opening: Semaphore,
    images: Mutex<BTreeSet<Digest>>,
    /// Whether it takes part in each image that somebody opens.
    opens_all: bool,
    orders: Orders,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What a seed is made of.
#[derive(Debug)]
pub(crate) struct SeedParts {
    pub(crate) net: Arc<SwarmNet>,
    pub(crate) store: ChunkStore,
    pub(crate) client: RegistryClient,
    pub(crate) allowed: Vec<String>,
    pub(crate) trusted: TrustedProofs,
    pub(crate) proofs: Proofs,
    pub(crate) scratch: PathBuf,
    pub(crate) opens_all: bool,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Seed {
    pub(crate) fn new(parts: SeedParts) -> Self {
        Self {
            net: parts.net,
            store: parts.store,
            client: parts.client,
            allowed: parts.allowed,
            trusted: parts.trusted,
            proofs: Arc::new(parts.proofs),
            scratch: parts.scratch,
            opening: Semaphore::new(OPENING),
            images: Mutex::default(),
            opens_all: parts.opens_all,
            orders: Orders::default(),
            tasks: parts.tasks,
            stop: parts.stop,
        }
    }

    /// Takes part in an image that somebody opened. An image that the seed may not
    /// or cannot read is left to the nodes.
    pub(crate) async fn open(&self, image: ImageSource) {
        if !self.opens_all {
            return;
        }
        if image.registry.is_empty() {
            tracing::debug!(manifest = %image.manifest, "an image that no registry has is left to the nodes");
            return;
        }
        let Ok(_turn) = self.opening.acquire().await else {
            return;
        };
        let joined = Box::pin(self.stop.run_until_cancelled(self.join_image(&image))).await;
        match joined.unwrap_or(Err(SeedError::Stopped)) {
            Ok(_) => {
                tracing::info!(
                    registry = image.registry,
                    repository = image.repository,
                    manifest = %image.manifest,
                    "the seed takes part in an image"
                );
            }
            Err(error) => tracing::warn!(
                registry = image.registry,
                repository = image.repository,
                manifest = %image.manifest,
                error = &error as &dyn std::error::Error,
                "the seed cannot take part in an image"
            ),
        }
    }

    /// Takes part in an image; gives its blobs in the seed's store.
    async fn join_image(&self, image: &ImageSource) -> Result<Vec<BlobStore>, SeedError> {
        let repo = self.repo_of(image)?;
        let sources = (&self.trusted, &self.proofs);
        let layers = tables::read(&self.client, &repo, image.manifest, sources);
        let layers = layers.await.map_err(SeedError::Tables)?;
        let store = self.store.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let open = |layer: LayerTable| store.blob(layer.digest, layer.len, layer.table);
            layers.into_iter().map(open).collect::<Result<Vec<_>, _>>()
        });
        let blobs = match opened.await {
            Ok(blobs) => blobs.map_err(SeedError::Store)?,
            Err(_) => return Err(SeedError::Stopped),
        };
        let open = OpenImage {
            manifest: image.manifest,
            registry: image.registry.clone(),
            repository: image.repository.clone(),
            blobs: blobs.clone(),
            origin: Arc::new(RegistryOrigin::new(self.client.clone(), repo)),
        };
        self.net.open(open).await.map_err(|_| SeedError::Stopped)?;
        self.images().insert(image.manifest);
        Ok(blobs)
    }

    /// Where the seed may read an image.
    fn repo_of(&self, image: &ImageSource) -> Result<RepoRef, SeedError> {
        let name = format!("{}/{}", image.registry, image.repository);
        let repo: RepoRef = name
            .parse()
            .map_err(|error| SeedError::Tables(TableError::Reference(error)))?;
        if !self.allowed.is_empty() && !places::cover(&self.allowed, &repo) {
            return Err(SeedError::NotAllowed);
        }
        Ok(repo)
    }

    fn images(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn status(&self) -> SeedStatus {
        SeedStatus {
            stored_len: self.store.used_len(),
            quota_len: self.store.options().quota_len,
            image_count: self.images().len() as u64,
            proof_count: self.proofs.made_count(),
            counters: self.net.counters().snapshot(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SeedError {
    #[error("the image has no such layer without a chunk table")]
    NoSuchLayer,
    #[error("read the whole blob")]
    Whole(#[source] io::Error),
    #[error("keep the proof")]
    Keep(#[source] io::Error),
    #[error("read the chunk tables")]
    Tables(#[source] TableError),
    #[error("make room in the seed's store")]
    Store(#[source] StoreError),
    #[error("the registry is none of those that the settings allow")]
    NotAllowed,
    #[error("the seed has stopped")]
    Stopped,
}
