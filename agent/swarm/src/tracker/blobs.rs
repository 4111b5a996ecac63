//! The blobs that members have open, and their stripes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tranship_format::Digest;

use super::stripe::{MemberNo, Stripe};
use crate::StripeId;

/// A blob.
#[derive(Debug, Default)]
pub(super) struct Blob {
    /// Chunks in it, by the largest claim: it only bounds which stripes may be named.
    chunk_count: u32,
    pub(super) used_at: Duration,
    stripes: BTreeMap<u32, Stripe>,
    /// Who has it open, by rank.
    pub(super) members: BTreeSet<(u64, MemberNo)>,
}

/// All blobs.
#[derive(Debug, Default)]
pub(super) struct Blobs {
    blobs: BTreeMap<Digest, Blob>,
}

impl Blobs {
    pub(super) fn len(&self) -> usize {
        self.blobs.len()
    }

    pub(super) fn get(&self, blob: &Digest) -> Option<&Blob> {
        self.blobs.get(blob)
    }

    pub(super) fn get_mut(&mut self, blob: &Digest) -> Option<&mut Blob> {
        self.blobs.get_mut(blob)
    }

    /// The blob, made if it is new, and whether it is.
    pub(super) fn open(
        &mut self,
        now: Duration,
        digest: Digest,
        chunk_count: u32,
    ) -> (&mut Blob, bool) {
        let new = !self.blobs.contains_key(&digest);
        let blob = self.blobs.entry(digest).or_default();
        blob.used_at = now;
        blob.chunk_count = blob.chunk_count.max(chunk_count);
        (blob, new)
    }

    /// The blob that was opened or asked about longest ago.
    pub(super) fn oldest(&self) -> Option<Digest> {
        self.blobs
            .iter()
            .min_by_key(|(_, blob)| blob.used_at)
            .map(|(&digest, _)| digest)
    }

    pub(super) fn remove(&mut self, digest: &Digest) -> Option<Blob> {
        self.blobs.remove(digest)
    }

    pub(super) fn stripe_count(&self, digest: &Digest, stripe_chunks: u32) -> u32 {
        self.get(digest)
            .map_or(0, |blob| blob.chunk_count.div_ceil(stripe_chunks.max(1)))
    }

    pub(super) fn stripe(&self, id: StripeId) -> Option<&Stripe> {
        self.get(&id.blob)?.stripes.get(&id.number)
    }

    /// The stripe, made if its blob is open.
    pub(super) fn stripe_mut(&mut self, id: StripeId) -> Option<&mut Stripe> {
        Some(
            self.get_mut(&id.blob)?
                .stripes
                .entry(id.number)
                .or_default(),
        )
    }

    pub(super) fn forget_if_empty(&mut self, id: StripeId) {
        if let Some(blob) = self.get_mut(&id.blob)
            && blob.stripes.get(&id.number).is_some_and(Stripe::is_empty)
        {
            blob.stripes.remove(&id.number);
        }
    }

    /// How many members have each blob open.
    pub(super) fn openers(&self) -> impl Iterator<Item = (Digest, usize)> {
        let blobs = self.blobs.iter();
        blobs.map(|(&digest, blob)| (digest, blob.members.len()))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (StripeId, &Stripe)> {
        self.blobs.iter().flat_map(|(&digest, blob)| {
            blob.stripes.iter().map(move |(&number, stripe)| {
                (
                    StripeId {
                        blob: digest,
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
