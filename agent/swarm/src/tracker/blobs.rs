//! The blobs that members have open, and their stripes.
//!
//! A blob is known by its registry and its digest together: those who may have it by the word of one
//! registry are nobody to those who may by the word of another. Inside the machine a key of both takes
//! the place of the digest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tranship_format::Digest;

use tranship_format::wire::BlobInfo;

use super::room::FanOut;
use super::stripe::{MemberNo, Stripe};
use crate::StripeId;

/// A blob.
#[derive(Debug)]
pub(super) struct Blob {
    /// What members call it.
    pub(super) digest: Digest,
    /// Chunks in it, by the largest claim: it only bounds which stripes may be named.
    pub(super) chunk_count: u32,
    pub(super) used_at: Duration,
    stripes: BTreeMap<u32, Stripe>,
    /// Bytes read of the origin, by the word of those who held leases.
    pub(super) origin_len: u64,
    /// Who has it open, by rank.
    pub(super) members: BTreeSet<(u64, MemberNo)>,
}

/// The key of a blob of a registry.
pub(super) fn key(registry: &str, blob: &Digest) -> Digest {
    let mut bytes = blob.bytes().to_vec();
    bytes.extend_from_slice(registry.as_bytes());
    Digest::of(&bytes)
}

/// All blobs, by key.
#[derive(Debug)]
pub(super) struct Blobs {
    blobs: BTreeMap<Digest, Blob>,
    fan_out: FanOut,
}

impl Blobs {
    pub(super) fn new(fan_out: FanOut) -> Self {
        Self {
            blobs: BTreeMap::new(),
            fan_out,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.blobs.len()
    }

    pub(super) fn get(&self, key: &Digest) -> Option<&Blob> {
        self.blobs.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &Digest) -> Option<&mut Blob> {
        self.blobs.get_mut(key)
    }

    /// The blob, made if it is new, and whether it is.
    pub(super) fn open(
        &mut self,
        now: Duration,
        key: Digest,
        info: &BlobInfo,
    ) -> (&mut Blob, bool) {
        let new = !self.blobs.contains_key(&key);
        let blob = self.blobs.entry(key).or_insert_with(|| Blob {
            digest: info.digest,
            chunk_count: 0,
            used_at: now,
            stripes: BTreeMap::new(),
            origin_len: 0,
            members: BTreeSet::new(),
        });
        blob.used_at = now;
        blob.chunk_count = blob.chunk_count.max(info.chunk_count);
        (blob, new)
    }

    /// The blob that was opened or asked about longest ago.
    pub(super) fn oldest(&self) -> Option<Digest> {
        self.blobs
            .iter()
            .min_by_key(|(_, blob)| blob.used_at)
            .map(|(&key, _)| key)
    }

    pub(super) fn remove(&mut self, key: &Digest) -> Option<Blob> {
        self.blobs.remove(key)
    }

    pub(super) fn stripe_count(&self, key: &Digest, stripe_chunks: u32) -> u32 {
        self.get(key)
            .map_or(0, |blob| blob.chunk_count.div_ceil(stripe_chunks.max(1)))
    }

    pub(super) fn stripe(&self, id: StripeId) -> Option<&Stripe> {
        self.get(&id.blob)?.stripes.get(&id.number)
    }

    /// The stripe, made if its blob is open.
    pub(super) fn stripe_mut(&mut self, id: StripeId) -> Option<&mut Stripe> {
        let fan_out = self.fan_out;
        let stripes = &mut self.get_mut(&id.blob)?.stripes;
        let stripe = stripes.entry(id.number);
        Some(stripe.or_insert_with(|| Stripe::new(fan_out)))
    }

    pub(super) fn forget_if_empty(&mut self, id: StripeId) {
        if let Some(blob) = self.get_mut(&id.blob)
            && blob.stripes.get(&id.number).is_some_and(Stripe::is_empty)
        {
            blob.stripes.remove(&id.number);
        }
    }

    /// Counts what the holder of a stripe's lease says that it has read so far.
    pub(super) fn count_origin(&mut self, id: StripeId, by: MemberNo, done_len: u64) {
        let Some(blob) = self.get_mut(&id.blob) else {
            return;
        };
        let lease = blob
            .stripes
            .get_mut(&id.number)
            .and_then(|stripe| stripe.lease.as_mut());
        if let Some(lease) = lease.filter(|lease| lease.holder == by) {
            let more_len = done_len.saturating_sub(lease.counted_len);
            lease.counted_len += more_len;
            blob.origin_len = blob.origin_len.saturating_add(more_len);
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Blob> {
        self.blobs.values()
    }

    /// All stripes, under their blobs' digests.
    pub(super) fn iter(&self) -> impl Iterator<Item = (StripeId, &Stripe)> {
        self.blobs.values().flat_map(|blob| {
            blob.stripes.iter().map(move |(&number, stripe)| {
                (
                    StripeId {
                        blob: blob.digest,
                        number,
                    },
                    stripe,
                )
            })
        })
    }
}

impl Blob {
    pub(super) fn stripes(&self) -> &BTreeMap<u32, Stripe> {
        &self.stripes
    }
}
