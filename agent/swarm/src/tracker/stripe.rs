//! One stripe's table: who joined in which order, who is whose parent, who reads the registry.
//!
//! A parent is either complete or joined earlier than its child. That one rule keeps the graph of
//! who waits for whom free of rings, whatever is lost and re-routed.

use std::time::Duration;

/// Number of a member in the tracker's table.
pub(super) type MemberNo = u32;

const NOBODY: MemberNo = MemberNo::MAX;

/// A node that has the stripe or is getting it. Twelve bytes, because there may be millions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Joiner {
    pub(super) member: MemberNo,
    parent: MemberNo,
    pub(super) children: u16,
    pub(super) complete: bool,
}

/// The right, and duty, to read the stripe from the registry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub(super) id: u64,
    pub(super) holder: MemberNo,
    /// `None` while it rests.
    pub(super) expires_at: Option<Duration>,
    pub(super) done_len: u64,
    /// It expired when nobody else was there to take it.
    pub(super) overdue: bool,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Stripe {
    joiners: Vec<Joiner>,
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

    pub(super) fn place(&self, member: MemberNo) -> Option<usize> {
        self.joiners
            .iter()
            .position(|joiner| joiner.member == member)
    }

    pub(super) fn get(&self, member: MemberNo) -> Option<&Joiner> {
        self.joiners.iter().find(|joiner| joiner.member == member)
    }

    fn get_mut(&mut self, member: MemberNo) -> Option<&mut Joiner> {
        self.joiners
            .iter_mut()
            .find(|joiner| joiner.member == member)
    }

    pub(super) fn parent(&self, member: MemberNo) -> Option<MemberNo> {
        self.get(member)
            .map(|joiner| joiner.parent)
            .filter(|&parent| parent != NOBODY)
    }

    pub(super) fn is_holder(&self, member: MemberNo) -> bool {
        self.lease.is_some_and(|lease| lease.holder == member)
    }

    /// Appends a member that is not in the table yet.
    pub(super) fn join(&mut self, member: MemberNo, complete: bool) {
        self.joiners.push(Joiner {
            member,
            parent: NOBODY,
            children: 0,
            complete,
        });
    }

    /// Makes `parent` the parent of `member`; `None` leaves it without.
    pub(super) fn set_parent(&mut self, member: MemberNo, parent: Option<MemberNo>) {
        let Some(joiner) = self.get_mut(member) else {
            return;
        };
        let before = std::mem::replace(&mut joiner.parent, parent.unwrap_or(NOBODY));
        if let Some(before) = self.get_mut(before) {
            before.children = before.children.saturating_sub(1);
        }
        if let Some(parent) = parent.and_then(|parent| self.get_mut(parent)) {
            parent.children = parent.children.saturating_add(1);
        }
    }

    /// Marks a member complete: it needs no parent, and its lease is done.
    pub(super) fn complete(&mut self, member: MemberNo) {
        self.set_parent(member, None);
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
        self.set_parent(member, None);
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
            if joiner.parent == member {
                joiner.parent = NOBODY;
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

    /// Whom `member` may have as parents: everyone complete, and everyone who joined before it
    /// (everyone at all if it is not in the table, for then it can be nobody's parent).
    pub(super) fn candidates(&self, member: MemberNo) -> impl Iterator<Item = (usize, &Joiner)> {
        let place = self.place(member).unwrap_or(usize::MAX);
        let eligible = move |&(at, joiner): &(usize, &Joiner)| {
            joiner.member != member && (joiner.complete || at < place)
        };
        self.joiners.iter().enumerate().filter(eligible)
    }
}
