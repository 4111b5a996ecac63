//! Nodes that lost the tracker before it told them of each other.

use super::*;

/// The node alone with these members and without a tracker, and what it does for chunk 0.
fn lost_with(names: &[u8]) -> (Bench, Vec<Action>) {
    let mut bench = Bench::new(|_| {});
    bench.members(names, Some(FOR_EVER));
    let actions = bench.want(0, Class::Demand);
    (bench, actions)
}

/// A member that comes before this node in the order of stripe 0 if `before`, and one behind it if not.
fn some_member(before: bool) -> u8 {
    (1..=80).find(|&name| comes_before(name) == before).unwrap()
}

fn comes_before(name: u8) -> bool {
    !wants(&lost_with(&[name]).1).is_empty()
}

fn introduced_to(actions: &[Action]) -> Vec<u8> {
    let to = |action: &Action| match action {
        Action::Introduce { to, .. } => Some(to.peer.as_bytes()[0]),
        _ => None,
    };
    actions.iter().filter_map(to).collect()
}

// Of sixteen hosts that lost their tracker when the last had attached, the first knew of nobody and read the whole image;
// ten others read a stripe or two. Four pulls in place of one.
#[test]
fn who_takes_itself_for_the_first_asks_the_one_that_shows_itself_to_come_before_it() {
    let first = some_member(true);
    let (mut bench, actions) = lost_with(&[]);
    assert_eq!(reads(&actions).len(), 1, "nobody else is known");
    bench.tell(Input::PeerUp {
        member: member(first),
    });
    bench.grant(first, "registry", FOR_EVER);
    let next = bench.want(40, Class::Demand);
    assert_eq!(wants(&next)[0].0, first);
    assert!(reads(&next).is_empty());
}

#[test]
fn who_shows_a_right_to_another_image_is_no_member() {
    let first = some_member(true);
    let (mut bench, _) = lost_with(&[]);
    bench.tell(Input::PeerUp {
        member: member(first),
    });
    bench.grant(first, "another registry", FOR_EVER);
    assert!(wants(&bench.want(40, Class::Demand)).is_empty());
}

#[test]
fn the_first_shows_itself_once_to_those_behind_it() {
    let behind = some_member(false);
    let (mut bench, actions) = lost_with(&[behind]);
    assert_eq!(introduced_to(&actions), [behind]);
    assert_eq!(reads(&actions).len(), 1);
    assert!(introduced_to(&bench.want(40, Class::Demand)).is_empty());
    let (_, actions) = lost_with(&[some_member(true), behind]);
    assert!(introduced_to(&actions).is_empty(), "it is not the first");
}

#[test]
fn the_first_of_very_many_shows_itself_to_some() {
    let all: Vec<u8> = (1..=80).filter(|name| !comes_before(*name)).collect();
    let (_, actions) = lost_with(&all);
    let told = introduced_to(&actions);
    assert!(all.len() > 32, "{} are behind it", all.len());
    assert_eq!(told.len(), 32);
}

#[test]
fn with_a_tracker_nobody_shows_itself() {
    let mut bench = Bench::routed();
    bench.members(&[some_member(false)], Some(FOR_EVER));
    assert!(introduced_to(&bench.want(2, Class::Demand)).is_empty());
}
