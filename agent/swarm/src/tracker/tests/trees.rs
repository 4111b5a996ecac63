//! Who sends how much: nobody's link is to carry more than it can.

use std::collections::BTreeMap;

use super::*;

/// Children of each member in the trees of stripe 0, once these have all asked for it, in order.
fn children(tracker: &Tracker) -> BTreeMap<PeerId, [usize; 2]> {
    let mut children = BTreeMap::new();
    let stripe = tracker.stripes().find(|view| view.stripe.number == 0);
    for (_, parents, _) in stripe.unwrap().joiners {
        for (tree, parent) in parents.into_iter().enumerate() {
            if let Some(parent) = parent {
                children.entry(parent).or_insert([0; 2])[tree] += 1;
            }
        }
    }
    children
}

// The seed had two children in one tree of each stripe, and four in both in the worst case: with a link like all
// others it was what everybody waited for, and a crowd took twice as long as without a seed.
#[test]
fn of_a_stripe_that_it_reads_the_seed_sends_each_chunk_once() {
    for count in 2..=40 {
        let mut tracker = swarm(0);
        join(&mut tracker, member(99, "a", Role::Seed));
        for name in 1..=count {
            join(&mut tracker, member(name, "a", Role::Agent));
        }
        for name in 1..=count {
            lookup(&mut tracker, ms(u64::from(name)), name);
        }
        let children = children(&tracker);
        assert_eq!(children[&peer(99)], [1, 1], "of {count}");
        for (parent, [even, odd]) in children {
            assert!(
                even + odd <= 2,
                "{parent:?} of {count} has {even} and {odd}"
            );
        }
    }
}

#[test]
fn nobody_has_children_in_both_trees_or_more_than_two() {
    for count in 2..=40 {
        let mut tracker = swarm(count);
        for name in 1..=count {
            lookup(&mut tracker, ms(u64::from(name)), name);
        }
        let mut children = children(&tracker);
        assert_eq!(children.remove(&peer(1)), Some([1, 1]), "of {count}");
        for (parent, [even, odd]) in children {
            assert!(
                even + odd <= 2,
                "{parent:?} of {count} has {even} and {odd}"
            );
            assert!(
                even == 0 || odd == 0,
                "{parent:?} of {count} has {even} and {odd}"
            );
        }
    }
}
