//! Chunks near the registry, kept for whoever comes later.
//!
//! The seed is a member like any other, with a store and a place in the stripes'
//! trees. By itself it reads nothing that nobody asked for: a chunk comes to it
//! because a node wanted it of the seed, so what it reads of the registry is what
//! the nodes would have read, once. The operator may order it to fetch an image
//! whole, before anybody starts it (`seed/order.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tranship_format::wire::ImageSource;
use tranship_source::fetch::RegistryOrigin;
use tranship_source::proof::TrustedProofs;
use tranship_source::{OpenImage, RegistryClient, RepoRef, SwarmNet, places};
use tranship_store::{BlobStore, ChunkStore, StoreError};

use crate::status::SeedStatus;
use crate::tables::{self, LayerTable, TableError};
use order::Orders;

mod order;

pub(crate) use order::OrderError;

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
    opening: Semaphore,
    image_count: AtomicU64,
    /// Whether it takes part in each image that somebody opens.
    opens_all: bool,
    orders: Orders,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Seed {
    pub(crate) fn new(
        net: Arc<SwarmNet>,
        store: ChunkStore,
        client: RegistryClient,
        (allowed, trusted): (Vec<String>, TrustedProofs),
        opens_all: bool,
        (tasks, stop): (TaskTracker, CancellationToken),
    ) -> Self {
        Self {
            net,
            store,
            client,
            allowed,
            trusted,
            opening: Semaphore::new(OPENING),
            image_count: AtomicU64::new(0),
            opens_all,
            orders: Orders::default(),
            tasks,
            stop,
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
        let name = format!("{}/{}", image.registry, image.repository);
        let repo: RepoRef = name
            .parse()
            .map_err(|error| SeedError::Tables(TableError::Reference(error)))?;
        if !self.allowed.is_empty() && !places::cover(&self.allowed, &repo) {
            return Err(SeedError::NotAllowed);
        }
        let layers = tables::read(&self.client, &repo, image.manifest, &self.trusted);
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
        self.image_count.fetch_add(1, Relaxed);
        Ok(blobs)
    }

    pub(crate) fn status(&self) -> SeedStatus {
        SeedStatus {
            stored_len: self.store.used_len(),
            quota_len: self.store.options().quota_len,
            image_count: self.image_count.load(Relaxed),
            counters: self.net.counters().snapshot(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SeedError {
    #[error("read the chunk tables")]
    Tables(#[source] TableError),
    #[error("make room in the seed's store")]
    Store(#[source] StoreError),
    #[error("the registry is none of those that the settings allow")]
    NotAllowed,
    #[error("the seed has stopped")]
    Stopped,
}
