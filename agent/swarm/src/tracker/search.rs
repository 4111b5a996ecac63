//! Looks for parents in a stripe's two trees.
//!
//! Most joiners are nobody's best parent, and it shows in what the stripe's own table says of them: they have their children, or are leaves.
//! So a look at that table comes first, and only of those with room is the rest looked at. Where nobody better is found than one without
//! room, the others are looked at too: what is found is the same as if all had been compared.

use std::collections::BTreeSet;
use std::time::Duration;

use tranship_format::wire::MAX_PARENTS;

use super::Tracker;
use super::outline::Outline;
use super::stripe::{Joiner, MemberNo, Stripe, TREES};

/// How good a parent is; less is better.
type Score = (u16, u16, usize);

/// Of those that have room for anybody so many are compared, and as many of those that have room for their rack: the first, who are highest.
/// Half of a thousand may have room.
const MAX_COMPARED: usize = 128;

/// What a parent without room has in the first part of its score.
const FULL: u16 = 4;

/// What a search found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The best in each tree.
    best: [Option<(Score, MemberNo)>; TREES],
    /// Good ones beside them, best first.
    reserve: Vec<(Score, MemberNo)>,
    /// Children for which there is room near by, but for that of members which are complete: they have as much in either tree.
    pub(super) room: [usize; TREES],
    /// Whether the best parent has a child too many by this one.
    pub(super) crowds: [bool; TREES],
}

/// Who looks, and for what.
struct Seeker<'a> {
    now: Duration,
    me: MemberNo,
    mine: &'a Outline,
    order: [u32; TREES],
    before: [Option<MemberNo>; TREES],
    /// It asked, so it has a reason to want others than it has.
    asks: bool,
}

/// A joiner as somebody who looks for a parent in one tree sees it.
#[derive(Clone, Copy)]
struct Seen<'a> {
    joiner: &'a Joiner,
    outline: &'a Outline,
    is_holder: bool,
    tree: usize,
    /// Whether it is the parent already.
    was: bool,
}

impl Found {
    /// The best of each tree.
    pub(super) fn parents(&self) -> [Option<MemberNo>; TREES] {
        self.best.map(|best| best.map(|(_, member)| member))
    }

    /// Those beside them.
    pub(super) fn others(&self) -> impl Iterator<Item = MemberNo> {
        self.reserve.iter().map(|&(_, member)| member)
    }

    /// Puts one among those beside, of which there are never more than may be told.
    fn keep(&mut self, scored: (Score, MemberNo)) {
        let best = &mut self.reserve;
        let is_good = best.len() < MAX_PARENTS || best.last().is_some_and(|last| scored < *last);
        if !is_good {
            return;
        }
        best.push(scored);
        best.sort_unstable();
        best.truncate(MAX_PARENTS);
    }

    /// Whether none is better than those beside, for whoever goes from the last joiner to the first.
    fn has_best_reserve(&self) -> bool {
        self.reserve.len() == MAX_PARENTS
            && self
                .reserve
                .iter()
                .all(|((bad, load, _), _)| bad + load == 0)
    }

    /// Whether one without room may be the best in a tree.
    fn may_be_full(&self, tree: usize) -> bool {
        let best = self.best.get(tree).copied().flatten();
        best.is_none_or(|((class, ..), _)| class >= FULL)
    }
}

impl Tracker {
    /// The best parents for a member of the stripe, as `asks` says of its own accord or not.
    pub(super) fn search(
        &self,
        now: Duration,
        stripe: &Stripe,
        me: MemberNo,
        asks: bool,
    ) -> Option<Found> {
        let seeker = self.seeker(now, stripe, me, asks)?;
        let mut found = Found::default();
        let parents = seeker.before.into_iter().flatten();
        let known: BTreeSet<MemberNo> = parents
            .chain(stripe.lease.map(|lease| lease.holder))
            .collect();
        let room = stripe.with_room_for(seeker.mine.place(), MAX_COMPARED);
        for compared in room.filter(|(_, joiner)| !known.contains(&joiner.member)) {
            self.compare(stripe, &seeker, &mut found, compared);
        }
        for compared in known.into_iter().filter_map(|member| stripe.find(member)) {
            self.compare(stripe, &seeker, &mut found, compared);
        }
        if (0..TREES).any(|tree| found.may_be_full(tree)) {
            found = self.compare_all(stripe, &seeker);
        }
        self.find_reserve(stripe, &seeker, &mut found);
        Some(found)
    }

    fn compare_all(&self, stripe: &Stripe, seeker: &Seeker<'_>) -> Found {
        let mut found = Found::default();
        for compared in stripe.joiners().iter().enumerate() {
            self.compare(stripe, seeker, &mut found, compared);
        }
        found
    }

    fn seeker(
        &self,
        now: Duration,
        stripe: &Stripe,
        me: MemberNo,
        asks: bool,
    ) -> Option<Seeker<'_>> {
        Some(Seeker {
            now,
            me,
            mine: self.members.outline(me)?,
            order: stripe.order(me),
            before: stripe.parents(me),
            asks,
        })
    }

    /// Compares a joiner with the best that was found so far.
    fn compare(
        &self,
        stripe: &Stripe,
        seeker: &Seeker<'_>,
        found: &mut Found,
        (index, joiner): (usize, &Joiner),
    ) {
        let may = joiner.may_be_parent(seeker.order);
        let is_other = joiner.member != seeker.me && may.contains(&true);
        let Some(outline) = self.members.outline(joiner.member).filter(|_| is_other) else {
            return;
        };
        if self.members.are_apart(seeker.now, seeker.me, joiner.member) {
            return;
        }
        let is_near = outline.site.is_in_zone_of(seeker.mine.site);
        let is_holder = stripe.is_holder(joiner.member);
        let was = seeker.before.map(|parent| parent == Some(joiner.member));
        for (tree, (may, was)) in may.into_iter().zip(was).enumerate() {
            if !may {
                continue;
            }
            let seen = Seen {
                joiner,
                outline,
                is_holder,
                tree,
                was,
            };
            let (left, (class, load)) = self.score(seeker.now, seeker.mine, seen);
            // Whoever asks again had a reason to: the same parent only if there is no other.
            let again = u16::from(was && seeker.asks) * 32;
            let scored = ((class + again, load, index), joiner.member);
            // Those that are complete have as much in either tree, but for the seed.
            if let Some(room) = found.room.get_mut(tree).filter(|_| is_near)
                && (!joiner.complete || outline.is_seed)
            {
                *room += left;
            }
            if let Some(best) = found.best.get_mut(tree)
                && best.is_none_or(|best| scored < best)
            {
                *best = Some(scored);
                if let Some(crowds) = found.crowds.get_mut(tree) {
                    *crowds = left == 0;
                }
            }
        }
    }

    /// Finds those to be told beside the parents: who came just before, else everybody's are the same few.
    fn find_reserve(&self, stripe: &Stripe, seeker: &Seeker<'_>, found: &mut Found) {
        for (index, joiner, may) in stripe.candidates(seeker.me).rev() {
            let outline = self.members.outline(joiner.member);
            let Some(outline) = outline.filter(|_| may == [true; TREES]) else {
                continue;
            };
            if self.members.are_apart(seeker.now, seeker.me, joiner.member) {
                continue;
            }
            let is_near = outline.site.is_in_zone_of(seeker.mine.site);
            let bad = bad(seeker.now, outline, is_near);
            let scored = (bad, joiner.all_children(), usize::MAX - index);
            found.keep((scored, joiner.member));
            if found.has_best_reserve() {
                break;
            }
        }
    }

    /// The highest leaf of a tree near by a member that will have children in it: it may make room. Of several the one that joined first, with how
    /// deep it is.
    pub(super) fn highest_leaf(
        &self,
        now: Duration,
        stripe: &Stripe,
        me: MemberNo,
        tree: usize,
    ) -> Option<(u8, MemberNo)> {
        let mine = self.members.outline(me)?;
        let order = stripe.order(me);
        let mut highest: Option<(u8, MemberNo)> = None;
        for joiner in stripe.joiners() {
            let depth = joiner.depth.get(tree).copied().unwrap_or(0);
            let is_higher = highest.is_none_or(|(known, _)| depth < known);
            // What is told soonest comes first.
            if is_higher
                && Stripe::may_yield(joiner, tree)
                && joiner.member != me
                && joiner.may_be_parent(order).get(tree) == Some(&true)
                && let Some(outline) = self.members.outline(joiner.member)
                && outline.site.is_in_zone_of(mine.site)
                && !self.members.are_apart(now, me, joiner.member)
            {
                highest = Some((depth, joiner.member));
            }
        }
        highest
    }

    /// How good a parent is in one tree, and for how many more children it has room there. Seed with
    /// few children first, then the nearest with room, the complete before those in flight, the least
    /// busy and the earliest; slow ones after all others.
    fn score(&self, now: Duration, mine: &Outline, seen: Seen<'_>) -> (usize, (u16, u16)) {
        let Seen {
            joiner,
            outline: theirs,
            is_holder,
            tree,
            was,
        } = seen;
        let same_zone = mine.site.is_in_zone_of(theirs.site);
        let same_rack = mine.site.is_in_rack_of(theirs.site);
        let seeds = theirs.is_seed && theirs.load_permille < self.options.seed_load_permille;
        let (distance, fan_out) = if seeds {
            (0, self.options.seed_fan_out)
        } else if same_rack {
            (1, self.options.rack_fan_out)
        } else if same_zone {
            (2, self.options.fan_out)
        } else {
            (3, self.options.fan_out)
        };
        let all = joiner.all_children().saturating_sub(u16::from(was));
        let in_tree = joiner.children.get(tree).copied().unwrap_or(0);
        let in_tree = usize::from(in_tree.saturating_sub(u16::from(was)));
        let left = if seeds && !is_holder {
            fan_out.saturating_sub(in_tree)
        } else if joiner.complete {
            // What it has it sends in both trees.
            fan_out.saturating_sub(usize::from(all).div_ceil(TREES))
        } else if is_holder {
            1_usize.saturating_sub(in_tree)
        } else if joiner.inner.map(usize::from) == Some(tree) {
            fan_out.saturating_sub(in_tree)
        } else {
            0
        };
        let full = if left == 0 { FULL } else { 0 };
        // A link between zones is dearer than a busy neighbour.
        let far = if distance == 3 { 8 } else { 0 };
        let slow = if theirs.slow_until > now { 16 } else { 0 };
        let load = if joiner.complete {
            all.min(1_000).saturating_add(theirs.load_permille / 250)
        } else if full > 0 {
            1_024 + all.min(1_000)
        } else {
            1_024 + u16::from(joiner.depth.get(tree).copied().unwrap_or(0))
        };
        (left, (slow + far + full + distance, load))
    }

    /// Parents for a member that is not in the stripe's table. Nobody counts whose child it becomes, so all such would go to the same best: each
    /// goes where chance sends it, and waits for nobody who waits for it.
    pub(super) fn search_by_chance(
        &self,
        now: Duration,
        stripe: &Stripe,
        me: MemberNo,
    ) -> Option<Found> {
        let mine = self.members.outline(me)?;
        let joiners = stripe.joiners();
        let mut found = Found::default();
        // From somewhere else for each tree, and for those beside.
        for draw in 0..=TREES {
            let start = scattered(me, draw).checked_rem(joiners.len()).unwrap_or(0);
            let (before, after) = joiners.split_at(start);
            for (step, joiner) in after.iter().chain(before).enumerate() {
                let Some(outline) = self.members.outline(joiner.member) else {
                    continue;
                };
                if joiner.member == me || self.members.are_apart(now, me, joiner.member) {
                    continue;
                }
                let bad = bad(now, outline, outline.site.is_in_zone_of(mine.site));
                let scored = ((bad, 0, step), joiner.member);
                let is_found = if let Some(best) = found.best.get_mut(draw) {
                    *best = Some(best.map_or(scored, |best| best.min(scored)));
                    bad == 0
                } else {
                    found.keep(scored);
                    found.has_best_reserve()
                };
                if is_found {
                    break;
                }
            }
        }
        Some(found)
    }
}

/// What speaks against a parent, whatever the tree.
fn bad(now: Duration, outline: &Outline, is_near: bool) -> u16 {
    u16::from(outline.slow_until > now) * 2 + u16::from(!is_near)
}

/// A number that is another for each member and each of its draws, and the same whenever it is asked for.
fn scattered(me: MemberNo, draw: usize) -> usize {
    let both = (u64::from(me) << 8).wrapping_add(draw as u64 + 1);
    let mixed = (both ^ (both >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    usize::try_from(mixed >> 33).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Tracker {
        /// What is found if all are compared.
        pub(in crate::tracker) fn search_all(
            &self,
            now: Duration,
            stripe: &Stripe,
            me: MemberNo,
            asks: bool,
        ) -> Option<Found> {
            let seeker = self.seeker(now, stripe, me, asks)?;
            let mut found = self.compare_all(stripe, &seeker);
            self.find_reserve(stripe, &seeker, &mut found);
            Some(found)
        }
    }
}
