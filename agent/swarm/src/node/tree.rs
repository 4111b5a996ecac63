//! Routes without a tracker: trees that every node works out for itself from the members it knows.
//!
//! Each stripe has its own order of the members, by hash of stripe and identity, so each stripe has
//! its own root and nobody is the root of all. In a zone the parent of rank r is rank (r - 1) / 2; the
//! first of each zone form such a tree among themselves, and its first reads the registry. A parent
//! always comes before its child in an order that does not depend on who else is known, so nodes that
//! know different members still never wait for each other in a ring.

use std::sync::Arc;

use tranship_format::Digest;
use tranship_format::wire::{MAX_PARENTS, Member, PeerId, Role};

use crate::StripeId;

/// The nodes to ask for a stripe, best first: the parent, then its ancestors. None for the root.
///
/// Of a large swarm everybody knows the same part. Who is not of that part (`is_left_out`) comes behind
/// it, as a leaf of some node that its hash picks: else each such node that hash puts first would think
/// itself the root.
pub(super) fn parents<'a>(
    id: StripeId,
    me: &'a Arc<Member>,
    is_left_out: bool,
    others: impl Iterator<Item = &'a Arc<Member>>,
) -> Vec<Arc<Member>> {
    let others = others.filter(|other| other.peer != me.peer);
    let mut ranked: Vec<(Digest, &Arc<Member>)> =
        others.map(|other| (rank(id, &other.peer), other)).collect();
    let mine = rank(id, &me.peer);
    if !is_left_out {
        ranked.push((mine, me));
    }
    ranked.sort_unstable_by_key(|(rank, member)| (*rank, member.peer));
    let ranked: Vec<&Arc<Member>> = ranked.into_iter().map(|(_, member)| member).collect();
    let in_zone: Vec<&Arc<Member>> = ranked
        .iter()
        .copied()
        .filter(|member| member.zone == me.zone)
        .collect();
    let mut heads: Vec<&Arc<Member>> = Vec::new();
    for member in &ranked {
        if heads.iter().all(|known| known.zone != member.zone) {
            heads.push(member);
        }
    }
    let (mut parents, head) = match in_zone.first() {
        Some(head) if is_left_out => (leaf(&in_zone, &mine), head.peer),
        Some(head) => (ancestors(&in_zone, &me.peer), head.peer),
        // Nobody of this zone is known: a leaf of any other.
        None => (leaf(&heads, &mine), me.peer),
    };
    parents.extend(ancestors(&heads, &head));
    parents.truncate(MAX_PARENTS);
    parents.into_iter().cloned().collect()
}

/// Agents that come behind this node in the order of a stripe where it is the first of all, or of its zone: those who would
/// be first without it stand in front. At most `count`; none where it is not the first.
pub(super) fn behind<'a>(
    id: StripeId,
    me: &Arc<Member>,
    others: impl Iterator<Item = &'a Arc<Member>>,
    count: usize,
) -> Vec<Arc<Member>> {
    let mine = (rank(id, &me.peer), me.peer);
    let others = others.filter(|other| other.peer != me.peer && other.role == Role::Agent);
    let mut ranked: Vec<((Digest, PeerId), &Arc<Member>)> = others
        .map(|other| ((rank(id, &other.peer), other.peer), other))
        .collect();
    if ranked.iter().any(|(rank, _)| *rank < mine) {
        ranked.retain(|(_, other)| other.zone == me.zone);
    }
    if ranked.iter().any(|(rank, _)| *rank < mine) {
        return Vec::new();
    }
    ranked.sort_unstable_by_key(|(rank, _)| *rank);
    let first = ranked.into_iter().take(count);
    first.map(|(_, other)| Arc::clone(other)).collect()
}

/// The line from the parent of `of` up to the first of `order`.
fn ancestors<'a>(order: &[&'a Arc<Member>], of: &PeerId) -> Vec<&'a Arc<Member>> {
    let place = order
        .iter()
        .position(|member| member.peer == *of)
        .unwrap_or(0);
    line(order, place)
}

/// A place in `order` that hash picks, the line from its parent up, and where that is short those that come behind
/// the place: nobody waits for a leaf, so it may turn to anybody.
fn leaf<'a>(order: &[&'a Arc<Member>], mine: &Digest) -> Vec<&'a Arc<Member>> {
    let [low, high, ..] = mine.bytes();
    let place = usize::from(u16::from_le_bytes([*low, *high])).checked_rem(order.len());
    let Some(place) = place else {
        return Vec::new();
    };
    let mut parents: Vec<_> = order.get(place).copied().into_iter().collect();
    parents.extend(line(order, place));
    let behind = order.iter().skip(place + 1).copied();
    parents.extend(behind.take(MAX_PARENTS.saturating_sub(parents.len())));
    parents
}

fn line<'a>(order: &[&'a Arc<Member>], mut place: usize) -> Vec<&'a Arc<Member>> {
    let mut line = Vec::new();
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
