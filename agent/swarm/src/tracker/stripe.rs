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

use std::time::Duration;

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
}

impl Joiner {
    /// Children in both trees: each is sent half of the stripe.
    pub(super) fn all_children(&self) -> u16 {
        let [even, odd] = self.children;
        even.saturating_add(odd)
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
    last_order: u32,
    pub(super) lease: Option<Lease>,
    /// Hand-overs since somebody last made progress: a slow registry must not send the lease round
    /// faster than anyone can read.
    pub(super) handovers: u32,
}

impl Stripe {
    pub(super) fn joiners(&self) -> &[Joiner] {
        &self.joiners
    }

    pub(super) fn is_empty(&self) -> bool {
        self.joiners.is_empty()
    }

    pub(super) fn get(&self, member: MemberNo) -> Option<&Joiner> {
        self.joiners.iter().find(|joiner| joiner.member == member)
    }

    fn get_mut(&mut self, member: MemberNo) -> Option<&mut Joiner> {
        self.joiners
            .iter_mut()
            .find(|joiner| joiner.member == member)
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
    pub(super) fn join(&mut self, member: MemberNo, complete: bool) {
        self.last_order = self.last_order.wrapping_add(1);
        self.joiners.push(Joiner {
            member,
            parents: [NOBODY; TREES],
            order: [self.last_order; TREES],
            depth: [0; TREES],
            children: [0; TREES],
            inner: None,
            complete,
        });
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
            }
            if let Some(count) = self.children_mut(after, tree) {
                *count = count.saturating_add(1);
            }
        }
    }

    fn children_mut(&mut self, member: MemberNo, tree: usize) -> Option<&mut u16> {
        self.get_mut(member)?.children.get_mut(tree)
    }

    /// Settles in which tree a member has children; false if that was settled before.
    pub(super) fn settle_inner(&mut self, member: MemberNo, tree: u8) -> bool {
        let joiner = self.get_mut(member).filter(|joiner| joiner.inner.is_none());
        joiner.is_some_and(|joiner| joiner.inner.replace(tree).is_none())
    }

    /// Marks a member complete: it needs no parent, and its lease is done.
    pub(super) fn complete(&mut self, member: MemberNo) {
        self.set_parents(member, [None; TREES]);
        if let Some(joiner) = self.get_mut(member) {
            joiner.complete = true;
        }
        if self.is_holder(member) {
            self.lease = None;
            self.handovers = 0;
        }
    }

    /// Takes a member out and gives its children, who now have no parent. Its lease is *not* touched.
    pub(super) fn leave(&mut self, member: MemberNo) -> Vec<MemberNo> {
        self.set_parents(member, [None; TREES]);
        self.joiners.retain(|joiner| joiner.member != member);
        self.orphan_children_of(member)
    }

    /// Moves a member behind all others, in flight, and gives its former children.
    pub(super) fn send_to_end(&mut self, member: MemberNo) -> Vec<MemberNo> {
        let orphans = self.leave(member);
        self.join(member, false);
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
    ) -> impl Iterator<Item = (usize, &Joiner, [bool; TREES])> {
        let order = self
            .get(member)
            .map_or([u32::MAX; TREES], |joiner| joiner.order);
        let others = self.joiners.iter().enumerate();
        others.filter_map(move |(place, joiner)| {
            let mut may = [joiner.complete; TREES];
            for (may, (theirs, mine)) in may.iter_mut().zip(joiner.order.iter().zip(order)) {
                *may |= *theirs < mine;
            }
            let any = joiner.member != member && may.contains(&true);
            any.then_some((place, joiner, may))
        })
    }

    /// Whether `member` may have `other` as its parent in either tree.
    pub(super) fn is_before(&self, other: MemberNo, member: MemberNo) -> bool {
        let mut candidates = self.candidates(member);
        candidates.any(|(_, joiner, may)| joiner.member == other && may == [true; TREES])
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
