//! One stripe's table: who joined in which order, who is whose parent, who reads the registry.
//!
//! A stripe has two trees, one for its even chunks and one for its odd ones. Who has children in one
//! has none in the other, so everybody's link out carries about as much as its link in: of one binary
//! tree half of the nodes are leaves, and the other half would send everything twice.
//!
//! In each tree a parent is either complete or before its child in that tree's order. That one rule
//! keeps the graph of who waits for whom free of rings, whatever is lost and re-routed. The order is
//! that of joining, but for a leaf that makes room for a newcomer which will have children: leaves
//! belong at the bottom, or the tree becomes a line.

use std::collections::BTreeMap;
use std::time::Duration;

use super::room::{FOR_ANYBODY, FOR_NOBODY, FanOut, Place, Room};

/// Number of a member in the tracker's table.
pub(super) type MemberNo = u32;

const NOBODY: MemberNo = MemberNo::MAX;

/// Trees of a stripe: one for its even chunks, one for the odd.
pub(super) const TREES: usize = 2;

/// A node that has the stripe or is getting it. Few bytes, because there may be millions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Joiner {
    pub(super) member: MemberNo,
    parents: [MemberNo; TREES],
    /// Place in each tree's order.
    order: [u32; TREES],
    /// Nodes above it in each tree, when it was put there.
    pub(super) depth: [u8; TREES],
    /// Children in each tree.
    pub(super) children: [u16; TREES],
    /// The tree in which it has children, once that is settled.
    pub(super) inner: Option<u8>,
    pub(super) complete: bool,
    /// Whose rack it is in, and whether it is the seed, as when it joined.
    pub(super) place: Place,
}

impl Joiner {
    /// Children in both trees: each is sent half of the stripe.
    pub(super) fn all_children(&self) -> u16 {
        let [even, odd] = self.children;
        even.saturating_add(odd)
    }

    /// For whom it may have room.
    fn room(&self, fan_out: FanOut) -> Room {
        let Place::Rack(tag) = self.place else {
            return FOR_ANYBODY;
        };
        let has = if self.complete {
            usize::from(self.all_children()).div_ceil(TREES)
        } else {
            let inner = self
                .inner
                .and_then(|tree| self.children.get(usize::from(tree)));
            inner.map_or(usize::MAX, |count| usize::from(*count))
        };
        if has < fan_out.anywhere {
            FOR_ANYBODY
        } else if has < fan_out.in_rack {
            tag
        } else {
            FOR_NOBODY
        }
    }

    /// Whether it may have a child in each tree that has this place in its order.
    pub(super) fn may_be_parent(&self, order: [u32; TREES]) -> [bool; TREES] {
        let mut may = [self.complete; TREES];
        for (may, (mine, theirs)) in may.iter_mut().zip(self.order.iter().zip(order)) {
            *may |= *mine < theirs;
        }
        may
    }
}

/// The right, and duty, to read the stripe from the registry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub(super) id: u64,
    pub(super) holder: MemberNo,
    /// `None` while it rests.
    pub(super) expires_at: Option<Duration>,
    pub(super) done_len: u64,
    /// Bytes that the blob's count of bytes read of the origin has of it.
    pub(super) counted_len: u64,
    /// It expired when nobody else was there to take it.
    pub(super) overdue: bool,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Stripe {
    joiners: Vec<Joiner>,
    /// Where each member is among them: one of a thousand is looked for some forty times for an answer.
    indices: BTreeMap<MemberNo, u32>,
    /// For whom each may have room, which most have for nobody.
    rooms: Vec<Room>,
    fan_out: FanOut,
    last_order: u32,
    pub(super) lease: Option<Lease>,
    /// Hand-overs since somebody last made progress: a slow registry must not send the lease round
    /// faster than anyone can read.
    pub(super) handovers: u32,
}

impl Stripe {
    pub(super) fn new(fan_out: FanOut) -> Self {
        Self {
            fan_out,
            ..Self::default()
        }
    }

    pub(super) fn joiners(&self) -> &[Joiner] {
        &self.joiners
    }

    pub(super) fn is_empty(&self) -> bool {
        self.joiners.is_empty()
    }

    pub(super) fn get(&self, member: MemberNo) -> Option<&Joiner> {
        self.joiners.get(self.index(member)?)
    }

    fn get_mut(&mut self, member: MemberNo) -> Option<&mut Joiner> {
        let index = self.index(member)?;
        self.joiners.get_mut(index)
    }

    fn index(&self, member: MemberNo) -> Option<usize> {
        self.indices.get(&member).map(|&index| index as usize)
    }

    /// Notes for whom a member may have room, after something about it changed.
    fn look_at_room_of(&mut self, member: MemberNo) {
        if let Some(index) = self.index(member)
            && let Some(joiner) = self.joiners.get(index)
            && let Some(room) = self.rooms.get_mut(index)
        {
            *room = joiner.room(self.fan_out);
        }
    }

    /// Those who may have room for one that is in that place, with their indices: at most so many of those with room for anybody, and of those
    /// with room for their rack, the earliest.
    pub(super) fn with_room_for(
        &self,
        place: Place,
        most: usize,
    ) -> impl Iterator<Item = (usize, &Joiner)> {
        let rack = match place {
            Place::Seed => FOR_NOBODY,
            Place::Rack(tag) => tag,
        };
        let (mut anywhere, mut in_rack) = (0_usize, 0_usize);
        let rooms = self.rooms.iter().zip(&self.joiners).enumerate();
        rooms.filter_map(move |(index, (&room, joiner))| {
            let count = match room {
                FOR_NOBODY => return None,
                FOR_ANYBODY => &mut anywhere,
                _ if room == rack => &mut in_rack,
                _ => return None,
            };
            *count += 1;
            (*count <= most).then_some((index, joiner))
        })
    }

    /// A member with its index.
    pub(super) fn find(&self, member: MemberNo) -> Option<(usize, &Joiner)> {
        let index = self.index(member)?;
        Some((index, self.joiners.get(index)?))
    }

    /// The parents of a member, by tree.
    pub(super) fn parents(&self, member: MemberNo) -> [Option<MemberNo>; TREES] {
        let parents = self
            .get(member)
            .map_or([NOBODY; TREES], |joiner| joiner.parents);
        parents.map(|parent| (parent != NOBODY).then_some(parent))
    }

    pub(super) fn is_holder(&self, member: MemberNo) -> bool {
        self.lease.is_some_and(|lease| lease.holder == member)
    }

    /// Appends a member that is not in the table yet.
    pub(super) fn join(&mut self, member: MemberNo, complete: bool, place: Place) {
        self.last_order = self.last_order.wrapping_add(1);
        let index = u32::try_from(self.joiners.len()).unwrap_or(u32::MAX);
        self.indices.insert(member, index);
        self.joiners.push(Joiner {
            member,
            parents: [NOBODY; TREES],
            order: [self.last_order; TREES],
            depth: [0; TREES],
            children: [0; TREES],
            inner: None,
            complete,
            place,
        });
        self.rooms.push(FOR_NOBODY);
        self.look_at_room_of(member);
    }

    /// Gives `member` these parents, one a tree; `None` leaves it without.
    pub(super) fn set_parents(&mut self, member: MemberNo, parents: [Option<MemberNo>; TREES]) {
        let depth = parents.map(|parent| parent.and_then(|parent| self.get(parent)));
        let mut depths = [0; TREES];
        for (tree, (to, parent)) in depths.iter_mut().zip(depth).enumerate() {
            let above = parent.and_then(|parent| parent.depth.get(tree));
            *to = above.map_or(0, |above| above.saturating_add(1));
        }
        let Some(joiner) = self.get_mut(member) else {
            return;
        };
        joiner.depth = depths;
        let after = parents.map(|parent| parent.unwrap_or(NOBODY));
        let before = std::mem::replace(&mut joiner.parents, after);
        for (tree, (before, after)) in before.into_iter().zip(after).enumerate() {
            if before == after {
                continue;
            }
            if let Some(count) = self.children_mut(before, tree) {
                *count = count.saturating_sub(1);
                self.look_at_room_of(before);
            }
            if let Some(count) = self.children_mut(after, tree) {
                *count = count.saturating_add(1);
                self.look_at_room_of(after);
            }
        }
    }

    fn children_mut(&mut self, member: MemberNo, tree: usize) -> Option<&mut u16> {
        self.get_mut(member)?.children.get_mut(tree)
    }

    /// Settles in which tree a member has children.
    pub(super) fn settle_inner(&mut self, member: MemberNo, tree: usize) {
        if let Some(joiner) = self.get_mut(member) {
            joiner.inner = u8::try_from(tree).ok();
        }
        self.look_at_room_of(member);
    }

    /// Marks a member complete: it needs no parent, and its lease is done.
    pub(super) fn complete(&mut self, member: MemberNo) {
        self.set_parents(member, [None; TREES]);
        if let Some(joiner) = self.get_mut(member) {
            joiner.complete = true;
        }
        self.look_at_room_of(member);
        if self.is_holder(member) {
            self.lease = None;
            self.handovers = 0;
        }
    }

    /// Takes a member out and gives its children, who now have no parent. Its lease is *not* touched.
    pub(super) fn leave(&mut self, member: MemberNo) -> Vec<MemberNo> {
        self.set_parents(member, [None; TREES]);
        if let Some(index) = self.index(member) {
            self.indices.remove(&member);
            for later in self.indices.values_mut().filter(|at| **at as usize > index) {
                *later -= 1;
            }
            self.rooms.remove(index);
            self.joiners.remove(index);
        }
        self.orphan_children_of(member)
    }

    /// Moves a member behind all others, in flight, and gives its former children.
    pub(super) fn send_to_end(&mut self, member: MemberNo) -> Vec<MemberNo> {
        let place = self.get(member).map(|joiner| joiner.place);
        let orphans = self.leave(member);
        if let Some(place) = place {
            self.join(member, false, place);
        }
        orphans
    }

    fn orphan_children_of(&mut self, member: MemberNo) -> Vec<MemberNo> {
        let mut orphans = Vec::new();
        for joiner in &mut self.joiners {
            let mut lost = false;
            for parent in &mut joiner.parents {
                if *parent == member {
                    *parent = NOBODY;
                    lost = true;
                }
            }
            if lost {
                orphans.push(joiner.member);
            }
        }
        orphans
    }

    /// The member in flight that joined first, other than `except`.
    pub(super) fn first_in_flight(&self, except: Option<MemberNo>) -> Option<MemberNo> {
        let waits = |joiner: &&Joiner| !joiner.complete && Some(joiner.member) != except;
        self.joiners.iter().find(waits).map(|joiner| joiner.member)
    }

    /// Whom `member` may have as parents in one tree or the other: everyone complete, and everyone
    /// before it there (everyone at all if it is not in the table, for then it can be nobody's parent).
    pub(super) fn candidates(
        &self,
        member: MemberNo,
    ) -> impl DoubleEndedIterator<Item = (usize, &Joiner, [bool; TREES])> {
        let order = self.order(member);
        let others = self.joiners.iter().enumerate();
        others.filter_map(move |(index, joiner)| {
            let may = joiner.may_be_parent(order);
            let any = joiner.member != member && may.contains(&true);
            any.then_some((index, joiner, may))
        })
    }

    /// A member's place in each tree's order; behind all if it is not in the table.
    pub(super) fn order(&self, member: MemberNo) -> [u32; TREES] {
        self.get(member)
            .map_or([u32::MAX; TREES], |joiner| joiner.order)
    }

    /// Whether `member` may have `other` as its parent in either tree.
    pub(super) fn is_before(&self, other: MemberNo, member: MemberNo) -> bool {
        let joiner = self.get(other).filter(|_| other != member);
        joiner.is_some_and(|joiner| joiner.may_be_parent(self.order(member)) == [true; TREES])
    }

    /// A leaf of a tree that may make room for a newcomer: nobody waits for it there.
    pub(super) fn may_yield(joiner: &Joiner, tree: usize) -> bool {
        !joiner.complete
            && joiner.children.get(tree) == Some(&0)
            && joiner.inner.is_some_and(|inner| usize::from(inner) != tree)
            && joiner
                .parents
                .get(tree)
                .is_some_and(|parent| *parent != NOBODY)
    }

    /// Puts `member`, which has no children in the tree, in the place of `leaf`, and `leaf` below it.
    pub(super) fn displace(&mut self, member: MemberNo, leaf: MemberNo, tree: usize) {
        self.last_order = self.last_order.wrapping_add(1);
        let order = self.last_order;
        let above = self.parents(leaf).get(tree).copied().flatten();
        let with = |parents: [Option<MemberNo>; TREES], parent| {
            let mut parents = parents;
            if let Some(place) = parents.get_mut(tree) {
                *place = parent;
            }
            parents
        };
        self.set_parents(member, with(self.parents(member), above));
        if let Some(order_of) = self
            .get_mut(leaf)
            .and_then(|joiner| joiner.order.get_mut(tree))
        {
            *order_of = order;
        }
        self.set_parents(leaf, with(self.parents(leaf), Some(member)));
    }
}
