//! What the tracker lets others see of what it knows: its status page, metrics and tests.

use tranship_format::Digest;
use tranship_format::wire::{Member, PeerId};

use super::Tracker;
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

/// One stripe as the tracker sees it, for its status page and for tests.
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
            leases: self.leases.len(),
            bans: self.bans.len(),
        }
    }

    /// The members, by identity.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().map(|(_, standing)| &standing.member)
    }

    /// The blobs that are open, each with how many members have it open.
    pub fn blobs(&self) -> impl Iterator<Item = (Digest, usize)> {
        self.blobs.openers()
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
