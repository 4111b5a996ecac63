//! The members as the tracker sees them: where they are, how they fare, whom to keep apart.
//!
//! Stripe tables name members by number, because a peer's identity is 64 bytes and there are millions
//! of entries. A number is given again only after its member is out of every table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::{Member, PeerId};

use super::outline::{Outline, short_hash};
use super::stripe::MemberNo;
use crate::StripeId;

/// Most reports of one member's goodput that are kept between reviews.
const MAX_GOODPUTS: usize = 16;
/// Most pairs kept apart.
const MAX_APART: usize = 65_536;
/// Reporters that must agree before a member counts as slow.
const SLOW_REPORTERS: usize = 3;

/// A member.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) member: Arc<Member>,
    pub(super) boot_id: [u8; 16],
    pub(super) joined_at: Duration,
    pub(super) seen_at: Duration,
    /// Place among all members that nobody chooses: who is told of when not all can be.
    pub(super) rank: u64,
    /// Stripes it is registered in.
    pub(super) stripes: BTreeSet<StripeId>,
    /// Blobs it has open, by digest.
    pub(super) blobs: BTreeMap<Digest, Held>,
    goodputs: BTreeMap<MemberNo, u64>,
}

/// A member's right to a blob.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// The blob's key.
    pub(super) key: Digest,
    /// When the right ends.
    pub(super) until: Duration,
}

/// All members.
#[derive(Debug, Default)]
pub(super) struct Members {
    slots: Vec<Option<Standing>>,
    /// Of each slot.
    outlines: Vec<Outline>,
    free: Vec<MemberNo>,
    numbers: BTreeMap<PeerId, MemberNo>,
    /// When to look whether a member is still there; it may have been seen since.
    due: BTreeSet<(Duration, MemberNo)>,
    /// Accuser and accused, and until when.
    apart: BTreeMap<(MemberNo, MemberNo), Duration>,
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    pub(super) fn number(&self, peer: &PeerId) -> Option<MemberNo> {
        self.numbers.get(peer).copied()
    }

    pub(super) fn get(&self, number: MemberNo) -> Option<&Standing> {
        self.slots.get(number as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, number: MemberNo) -> Option<&mut Standing> {
        self.slots.get_mut(number as usize)?.as_mut()
    }

    pub(super) fn outline(&self, number: MemberNo) -> Option<&Outline> {
        self.outlines.get(number as usize)
    }

    pub(super) fn outline_mut(&mut self, number: MemberNo) -> Option<&mut Outline> {
        self.outlines.get_mut(number as usize)
    }

    pub(super) fn is_slow(&self, now: Duration, number: MemberNo) -> bool {
        self.outline(number)
            .is_some_and(|outline| outline.slow_until > now)
    }

    pub(super) fn is_seed(&self, number: MemberNo) -> bool {
        self.outline(number).is_some_and(|outline| outline.is_seed)
    }

    /// It is the same member, as it describes itself now.
    pub(super) fn move_to(&mut self, number: MemberNo, member: Member) {
        if let Some(outline) = self.outline_mut(number) {
            outline.describe(&member);
        }
        if let Some(standing) = self.get_mut(number) {
            standing.member = Arc::new(member);
        }
    }

    /// A member as others are told of it: shared, since many name it at once.
    pub(super) fn told(&self, number: MemberNo) -> Option<Arc<Member>> {
        Some(Arc::clone(&self.get(number)?.member))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (MemberNo, &Standing)> {
        self.numbers
            .values()
            .filter_map(|&number| Some((number, self.get(number)?)))
    }

    /// Adds a member that is not there yet. `due_at` is when it must have been heard of again.
    pub(super) fn insert(
        &mut self,
        member: Member,
        boot_id: [u8; 16],
        now: Duration,
        due_at: Duration,
    ) -> MemberNo {
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            MemberNo::try_from(self.slots.len() - 1).unwrap_or(MemberNo::MAX)
        });
        let outline = Outline::of(&member);
        if let Some(slot) = self.outlines.get_mut(number as usize) {
            *slot = outline;
        } else {
            self.outlines.push(outline);
        }
        self.numbers.insert(member.peer, number);
        self.due.insert((due_at, number));
        let standing = Standing {
            rank: rank(&member.peer),
            member: Arc::new(member),
            boot_id,
            joined_at: now,
            seen_at: now,
            stripes: BTreeSet::new(),
            blobs: BTreeMap::new(),
            goodputs: BTreeMap::new(),
        };
        if let Some(slot) = self.slots.get_mut(number as usize) {
            *slot = Some(standing);
        }
        number
    }

    /// Takes out a member that is out of every stripe already.
    pub(super) fn remove(&mut self, number: MemberNo) -> Option<Standing> {
        let standing = self.slots.get_mut(number as usize)?.take()?;
        self.numbers.remove(&standing.member.peer);
        self.due.retain(|&(_, due)| due != number);
        self.apart
            .retain(|&(one, other), _| one != number && other != number);
        self.free.push(number);
        Some(standing)
    }

    /// A member that has not been seen for `patience`, if there is one.
    pub(super) fn next_dead(&mut self, now: Duration, patience: Duration) -> Option<MemberNo> {
        while let Some(&(at, number)) = self.due.first()
            && at <= now
        {
            self.due.pop_first();
            let due_at = self.get(number)?.seen_at + patience;
            self.due.insert((due_at, number));
            if due_at <= now {
                return Some(number);
            }
        }
        None
    }

    pub(super) fn wake_at(&self) -> Option<Duration> {
        self.due.first().map(|&(at, _)| at)
    }

    pub(super) fn keep_apart(&mut self, by: MemberNo, of: MemberNo, until: Duration) {
        if self.apart.len() < MAX_APART {
            let kept = self.apart.entry((by, of)).or_default();
            *kept = until.max(*kept);
        }
    }

    /// Whether `by` accused `of` and is still kept apart from it.
    pub(super) fn accuses(&self, now: Duration, by: MemberNo, of: MemberNo) -> bool {
        self.apart.get(&(by, of)).is_some_and(|&until| until > now)
    }

    pub(super) fn are_apart(&self, now: Duration, one: MemberNo, other: MemberNo) -> bool {
        self.accuses(now, one, other) || self.accuses(now, other, one)
    }

    pub(super) fn note_goodput(&mut self, of: MemberNo, by: MemberNo, bytes_per_second: u64) {
        if of != by
            && let Some(standing) = self.get_mut(of)
            && (standing.goodputs.len() < MAX_GOODPUTS || standing.goodputs.contains_key(&by))
        {
            standing.goodputs.insert(by, bytes_per_second);
        }
    }

    /// Looks at the goodputs reported since the last review: who is below a quarter of the median by
    /// the word of three is slow for a while, but never more than a tenth of all, so that a bad hour of
    /// the network does not leave everybody without parents.
    pub(super) fn review(&mut self, now: Duration, slow_for: Duration) {
        self.apart.retain(|_, until| *until > now);
        let mut rates: Vec<(u64, MemberNo)> = Vec::new();
        for (number, standing) in self.iter() {
            let mut reported: Vec<u64> = standing.goodputs.values().copied().collect();
            if reported.len() >= SLOW_REPORTERS {
                rates.push((median(&mut reported), number));
            }
        }
        rates.sort_unstable();
        let all = rates.get(rates.len() / 2).map_or(0, |&(rate, _)| rate);
        let room = self.room_for_slow(now);
        let slow = rates
            .into_iter()
            .take_while(|&(rate, _)| rate < all / 4)
            .take(room);
        for (_, number) in slow {
            if let Some(outline) = self.outline_mut(number) {
                outline.slow_until = now + slow_for;
            }
        }
        for standing in self.slots.iter_mut().flatten() {
            standing.goodputs.clear();
        }
    }
}

impl Members {
    /// A member is slow for a while by the word of others; false if it was before, or as many are as may be.
    pub(super) fn find_slow(
        &mut self,
        now: Duration,
        number: MemberNo,
        slow_for: Duration,
    ) -> bool {
        if self.get(number).is_none() || self.is_slow(now, number) || self.room_for_slow(now) == 0 {
            return false;
        }
        if let Some(outline) = self.outline_mut(number) {
            outline.slow_until = now + slow_for;
        }
        true
    }

    fn room_for_slow(&self, now: Duration) -> usize {
        let already = self.numbers.values();
        let already = already.filter(|&&number| self.is_slow(now, number)).count();
        (self.len() / 10).max(1).saturating_sub(already)
    }
}

fn median(values: &mut [u64]) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

fn rank(peer: &PeerId) -> u64 {
    short_hash(peer.as_bytes())
}
