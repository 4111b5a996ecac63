//! Finds a member's parents in a stripe's two trees, and where in them it will have children itself.

use std::sync::Arc;
use std::time::Duration;

use tranship_format::wire::{MAX_PARENTS, Member, Route};

use super::Tracker;
use super::stripe::{MemberNo, TREES};
use crate::StripeId;

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
        let found = if stripe.get(me).is_some() {
            self.search(now, stripe, me, asks)?
        } else {
            self.search_by_chance(now, stripe, me)?
        };
        let chosen = found.parents();
        let [Some(even), Some(odd)] = chosen else {
            return None;
        };
        let parents = self.told(even, odd, found.others());
        // Where there is less room this one makes some.
        let [even_room, odd_room] = found.room;
        let tree = usize::from(odd_room < even_room);
        let is_new = stripe.get(me).is_some_and(|mine| mine.inner.is_none());
        let leaf = is_new
            .then(|| self.highest_leaf(now, stripe, me, tree))
            .flatten();
        let stripe = self.blobs.stripe_mut(id)?;
        stripe.set_parents(me, chosen);
        if is_new {
            stripe.settle_inner(me, tree);
        }
        if let Some((depth, leaf)) = leaf {
            let crowds = found.crowds.get(tree) == Some(&true);
            return self.go_above(now, id, me, (leaf, depth, crowds), tree, parents);
        }
        Some(Route::Parents(parents))
    }

    /// Whom a member is told of: its parents, and then those in reserve.
    fn told(
        &self,
        even: MemberNo,
        odd: MemberNo,
        reserve: impl Iterator<Item = MemberNo>,
    ) -> Vec<Arc<Member>> {
        let mut numbers = vec![even, odd];
        // Who is the parent in one tree may stand in for the other's, if there is nobody else.
        let (mine_already, others): (Vec<MemberNo>, Vec<MemberNo>) =
            reserve.partition(|member| *member == even || *member == odd);
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
            .filter_map(|&number| self.members.told(number))
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
        mut told: Vec<Arc<Member>>,
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
        let member = |number: MemberNo| self.members.told(number);
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
}
