//! Parents that say nothing, or nothing but BUSY.

use super::*;

fn lookups(actions: &[Action]) -> usize {
    let is_it = |action: &&Action| matches!(action, Action::Lookup { .. });
    actions.iter().filter(is_it).count()
}

// A parent that had died was waited for until the reader's patience was over, and then the registry was read: nobody
// was in reserve, and only a reserve was ever asked.
#[test]
fn who_says_nothing_at_all_is_replaced_before_the_registry_is_read() {
    let mut bench = Bench::routed();
    bench.route(0, parents(&[1]));
    let asked = bench.want(4, Class::Demand);
    assert_eq!(wants(&asked)[0].0, 1);
    let next = bench.pass(260);
    assert_eq!(lookups(&next), 1, "the tracker may know others");
    let next = bench.route(0, parents(&[3]));
    let (to, request, _) = wants(&[next, bench.pass(60)].concat())[0];
    assert_eq!(to, 3);
    let asked = bench.want(6, Class::Demand);
    assert_eq!(wants(&asked)[0].0, 3, "nothing more is asked of the other");
    let (idle, peer) = (Duration::ZERO, peer(3));
    bench.tell(Input::Wait {
        peer,
        request,
        idle,
        hops: 1,
    });
    assert!(reads(&bench.pass(400)).is_empty());
}

#[test]
fn who_was_silent_is_asked_again_once_it_speaks() {
    let mut bench = Bench::routed();
    let (_, request, _) = wants(&bench.want(4, Class::Demand))[0];
    bench.pass(260);
    assert_eq!(wants(&bench.want(6, Class::Demand))[0].0, 2);
    let (idle, peer) = (Duration::ZERO, peer(1));
    bench.tell(Input::Wait {
        peer,
        request,
        idle,
        hops: 1,
    });
    assert_eq!(wants(&bench.want(8, Class::Demand))[0].0, 1);
}

// What was asked again because the first peer had fallen silent was counted apart, and no share of hedges had it.
#[test]
fn a_request_beside_one_to_a_peer_that_fell_silent_counts_as_a_hedge() {
    let mut bench = Bench::routed();
    let (to, request, _) = wants(&bench.want(4, Class::Demand))[0];
    let (idle, peer) = (Duration::ZERO, peer(to));
    bench.tell(Input::Wait {
        peer,
        request,
        idle,
        hops: 1,
    });
    let next = bench.pass(600);
    assert_eq!(wants(&next).len(), 1, "{next:?}");
    let counters = bench.node.counters();
    assert_eq!((counters.hedges, counters.silent), (1, 1));
}

// A slow parent's queue was full for a second on end. Fifty times its children came back to it, and then they read
// the registry.
#[test]
fn who_is_busy_again_and_again_is_complained_of() {
    let mut bench = Bench::routed();
    bench.route(0, parents(&[1]));
    let mut actions = bench.want(4, Class::Demand);
    let (mut times, mut seen) = (0, 0);
    while times < 8 {
        for &(to, request, _) in &wants(&actions) {
            times += 1;
            actions = bench.tell(Input::Busy {
                peer: peer(to),
                request,
                retry: Duration::from_millis(20),
                alternatives: Vec::new(),
            });
            seen += lookups(&actions);
        }
        if times < 8 {
            assert_eq!(seen, 0, "after {times}");
            actions = bench.pass(20);
        }
    }
    assert_eq!(seen, 1);
    let next = bench.route(0, parents(&[3]));
    assert_eq!(wants(&[next, bench.pass(30)].concat())[0].0, 3);
}

// The one asked in a dead parent's place was busy for a moment. It was not asked again, for there was a request under
// way: the one to the dead.
#[test]
fn a_request_that_nobody_hears_does_not_keep_others_from_being_asked() {
    let mut bench = Bench::routed();
    assert_eq!(wants(&bench.want(4, Class::Demand))[0].0, 1);
    let (to, request, _) = wants(&bench.pass(300))[0];
    assert_eq!(to, 2);
    bench.tell(Input::Busy {
        peer: peer(2),
        request,
        retry: Duration::from_millis(20),
        alternatives: Vec::new(),
    });
    let next = bench.pass(25);
    assert_eq!(wants(&next)[0].0, 2, "{next:?}");
}

/// The node has learnt that chunks come quickly, and hedges soon.
fn hurried() -> Bench {
    let mut bench = Bench::routed();
    for number in (6..40).step_by(2) {
        let (to, request, _) = wants(&bench.want(number, Class::Demand))[0];
        bench.tell(Input::Data {
            peer: peer(to),
            request,
            arrival: Arrival::Kept,
        });
    }
    bench
}

// The one asked beside a parent that had just died had no time, and named others. They were not asked: the parent was not known to
// be silent yet, and when it was, nobody looked. The reader waited for the end of its patience and read the registry.
#[test]
fn whom_a_busy_hedge_names_is_asked_once_the_first_is_known_to_say_nothing() {
    let mut bench = hurried();
    assert_eq!(wants(&bench.want(4, Class::Demand))[0].0, 1);
    let (to, request, _) = wants(&bench.pass(60))[0];
    assert_eq!(to, 2);
    let busy = Input::Busy {
        peer: peer(2),
        request,
        retry: Duration::from_millis(400),
        alternatives: vec![member(9)],
    };
    assert!(wants(&bench.tell(busy)).is_empty(), "the first may answer");
    let next = bench.pass(300);
    assert_eq!(wants(&next)[0].0, 9, "{next:?}");
    assert!(reads(&next).is_empty(), "{next:?}");
}

/// A node whose parent says nothing, while the tracker that named it is away: what it does about chunk 4.
fn without_a_parent(known: impl Iterator<Item = u8>) -> Vec<Action> {
    let mut bench = Bench::routed();
    bench.members(&known.collect::<Vec<_>>(), Some(FOR_EVER));
    bench.route(0, parents(&[1, 3]));
    bench.tell(Input::TrackerDown);
    assert_eq!(wants(&bench.want(4, Class::Demand))[0].0, 1);
    bench.pass(400)
}

// While the tracker was away a node whose two parents it had named were gone had nobody to turn to but the registry, though it
// knew of many members.
#[test]
fn without_the_tracker_members_of_a_crowd_stand_in_for_a_parent_that_says_nothing() {
    let next = without_a_parent(0..=255);
    let asked = wants(&next);
    assert!(!asked.is_empty() && asked[0].0 != 1, "{next:?}");
    assert!(reads(&next).is_empty(), "{next:?}");
}

// The tracker went, and with it its seed, the first of every stripe. Those below the seed turned to the trees that they know, in which whoever
// waited for them came first: all waited for each other for 2 s.
#[test]
fn without_the_tracker_whoever_is_the_first_left_in_its_order_reads_the_registry() {
    let next = without_a_parent(0..40);
    assert!(wants(&next).is_empty(), "{next:?}");
    assert_eq!(reads(&next).len(), 1, "{next:?}");
    assert_eq!(reads(&next)[0].1, 4, "{next:?}");
}

// Of 3,000 simulated hosts each that met a parent which was late read the registry after half a second, 13 times in all, and of
// 10,000 that lost their tracker it was 3,238 times.
#[test]
fn the_registry_is_the_last_resort_in_a_swarm_too_large_to_know() {
    for (names, is_crowd) in [(0..=254, false), (0..=255, true)] {
        let mut bench = Bench::routed();
        bench.members(&names.collect::<Vec<_>>(), Some(FOR_EVER));
        bench.route(0, parents(&[1]));
        let asked = bench.want(4, Class::Demand);
        assert_eq!(wants(&asked).len(), 1);
        let soon = [bench.pass(520), bench.pass(500)].concat();
        assert_eq!(reads(&soon).is_empty(), is_crowd, "{is_crowd}");
        let later = bench.pass(1_100);
        assert_eq!(reads(&later).is_empty(), !is_crowd, "{is_crowd}");
    }
}

// Both who were asked for a chunk had died. Each was left for the other, and the chunk came of the registry after its
// reader's patience: of ten thousand hosts enough for a pull.
#[test]
fn when_both_who_were_asked_are_silent_a_third_is() {
    let mut bench = Bench::routed();
    bench.route(0, parents(&[1, 1, 2, 3]));
    let first = wants(&bench.want(4, Class::Prefetch));
    assert_eq!(first[0].0, 1);
    let second = wants(&bench.pass(320));
    assert_eq!(second[0].0, 2);
    let next = bench.pass(400);
    assert_eq!(wants(&next)[0].0, 3);
    assert!(reads(&next).is_empty());
    let mut left = cancelled(&next);
    left.sort_unstable();
    assert_eq!(left, [first[0].1, second[0].1]);
}
