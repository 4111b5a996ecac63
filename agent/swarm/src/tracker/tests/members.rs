//! Who is in the swarm, near or far, and who is kept apart.

use super::*;

#[test]
fn children_of_the_dead_are_told_of_another_before_they_ask() {
    let mut tracker = swarm(5);
    for name in 1..=5 {
        lookup(&mut tracker, START, name);
    }
    tracker.handle(ms(1), Input::Gone { peer: peer(2) });
    let told = replies(&mut tracker, ms(1));
    assert_eq!(parents(&route_told(&told, 4))[0], 1);
    tracker.handle(ms(2), Input::Gone { peer: peer(1) });
    let told = replies(&mut tracker, ms(2));
    lease(&route_told(&told, 3));
}

#[test]
fn who_misses_its_heartbeats_is_dead() {
    let mut tracker = swarm(2);
    lookup(&mut tracker, START, 1);
    lookup(&mut tracker, START, 2);
    let beat = TrackerRequest::Heartbeat {
        load_permille: 0,
        epoch: 1,
        goodputs: Vec::new(),
    };
    tell(&mut tracker, ms(10_000), peer(2), beat.clone());
    let told = tell(&mut tracker, ms(15_000), peer(2), beat.clone());
    assert!(matches!(
        told[0].1,
        TrackerReply::HeartbeatAck { epoch: 1, .. }
    ));
    assert_eq!(tracker.census().members, 1);
    let told = tell(&mut tracker, ms(15_000), peer(1), beat);
    let code = ErrorCode::NotAMember;
    assert!(matches!(&told[0].1, TrackerReply::Error { code: found, .. } if *found == code));
}

#[test]
fn one_accuser_only_keeps_the_two_apart_and_after_the_second_nobody_is_sent_to_it() {
    let mut tracker = swarm(4);
    lookup(&mut tracker, START, 1);
    announce(&mut tracker, START, 1, StripeState::Complete);
    assert_eq!(parents(&lookup(&mut tracker, START, 2)), [1]);
    let report = || TrackerRequest::Report {
        fault: Fault::WrongChunk,
        peer: peer(1),
        chunk: chunk(),
    };
    tell(&mut tracker, ms(1), peer(2), report());
    tell(&mut tracker, ms(2), peer(2), report());
    lease(&lookup(&mut tracker, ms(3), 2));
    assert_eq!(
        parents(&lookup(&mut tracker, ms(3), 3))[0],
        1,
        "others still go to it"
    );
    tracker.handle(
        ms(4),
        Input::Request {
            from: peer(3),
            request: 1,
            message: report(),
        },
    );
    let mut shunned = Vec::new();
    while let Some(action) = tracker.poll(ms(4)) {
        if let Action::Shunned { peer } = action {
            shunned.push(peer);
        }
    }
    assert_eq!(shunned, [peer(1)]);
    let mut left = parents(&lookup(&mut tracker, ms(5), 4));
    left.sort_unstable();
    left.dedup();
    assert_eq!(left, [2, 3]);
    assert_eq!(tracker.census().members, 4);
}

// Banned, it had nobody to ask and read what it needed of the registry: half of what a crowd of 32 cost.
#[test]
fn who_is_shunned_is_sent_to_others_and_nobody_to_it() {
    let mut tracker = swarm(5);
    lookup(&mut tracker, START, 1);
    announce(&mut tracker, START, 1, StripeState::Complete);
    lookup(&mut tracker, START, 2);
    lookup(&mut tracker, START, 3);
    for by in [2, 3] {
        let report = TrackerRequest::Report {
            fault: Fault::WrongChunk,
            peer: peer(1),
            chunk: chunk(),
        };
        tell(&mut tracker, ms(1), peer(by), report);
    }
    announce(&mut tracker, ms(2), 1, StripeState::Complete);
    // Its accusers are kept apart from it: others are not.
    lookup(&mut tracker, ms(2), 4);
    assert_eq!(parents(&lookup(&mut tracker, ms(3), 1))[0], 4);
    let told = parents(&lookup(&mut tracker, ms(3), 5));
    assert!(!told.contains(&1), "{told:?}");
    // A restart of its agent does not help it, the operator's word does.
    let (member, boot_id) = (member(1, "a", Role::Agent), [7; 16]);
    tracker.handle(ms(4), Input::Joined { member, boot_id });
    let is_shunned = |tracker: &Tracker| {
        let mut all = tracker.standings(ms(5));
        all.any(|standing| standing.member.peer == peer(1) && standing.is_shunned)
    };
    assert!(is_shunned(&tracker));
    tracker.handle(ms(5), Input::Unban { peer: peer(1) });
    assert!(!is_shunned(&tracker));
}

#[test]
fn two_who_accuse_each_other_do_not_take_the_lease_from_each_other() {
    let mut tracker = swarm(2);
    let held = lease(&lookup(&mut tracker, START, 1));
    lookup(&mut tracker, START, 2);
    for (by, of) in [(1, 2), (2, 1)] {
        let peer_of = peer(of);
        let report = TrackerRequest::Report {
            fault: Fault::Dead,
            peer: peer_of,
            chunk: chunk(),
        };
        tell(&mut tracker, ms(1), peer(by), report);
    }
    assert!(matches!(lookup(&mut tracker, ms(2), 2), Route::Wait { .. }));
    assert_eq!(lease(&lookup(&mut tracker, ms(2), 1)), held);
}

#[test]
fn two_reports_of_death_remove_a_member_and_one_does_not() {
    let mut tracker = swarm(3);
    let report = || TrackerRequest::Report {
        fault: Fault::Dead,
        peer: peer(1),
        chunk: chunk(),
    };
    tell(&mut tracker, ms(3_001), peer(2), report());
    assert_eq!(tracker.census().members, 3);
    tell(&mut tracker, ms(3_002), peer(3), report());
    assert_eq!(tracker.census().members, 2);
}

// An agent that restarted was back before its children had told of its death; then their word took it out again,
// and until its next heartbeat the tracker knew nothing of it.
#[test]
fn reports_of_a_death_before_it_joined_do_not_remove_a_member() {
    let mut tracker = swarm(3);
    let (member, boot_id) = (member(1, "a", Role::Agent), [7; 16]);
    tracker.handle(ms(5_000), Input::Joined { member, boot_id });
    for by in [2, 3] {
        let report = TrackerRequest::Report {
            fault: Fault::Dead,
            peer: peer(1),
            chunk: chunk(),
        };
        tell(&mut tracker, ms(5_001), peer(by), report);
    }
    assert_eq!(tracker.census().members, 3);
}

#[test]
fn the_near_come_before_the_far_and_the_seed_before_all() {
    let mut tracker = swarm(1);
    join(&mut tracker, member(2, "b", Role::Agent));
    join(&mut tracker, member(3, "b", Role::Agent));
    lookup(&mut tracker, START, 1);
    lookup(&mut tracker, START, 2);
    assert_eq!(parents(&lookup(&mut tracker, START, 3)), [2, 1, 1]);
    join(&mut tracker, member(4, "c", Role::Seed));
    join(&mut tracker, member(5, "b", Role::Agent));
    announce(&mut tracker, START, 4, StripeState::Complete);
    assert_eq!(parents(&lookup(&mut tracker, START, 5))[0], 4);
    let busy = TrackerRequest::Heartbeat {
        load_permille: 900,
        epoch: 1,
        goodputs: Vec::new(),
    };
    tell(&mut tracker, START, peer(4), busy);
    join(&mut tracker, member(6, "b", Role::Agent));
    assert_ne!(
        parents(&lookup(&mut tracker, START, 6))[0],
        4,
        "a busy seed is a peer like others"
    );
}

#[test]
fn a_member_that_joins_again_is_near_those_who_are_where_it_says() {
    let of_three = |second: [&str; 2]| {
        let mut tracker = swarm(1);
        lookup(&mut tracker, START, 1);
        let [before, after] = second;
        join(&mut tracker, member(2, before, Role::Agent));
        lookup(&mut tracker, START, 2);
        join(&mut tracker, member(2, after, Role::Agent));
        join(&mut tracker, member(3, "b", Role::Agent));
        parents(&lookup(&mut tracker, START, 3))
    };
    let [near, far] = [["b", "b"], ["c", "c"]].map(of_three);
    assert_ne!(near, far);
    assert_eq!(of_three(["c", "b"]), near);
    assert_eq!(of_three(["b", "c"]), far);
}

#[test]
fn who_three_find_slow_is_nobodys_parent_for_a_while() {
    let mut tracker = swarm(6);
    announce(&mut tracker, START, 1, StripeState::Complete);
    announce(&mut tracker, START, 2, StripeState::Complete);
    for name in 3..=5 {
        let goodput = |peer, bytes_per_second| Goodput {
            peer,
            bytes_per_second,
        };
        let goodputs = vec![goodput(peer(1), 1_000), goodput(peer(2), 1_000_000)];
        let beat = TrackerRequest::Heartbeat {
            load_permille: 0,
            epoch: 1,
            goodputs,
        };
        tell(&mut tracker, ms(1), peer(name), beat);
    }
    replies(&mut tracker, ms(5_000));
    assert_eq!(parents(&lookup(&mut tracker, ms(5_001), 6)), [2, 2, 1]);
}

/// Members 1 to `count` in the order in which they asked for the stripe; what two of them say of another follows.
fn line_of(count: u8) -> Tracker {
    let mut tracker = swarm(count);
    for name in 1..=count {
        lookup(&mut tracker, START, name);
    }
    tracker
}

fn find_slow(tracker: &mut Tracker, by: u8, of: u8) -> Vec<(PeerId, TrackerReply)> {
    let report = TrackerRequest::Report {
        fault: Fault::Slow,
        peer: peer(of),
        chunk: chunk(),
    };
    tell(tracker, ms(1), peer(by), report)
}

// One of sixteen hosts had a link of a twentieth. It stayed the parent of those who said so until the next heartbeat, and
// all below them waited: two and three times as long as the others alone.
#[test]
fn children_of_a_slow_parent_are_told_of_another_once_two_say_so() {
    let mut tracker = line_of(6);
    let is_child = |route: &Route| parents(route)[..2.min(parents(route).len())].contains(&2);
    let before: Vec<u8> = (3..=6)
        .filter(|&name| {
            let number = tracker.members.number(&peer(name)).unwrap();
            let two = tracker.members.number(&peer(2));
            let id = StripeId {
                blob: tracker.key_of(START, number, &blob()).unwrap(),
                number: 0,
            };
            tracker
                .blobs
                .stripe(id)
                .unwrap()
                .parents(number)
                .contains(&two)
        })
        .collect();
    assert!(!before.is_empty());
    assert!(
        find_slow(&mut tracker, 5, 2)
            .iter()
            .all(|(to, _)| *to == peer(5)),
        "one alone"
    );
    let told = find_slow(&mut tracker, 6, 2);
    for name in before {
        assert!(!is_child(&route_told(&told, name)), "{name} {told:?}");
    }
    let again = find_slow(&mut tracker, 4, 2);
    assert_eq!(again.len(), 1, "it is known");
}

// Two had to wait for it in vain each time, and the next sixteenth of the image was given to it meanwhile.
#[test]
fn who_says_of_itself_that_it_is_slow_is_believed() {
    let mut tracker = swarm(7);
    for name in 1..=6 {
        lookup(&mut tracker, START, name);
    }
    let told = find_slow(&mut tracker, 2, 2);
    assert!(told.iter().any(|(to, _)| *to != peer(2)), "{told:?}");
    let again = find_slow(&mut tracker, 2, 2);
    assert_eq!(again.len(), 1, "it is known");
    assert!(!parents(&lookup(&mut tracker, ms(2), 7)).starts_with(&[2]));
}

// The first of sixteen hosts was the slow one, and held every lease: it read as fast as the registry gave, and nobody got
// anything of it. Eight times as long as it takes, and two and a half pulls.
#[test]
fn a_slow_holder_of_a_lease_loses_it_once_two_say_so() {
    let mut tracker = line_of(4);
    find_slow(&mut tracker, 2, 1);
    let told = find_slow(&mut tracker, 3, 1);
    lease(&route_told(&told, 2));
    assert_ne!(parents(&route_told(&told, 1))[0], 1);
    assert_eq!(parents(&lookup(&mut tracker, ms(2), 4))[0], 2);
}

#[test]
fn what_a_slow_member_reads_alone_is_left_to_the_next_that_asks() {
    let mut tracker = swarm(4);
    lookup(&mut tracker, START, 1);
    find_slow(&mut tracker, 2, 1);
    assert_eq!(
        find_slow(&mut tracker, 3, 1).len(),
        1,
        "there is nobody to have it"
    );
    lease(&lookup(&mut tracker, ms(2), 4));
    assert_eq!(parents(&lookup(&mut tracker, ms(3), 1))[0], 4);
}

#[test]
fn the_seed_stays_the_first_whatever_is_said_of_it() {
    let mut tracker = swarm(3);
    join(&mut tracker, member(9, "a", Role::Seed));
    for name in 1..=3 {
        lookup(&mut tracker, START, name);
    }
    for by in 1..=3 {
        assert_eq!(find_slow(&mut tracker, by, 9).len(), 1);
    }
}
