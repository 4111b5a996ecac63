//! What the operator orders of the seed: to fetch an image, or the part that a trace names, so that a start finds it near.
//!
//! The chunks are wanted in the lowest class, so that nodes that read at the same time go first, and they are the last to be
//! evicted. An order is given at once or refused at once; how far it is can be asked as long as it is remembered.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::stream::{FuturesUnordered, StreamExt};
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tranship_format::wire::ImageSource;
use tranship_format::{ChunkIndex, Digest};
use tranship_source::fetch::{Class, Fetcher};
use tranship_source::reference::ParseReferenceError;
use tranship_source::{ImageReference, RegistryFailure, Trace};
use tranship_store::BlobStore;

use super::part::Part;
use super::{Seed, SeedError};
use crate::message::{SeedJob, SeedState};
use crate::tables::TableError;

/// Orders remembered; one that is over makes room.
const MAX_ORDERS: usize = 256;
/// Images fetched at once; the others wait for their turn.
const AT_ONCE: usize = 2;
/// Chunks of an image on their way at once: a stripe, so that the registry is read in long ranges.
const IN_FLIGHT: usize = 64;

/// Why an order is not taken.
#[derive(Debug, Error)]
pub(crate) enum OrderError {
    #[error("understand the reference")]
    Reference(#[source] ParseReferenceError),
    #[error("{reference} does not name an image in a registry by its digest")]
    NoDigest { reference: String },
    #[error("{manifest} has no layer with a chunk table")]
    NotConverted { manifest: Digest },
    #[error("the trace is one of {of} and not of {manifest}")]
    OtherTrace { manifest: Digest, of: Digest },
    #[error("the trace names chunk {chunk} of {blob}, which the image does not have")]
    UnknownChunk { blob: Digest, chunk: u32 },
    #[error("the seed has {MAX_ORDERS} orders under way")]
    TooMany,
    #[error("take part in the image")]
    Image(#[source] SeedError),
}

impl OrderError {
    /// What the registry answered, if that is the reason.
    pub(crate) fn registry(&self) -> Option<&RegistryFailure> {
        match self {
            Self::Image(SeedError::Tables(TableError::Registry(error))) => Some(error.failure()),
            _ => None,
        }
    }
}

/// The orders by manifest.
#[derive(Debug)]
pub(super) struct Orders {
    known: Mutex<BTreeMap<Digest, Arc<Order>>>,
    turns: Arc<Semaphore>,
}

impl Default for Orders {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

#[derive(Debug)]
struct Order {
    image: ImageSource,
    blobs: Vec<BlobStore>,
    part: Part,
    stop: CancellationToken,
    course: Mutex<Course>,
}

#[derive(Clone, Debug, Default)]
struct Course {
    state: SeedState,
    failed_count: u64,
    failure: String,
}

impl Order {
    fn course(&self) -> MutexGuard<'_, Course> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn job(&self) -> SeedJob {
        let course = self.course().clone();
        SeedJob {
            registry: self.image.registry.clone(),
            repository: self.image.repository.clone(),
            manifest: self.image.manifest.to_string(),
            state: course.state,
            by_trace: self.part != Part::Whole,
            present_len: self.present_len(),
            total_len: self.total_len(),
            failed_count: course.failed_count,
            failure: course.failure,
        }
    }

    fn present_len(&self) -> u64 {
        self.part.present_len(&self.blobs)
    }

    fn total_len(&self) -> u64 {
        self.part.len(&self.blobs)
    }

    fn is_over(&self) -> bool {
        self.stop.is_cancelled() || self.course().state != SeedState::Fetching
    }
}

impl Seed {
    /// Fetches an image from now on, or what a trace names of it. What is being fetched already, or was, is not begun anew
    /// but for what is missing; an order for another part of the same image takes the place of the one before.
    pub(crate) async fn order(
        &self,
        reference: &str,
        trace: Option<&Trace>,
    ) -> Result<SeedJob, OrderError> {
        let parsed: ImageReference = reference.parse().map_err(OrderError::Reference)?;
        let no_digest = || OrderError::NoDigest {
            reference: reference.to_owned(),
        };
        let ImageReference::Registry(parsed) = parsed else {
            return Err(no_digest());
        };
        let manifest = parsed.digest.ok_or_else(no_digest)?;
        let image = ImageSource {
            registry: parsed.repo.host().to_string(),
            repository: parsed.repo.path().to_owned(),
            manifest,
        };
        let known = self.orders().get(&manifest).cloned();
        // The seed still takes part in it.
        let known = known.filter(|order| order.course().state != SeedState::Stopped);
        let is_new = known.is_none();
        let blobs = match &known {
            Some(order) => order.blobs.clone(),
            None => self.join_image(&image).await.map_err(OrderError::Image)?,
        };
        let part = if blobs.is_empty() {
            Err(OrderError::NotConverted { manifest })
        } else {
            Part::of(trace, manifest, &blobs)
        };
        let part = match part {
            Ok(part) => part,
            Err(error) => {
                if is_new {
                    self.net.close(manifest).await;
                }
                return Err(error);
            }
        };
        let order = Arc::new(Order {
            image,
            blobs,
            part,
            stop: self.stop.child_token(),
            course: Mutex::default(),
        });
        let taken = self.remember(manifest, &order);
        if is_new && !matches!(taken, Taken::First) {
            // Somebody else's order came meanwhile, and the seed takes part in the image on its account.
            self.net.close(manifest).await;
        }
        if let Taken::Not(instead) = taken {
            return instead;
        }
        for blob in &order.blobs {
            self.store.set_pinned(&blob.digest(), true);
        }
        let room_len = self.room_len();
        let (fetcher, turns) = (self.net.fetcher().clone(), Arc::clone(&self.orders.turns));
        let under_way = Arc::clone(&order);
        self.tasks.spawn(async move {
            let fetching = fetch(&under_way, room_len, &fetcher, &turns);
            let state = under_way.stop.run_until_cancelled(fetching).await;
            let state = state.unwrap_or(SeedState::Stopped);
            tracing::info!(%manifest, ?state, "an order to the seed is over");
            under_way.course().state = state;
        });
        Ok(order.job())
    }

    /// Takes an order back; the seed keeps what it has and takes no more part in the image on its account.
    /// `None` if there is no such order.
    pub(crate) async fn take_back(&self, manifest: &Digest) -> Option<SeedJob> {
        let order = self.orders().remove(manifest)?;
        order.stop.cancel();
        order.course().state = SeedState::Stopped;
        for blob in &order.blobs {
            self.store.set_pinned(&blob.digest(), false);
        }
        self.net.close(*manifest).await;
        Some(order.job())
    }

    /// How an order fares.
    pub(crate) fn job(&self, manifest: &Digest) -> Option<SeedJob> {
        self.orders().get(manifest).map(|order| order.job())
    }

    /// How all orders fare.
    pub(crate) fn jobs(&self) -> Vec<SeedJob> {
        self.orders().values().map(|order| order.job()).collect()
    }

    /// What the store holds without evicting.
    fn room_len(&self) -> u64 {
        let options = self.store.options();
        options.quota_len / 100 * u64::from(options.low_water_percent)
    }

    fn orders(&self) -> MutexGuard<'_, BTreeMap<Digest, Arc<Order>>> {
        self.orders
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, manifest: Digest, order: &Arc<Order>) -> Taken {
        let mut orders = self.orders();
        let known = orders.get(&manifest);
        if let Some(known) = known {
            if !known.is_over() && known.part == order.part {
                return Taken::Not(Ok(known.job()));
            }
            known.stop.cancel();
        } else if orders.len() >= MAX_ORDERS {
            let over = orders.iter().find(|(_, order)| order.is_over());
            let Some(over) = over.map(|(manifest, _)| *manifest) else {
                return Taken::Not(Err(OrderError::TooMany));
            };
            orders.remove(&over);
        }
        match orders.insert(manifest, Arc::clone(order)) {
            Some(_) => Taken::InPlace,
            None => Taken::First,
        }
    }
}

/// What becomes of an order.
enum Taken {
    /// It is the first for its image.
    First,
    /// It takes the place of another one for its image.
    InPlace,
    /// It is not taken; this is the answer.
    Not(Result<SeedJob, OrderError>),
}

/// Fetches what is missing, as far as it fits: beyond that each chunk would only push out another.
async fn fetch(order: &Order, room_len: u64, fetcher: &Fetcher, turns: &Semaphore) -> SeedState {
    let Ok(_turn) = turns.acquire().await else {
        return SeedState::Stopped;
    };
    let mut left_len = room_len.saturating_sub(order.present_len());
    let mut coming = FuturesUnordered::new();
    for (blob, index) in order.part.chunks(&order.blobs) {
        if blob.has(index) {
            continue;
        }
        let len = blob.table().range(index).len();
        let Some(left) = left_len.checked_sub(len) else {
            break;
        };
        left_len = left;
        if coming.len() >= IN_FLIGHT {
            coming.next().await;
        }
        coming.push(fetch_one(order, fetcher, blob, index));
    }
    while coming.next().await.is_some() {}
    if order.course().failed_count > 0 {
        SeedState::Incomplete
    } else if order.present_len() < order.total_len() {
        SeedState::Full
    } else {
        SeedState::Complete
    }
}

async fn fetch_one(order: &Order, fetcher: &Fetcher, blob: &BlobStore, index: ChunkIndex) {
    if let Err(error) = fetcher.chunk(blob, index, Class::Background).await {
        let mut course = order.course();
        course.failed_count += 1;
        if course.failure.is_empty() {
            course.failure = error.to_string();
        }
    }
}
