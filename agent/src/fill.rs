//! The rest of an attached image, fetched behind everybody's back.
//!
//! It takes the lowest class in every queue, has few chunks under way, and ends when the store keeps no more of them:
//! fetching what is thrown away at once helps nobody.

use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use tranship_format::ChunkIndex;
use tranship_source::fetch::{Class, Fetcher};
use tranship_store::BlobStore;

use crate::image::Image;
use crate::lazy::copy_or_fetch;

/// Begins to fetch what is missing of `image`, `at_once` chunks at a time, until it is complete or closed.
pub(crate) fn begin(image: &Arc<Image>, fetcher: &Fetcher, at_once: usize) {
    let (stop, fetcher) = (image.stop_token().clone(), fetcher.clone());
    let blobs: Vec<BlobStore> = image.blobs().cloned().collect();
    let (manifest, weak) = (image.manifest, Arc::downgrade(image));
    image.tasks().spawn(async move {
        let filled = stop.run_until_cancelled(fill(blobs, fetcher, at_once.max(1))).await;
        match filled {
            Some(true) => {
                tracing::info!(%manifest, "an image is wholly here");
                if let Some(image) = weak.upgrade() {
                    image.check_whole();
                }
            }
            Some(false) => tracing::info!(%manifest, "the store has no room for the rest of an image; it stays lazy"),
            None => {}
        }
    });
}

/// `false` when the store has no more room.
async fn fill(blobs: Vec<BlobStore>, fetcher: Fetcher, at_once: usize) -> bool {
    let mut under_way = FuturesUnordered::new();
    for blob in &blobs {
        for index in blob.table().all().filter(|index| !blob.has(*index)) {
            if under_way.len() >= at_once && under_way.next().await == Some(false) {
                return false;
            }
            under_way.push(fill_one(blob, index, &fetcher));
        }
    }
    under_way.all(|kept| async move { kept }).await
}

/// `false` when the chunk came and was not kept.
async fn fill_one(blob: &BlobStore, index: ChunkIndex, fetcher: &Fetcher) -> bool {
    match copy_or_fetch(fetcher, blob, index, Class::Background).await {
        Ok(_) => blob.has(index),
        Err(error) => {
            // Whoever comes to need the chunk asks again, and hears of the error.
            tracing::debug!(blob = %blob.digest(), chunk = index.get(), %error, "a chunk is not filled in");
            true
        }
    }
}
