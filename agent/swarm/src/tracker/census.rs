//! What the tracker lets others see of what it knows: its status page, metrics and tests.

use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::{Member, PeerId};

use super::Tracker;
use super::blobs::{Blob, key};
use crate::StripeId;

/// What the tracker knows, in numbers, for its status page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Members.
    pub members: usize,
    /// Blobs open.
    pub blobs: usize,
    /// Members registered, summed over all stripes.
    pub registrations: usize,
    /// Leases held.
    pub leases: usize,
    /// Bans remembered.
    pub bans: usize,
}

/// A member as the tracker sees it.
#[derive(Clone, Copy, Debug)]
pub struct MemberView<'a> {
    /// Who and where.
    pub member: &'a Member,
    /// How busy it said that it is, of 1,000.
    pub load_permille: u16,
    /// Nobody's parent for a while, by the word of three others.
    pub is_slow: bool,
    /// Nobody's parent because it sent wrong chunks, by the word of two others.
    pub is_shunned: bool,
    /// Blobs that it has open.
    pub blob_count: usize,
}

/// A blob as the tracker sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlobView {
    /// Chunks in it, by the largest claim.
    pub chunk_count: u32,
    /// Members that have it open.
    pub member_count: usize,
    /// Bytes read of the origin under leases, by the word of those who held them.
    pub origin_len: u64,
    /// The stripes that somebody has or gets, in order.
    pub stripes: Vec<StripeCount>,
}

/// How far a stripe has spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StripeCount {
    /// Its number in the blob.
    pub number: u32,
    /// Members that have it whole.
    pub holder_count: usize,
    /// Members that get it.
    pub in_flight_count: usize,
    /// Who reads the registry for it.
    pub lease_holder: Option<PeerId>,
}

/// One stripe as the tracker sees it, with who is whose parent: for tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StripeView {
    /// Which.
    pub stripe: StripeId,
    /// Who reads the registry for it.
    pub lease_holder: Option<PeerId>,
    /// Its members in the order they joined, each with its parents (of even chunks, and of odd ones)
    /// and whether it is complete.
    pub joiners: Vec<(PeerId, [Option<PeerId>; 2], bool)>,
}

impl Tracker {
    /// How much the tracker knows.
    pub fn census(&self) -> Census {
        Census {
            members: self.members.len(),
            blobs: self.blobs.len(),
            registrations: self.registrations,
            leases: self.leases.count(),
            bans: self.bans.len(),
        }
    }

    /// The members, by identity.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().map(|(_, standing)| &*standing.member)
    }

    /// The members with how they fare, by identity.
    pub fn standings(&self, now: Duration) -> impl Iterator<Item = MemberView<'_>> {
        self.members
            .iter()
            .map(move |(number, standing)| MemberView {
                member: &standing.member,
                load_permille: self
                    .members
                    .outline(number)
                    .map_or(0, |outline| outline.load_permille),
                is_slow: self.members.is_slow(now, number),
                is_shunned: self.is_shunned(&standing.member.peer),
                blob_count: standing.blobs.len(),
            })
    }

    /// The blobs that were opened; one digest comes once for each registry.
    pub fn blobs(&self) -> impl Iterator<Item = (Digest, BlobView)> {
        self.blobs.all().map(|blob| (blob.digest, self.view(blob)))
    }

    /// One blob of a registry.
    pub fn blob(&self, registry: &str, digest: &Digest) -> Option<BlobView> {
        let blob = self.blobs.get(&key(registry, digest));
        blob.map(|blob| self.view(blob))
    }

    fn view(&self, blob: &Blob) -> BlobView {
        let stripes = blob.stripes().iter();
        let stripes = stripes.map(|(&number, stripe)| {
            let all = stripe.joiners().len();
            let holder_count = stripe
                .joiners()
                .iter()
                .filter(|joiner| joiner.complete)
                .count();
            let holder = stripe
                .lease
                .and_then(|lease| self.members.get(lease.holder));
            StripeCount {
                number,
                holder_count,
                in_flight_count: all - holder_count,
                lease_holder: holder.map(|standing| standing.member.peer),
            }
        });
        BlobView {
            chunk_count: blob.chunk_count,
            member_count: blob.members.len(),
            origin_len: blob.origin_len,
            stripes: stripes.collect(),
        }
    }

    /// The bans, the latest last.
    pub fn bans(&self) -> impl Iterator<Item = &PeerId> {
        self.bans.iter()
    }

    /// All stripes.
    pub fn stripes(&self) -> impl Iterator<Item = StripeView> {
        let peer = |number| {
            self.members
                .get(number)
                .map(|standing| standing.member.peer)
        };
        self.blobs.iter().map(move |(id, stripe)| StripeView {
            stripe: id,
            lease_holder: stripe.lease.and_then(|lease| peer(lease.holder)),
            joiners: stripe
                .joiners()
                .iter()
                .filter_map(|joiner| {
                    let parents = stripe.parents(joiner.member);
                    let parents = parents.map(|parent| parent.and_then(peer));
                    Some((peer(joiner.member)?, parents, joiner.complete))
                })
                .collect(),
        })
    }
}
