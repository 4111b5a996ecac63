//! Finds a member's parents in a stripe's two trees, and where in them it will have children itself.

use std::time::Duration;

use tranship_format::wire::{MAX_PARENTS, Member, Route};

use super::Tracker;
use super::members::Standing;
use super::stripe::{Joiner, MemberNo, Stripe, TREES};
use crate::StripeId;

/// How good a parent is; less is better.
type Score = (u16, u16, usize);

/// A joiner as somebody who looks for a parent in one tree sees it.
#[derive(Clone, Copy)]
struct Seen<'a> {
    joiner: &'a Joiner,
    is_holder: bool,
    tree: usize,
    /// Whether it is the parent already.
    was: bool,
}

/// Puts a parent among the best, of which there are never more than may be told.
fn keep_best(best: &mut Vec<(Score, MemberNo)>, scored: (Score, MemberNo)) {
    let is_good = best.len() < MAX_PARENTS || best.last().is_some_and(|last| scored < *last);
    if !is_good {
        return;
    }
    if let Some(known) = best.iter_mut().find(|(_, member)| *member == scored.1) {
        *known = scored.min(*known);
    } else {
        best.push(scored);
    }
    best.sort_unstable();
    best.truncate(MAX_PARENTS);
}

/// A number that is another for each pair in each tree, and the same whenever it is asked for.
fn scattered(me: MemberNo, other: MemberNo, tree: usize) -> usize {
    let pair = (u64::from(me) << 32 | u64::from(other)).wrapping_add(tree as u64 + 1);
    let mixed = (pair ^ (pair >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    usize::try_from(mixed >> 33).unwrap_or(0)
}

impl Tracker {
    /// Gives a member the best parent there is for it in each tree, and up to two others in reserve.
    /// `asks` as above.
    pub(super) fn attach(
        &mut self,
        now: Duration,
        id: StripeId,
        me: MemberNo,
        asks: bool,
    ) -> Option<Route> {
        let stripe = self.blobs.stripe(id)?;
        let mine = self.members.get(me)?;
        let before = stripe.parents(me);
        let is_entered = stripe.get(me).is_some();
        let mut best: [Option<(Score, MemberNo)>; TREES] = [None; TREES];
        let mut reserve: Vec<(Score, MemberNo)> = Vec::with_capacity(MAX_PARENTS + 1);
        let mut room = [0_usize; TREES];
        // Leaves that may make room, and whether the best parent has a child too many by this one.
        let (mut leaves, mut crowds) = ([None; TREES], [false; TREES]);
        for (place, joiner, may) in stripe.candidates(me) {
            let Some(theirs) = self.members.get(joiner.member) else {
                continue;
            };
            if self.members.are_apart(now, me, joiner.member) {
                continue;
            }
            let is_holder = stripe.is_holder(joiner.member);
            let is_near = theirs.site.is_in_zone_of(mine.site);
            let bad = u16::from(theirs.slow_until > now) * 2 + u16::from(!is_near);
            if !is_entered {
                // Nobody counts whose child it becomes, so all such would go to the same best: each goes where chance
                // sends it, and waits for nobody who waits for it.
                for (tree, best) in best.iter_mut().enumerate() {
                    let scored = ((bad, 0, scattered(me, joiner.member, tree)), joiner.member);
                    if best.is_none_or(|best| scored < best) {
                        *best = Some(scored);
                    }
                }
                let chance = scattered(me, joiner.member, TREES);
                keep_best(&mut reserve, ((bad, 0, chance), joiner.member));
                continue;
            }
            if may == [true; TREES] {
                // Those who came just before: else everybody's reserves are the same few.
                let back = usize::MAX - place;
                keep_best(
                    &mut reserve,
                    ((bad, joiner.all_children(), back), joiner.member),
                );
            }
            let trees = best.iter_mut().zip(&mut leaves).zip(&mut crowds);
            for (tree, ((best, leaf), crowds)) in trees.enumerate() {
                if may.get(tree) != Some(&true) {
                    continue;
                }
                let depth = joiner.depth.get(tree).copied().unwrap_or(0);
                if is_near && Stripe::may_yield(joiner, tree) {
                    let yields = (depth, place, joiner.member);
                    *leaf =
                        Some(leaf.map_or(yields, |leaf: (u8, usize, MemberNo)| leaf.min(yields)));
                }
                let was = before.get(tree) == Some(&Some(joiner.member));
                let seen = Seen {
                    joiner,
                    is_holder,
                    tree,
                    was,
                };
                let (left, (class, load)) = self.score(now, mine, theirs, seen, depth);
                // Whoever asks again had a reason to: the same parent only if there is no other.
                let again = u16::from(was && asks) * 32;
                let scored = ((class + again, load, place), joiner.member);
                if let Some(room) = room.get_mut(tree).filter(|_| is_near) {
                    *room += left;
                }
                if best.is_none_or(|best| scored < best) {
                    *best = Some(scored);
                    *crowds = left == 0;
                }
            }
        }
        let chosen = best.map(|best| best.map(|(_, member)| member));
        let [Some(even), Some(odd)] = chosen else {
            return None;
        };
        let parents = self.told(even, odd, &reserve);
        let [even_room, odd_room] = room;
        let stripe = self.blobs.stripe_mut(id)?;
        stripe.set_parents(me, chosen);
        // Where there is less room this one makes some.
        let tree = u8::from(odd_room < even_room);
        let is_new = stripe.settle_inner(me, tree);
        let leaf = leaves.get(usize::from(tree)).copied().flatten();
        if is_new && let Some((depth, _, leaf)) = leaf {
            let tree = usize::from(tree);
            let crowds = crowds.get(tree) == Some(&true);
            return self.go_above(now, id, me, (leaf, depth, crowds), tree, parents);
        }
        Some(Route::Parents(parents))
    }

    /// Whom a member is told of: its parents, and then those in reserve.
    fn told(&self, even: MemberNo, odd: MemberNo, reserve: &[(Score, MemberNo)]) -> Vec<Member> {
        let mut numbers = vec![even, odd];
        // Who is the parent in one tree may stand in for the other's, if there is nobody else.
        let (mine_already, others): (Vec<MemberNo>, Vec<MemberNo>) = reserve
            .iter()
            .map(|&(_, member)| member)
            .partition(|member| *member == even || *member == odd);
        let mine_already = mine_already.into_iter().filter(|_| even != odd);
        numbers.extend(
            others
                .into_iter()
                .chain(mine_already)
                .take(MAX_PARENTS - TREES),
        );
        if numbers.len() == TREES && even == odd {
            numbers.pop();
        }
        numbers
            .iter()
            .filter_map(|&number| Some(self.members.get(number)?.member.clone()))
            .collect()
    }

    /// A newcomer that will have children in a tree takes the place of its highest leaf, if that is
    /// higher than its own, and the leaf becomes its child and is told so. Whatever the heights if its own parent has
    /// no room for it (`crowds`): else the seed, the root of every stripe, sends half of each twice, and nobody gets
    /// more than two thirds of what the seed's link carries.
    fn go_above(
        &mut self,
        now: Duration,
        id: StripeId,
        me: MemberNo,
        (leaf, depth, crowds): (MemberNo, u8, bool),
        tree: usize,
        mut told: Vec<Member>,
    ) -> Option<Route> {
        let stripe = self.blobs.stripe(id)?;
        let mine = stripe.get(me)?;
        let above = stripe.parents(leaf).get(tree).copied().flatten()?;
        let is_higher = crowds || mine.depth.get(tree).is_some_and(|own| depth < *own);
        let apart = self.members.are_apart(now, me, above) || self.members.are_apart(now, me, leaf);
        if !is_higher || apart || above == me {
            return Some(Route::Parents(told));
        }
        let stripe = self.blobs.stripe_mut(id)?;
        stripe.displace(me, leaf, tree);
        let stripe = self.blobs.stripe(id)?;
        let member = |number: MemberNo| Some(self.members.get(number)?.member.clone());
        let theirs = stripe.parents(leaf);
        // Its former parent stays in reserve, unless it is behind it in the other tree.
        let former = stripe.is_before(above, leaf).then_some(above);
        let higher = member(above)?;
        // One parent stands for both.
        if told.len() == 1 {
            told.extend_from_within(..);
        }
        if let Some(place) = told.get_mut(tree) {
            *place = higher;
        }
        // Who is below this one now is no reserve.
        let below = member(leaf)?;
        let reserve = told.split_off(TREES.min(told.len()));
        told.extend(reserve.into_iter().filter(|other| *other != below));
        if let [Some(even), Some(odd)] = theirs {
            let theirs = [Some(even), Some(odd), former].into_iter().flatten();
            let theirs = theirs.filter_map(member).collect();
            self.push(id, leaf, Route::Parents(theirs));
        }
        Some(Route::Parents(told))
    }

    /// How good a parent is in one tree, and for how many more children it has room there. Seed with
    /// few children first, then the nearest with room, the complete before those in flight, the least
    /// busy and the earliest; slow ones after all others.
    fn score(
        &self,
        now: Duration,
        mine: &Standing,
        theirs: &Standing,
        seen: Seen<'_>,
        depth: u8,
    ) -> (usize, (u16, u16)) {
        let Seen {
            joiner,
            is_holder,
            tree,
            was,
        } = seen;
        let same_zone = mine.site.is_in_zone_of(theirs.site);
        let same_rack = mine.site.is_in_rack_of(theirs.site);
        let seeds = theirs.is_seed() && theirs.load_permille < self.options.seed_load_permille;
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
        let full = if left == 0 { 4 } else { 0 };
        // A link between zones is dearer than a busy neighbour.
        let far = if distance == 3 { 8 } else { 0 };
        let slow = if theirs.slow_until > now { 16 } else { 0 };
        let load = if joiner.complete {
            all.min(1_000).saturating_add(theirs.load_permille / 250)
        } else if full > 0 {
            1_024 + all.min(1_000)
        } else {
            1_024 + u16::from(depth)
        };
        (left, (slow + far + full + distance, load))
    }
}
