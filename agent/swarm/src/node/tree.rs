//! Routes without a tracker: trees that every node works out for itself from the members it knows.
//!
//! Each stripe has its own order of the members, by hash of stripe and identity, so each stripe has
//! its own root and nobody is the root of all. In a zone the parent of rank r is rank (r - 1) / 2; the
//! first of each zone form such a tree among themselves, and its first reads the registry. A parent
//! always comes before its child in an order that does not depend on who else is known, so nodes that
//! know different members still never wait for each other in a ring.

use std::sync::Arc;

use tranship_format::Digest;
use tranship_format::wire::{MAX_PARENTS, Member, PeerId};

use crate::StripeId;

/// The nodes to ask for a stripe, best first: the parent, then its ancestors. None for the root.
pub(super) fn parents<'a>(
    id: StripeId,
    me: &'a Arc<Member>,
    others: impl Iterator<Item = &'a Arc<Member>>,
) -> Vec<Arc<Member>> {
    let mut ranked: Vec<(Digest, &Arc<Member>)> = others
        .filter(|other| other.peer != me.peer)
        .chain([me])
        .map(|member| (rank(id, &member.peer), member))
        .collect();
    ranked.sort_unstable_by_key(|(rank, member)| (*rank, member.peer));
    let in_zone: Vec<&Arc<Member>> = ranked
        .iter()
        .map(|&(_, member)| member)
        .filter(|member| member.zone == me.zone)
        .collect();
    let mut parents = ancestors(&in_zone, &me.peer);
    let head = in_zone.first().map_or(me.peer, |head| head.peer);
    let mut heads: Vec<&Arc<Member>> = Vec::new();
    for (_, member) in &ranked {
        if heads.iter().all(|known| known.zone != member.zone) {
            heads.push(member);
        }
    }
    parents.extend(ancestors(&heads, &head));
    parents.truncate(MAX_PARENTS);
    parents.into_iter().cloned().collect()
}

/// The line from the parent of `of` up to the first of `order`.
fn ancestors<'a>(order: &[&'a Arc<Member>], of: &PeerId) -> Vec<&'a Arc<Member>> {
    let mut line = Vec::new();
    let mut place = order
        .iter()
        .position(|member| member.peer == *of)
        .unwrap_or(0);
    while place > 0 {
        place = (place - 1) / 2;
        line.extend(order.get(place).copied());
    }
    line
}

fn rank(id: StripeId, peer: &PeerId) -> Digest {
    let mut bytes = Vec::with_capacity(36 + peer.as_bytes().len());
    bytes.extend_from_slice(id.blob.bytes());
    bytes.extend_from_slice(&id.number.to_le_bytes());
    bytes.extend_from_slice(peer.as_bytes());
    Digest::of(&bytes)
}
