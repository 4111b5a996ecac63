//! Who reads the registry for a stripe, and for how long.

use super::*;

#[test]
fn the_first_to_ask_reads_the_registry_and_the_next_become_its_two_trees() {
    let mut tracker = swarm(63);
    lease(&lookup(&mut tracker, START, 1));
    for name in 2..=63 {
        lookup(&mut tracker, START, name);
    }
    let view = tracker.stripes().next().unwrap();
    for tree in 0..2 {
        let parent = |of: PeerId| {
            let joiner = view.joiners.iter().find(|joiner| joiner.0 == of);
            joiner.and_then(|joiner| joiner.1[tree])
        };
        for &(of, ..) in &view.joiners {
            let hops = std::iter::successors(Some(of), |at| parent(*at)).count();
            assert!(hops <= 8, "{of} is {hops} hops away");
        }
    }
    for &(of, ..) in &view.joiners {
        let in_tree = |tree: usize| {
            let children = view.joiners.iter().map(|joiner| joiner.1[tree]);
            children.filter(|parent| *parent == Some(of)).count()
        };
        assert!(in_tree(0) + in_tree(1) <= 3, "{of} sends it more than once");
    }
}

// A newcomer takes the place of a leaf, which was told to it as a reserve all the same and waits for it from then on.
#[test]
fn nobody_in_reserve_waits_for_whom_it_is_told_to() {
    let mut tracker = swarm(63);
    lookup(&mut tracker, START, 1);
    let mut reserves = 0;
    for name in 2..=63 {
        let told = parents(&lookup(&mut tracker, START, name));
        let view = tracker.stripes().next().unwrap();
        for (tree, reserve) in told.iter().skip(2).flat_map(|name| [(0, name), (1, name)]) {
            let parent = |of: PeerId| {
                let joiner = view.joiners.iter().find(|joiner| joiner.0 == of);
                joiner.and_then(|joiner| joiner.1[tree])
            };
            let mut line = std::iter::successors(Some(peer(*reserve)), |at| parent(*at));
            assert!(line.all(|above| above != peer(name)), "{reserve} of {name}");
            reserves += 1;
        }
    }
    assert!(reserves > 100, "{reserves}");
}

#[test]
fn who_asks_again_keeps_the_lease_but_gets_another_parent() {
    let mut tracker = swarm(3);
    let before = lease(&lookup(&mut tracker, START, 1));
    assert_eq!(lease(&lookup(&mut tracker, ms(100), 1)), before);
    lookup(&mut tracker, START, 2);
    assert_eq!(parents(&lookup(&mut tracker, START, 3)), [2, 1, 1]);
    assert_eq!(parents(&lookup(&mut tracker, START, 3)), [1]);
}

#[test]
fn a_lease_without_progress_goes_to_the_next_in_line_and_its_loser_behind() {
    let mut tracker = swarm(3);
    for name in 1..=3 {
        lookup(&mut tracker, START, name);
    }
    assert!(replies(&mut tracker, ms(499)).is_empty());
    let told = replies(&mut tracker, ms(500));
    lease(&route_told(&told, 2));
    assert_eq!(parents(&route_told(&told, 1))[0], 2);
    assert!(parents(&route_told(&told, 3)).contains(&2));
}

#[test]
fn progress_renews_a_lease_and_standing_still_does_not() {
    let mut tracker = swarm(2);
    let held = lease(&lookup(&mut tracker, START, 1));
    lookup(&mut tracker, START, 2);
    progress(&mut tracker, ms(400), 1, held, 1, LeaseState::Reading);
    progress(&mut tracker, ms(800), 1, held, 1, LeaseState::Reading);
    assert!(replies(&mut tracker, ms(899)).is_empty());
    lease(&route_told(&replies(&mut tracker, ms(900)), 2));
    let late = progress(&mut tracker, ms(901), 1, held, 2, LeaseState::Reading);
    assert_eq!(
        late[0].1,
        TrackerReply::ProgressAck {
            lease: held,
            expires_ms: None
        }
    );
}

#[test]
fn a_resting_lease_stays_until_more_is_wanted() {
    let mut tracker = swarm(2);
    let held = lease(&lookup(&mut tracker, START, 1));
    lookup(&mut tracker, START, 2);
    progress(&mut tracker, ms(100), 1, held, 9, LeaseState::Resting);
    assert!(replies(&mut tracker, ms(5_000)).is_empty());
    progress(&mut tracker, ms(6_000), 1, held, 9, LeaseState::Reading);
    lease(&route_told(&replies(&mut tracker, ms(6_500)), 2));
}

#[test]
fn a_slow_registry_does_not_send_the_lease_round_ever_faster() {
    let mut tracker = swarm(2);
    lookup(&mut tracker, START, 1);
    lookup(&mut tracker, START, 2);
    lease(&route_told(&replies(&mut tracker, ms(500)), 2));
    assert!(
        replies(&mut tracker, ms(1_499)).is_empty(),
        "the second term is twice as long"
    );
    lease(&route_told(&replies(&mut tracker, ms(1_500)), 1));
}

#[test]
fn a_lease_that_nobody_else_wants_stays_until_somebody_does() {
    let mut tracker = swarm(2);
    let held = lease(&lookup(&mut tracker, START, 1));
    assert!(replies(&mut tracker, ms(900)).is_empty());
    assert!(lease(&lookup(&mut tracker, ms(901), 2)) > held);
}

#[test]
fn a_lease_given_back_goes_to_the_next() {
    let mut tracker = swarm(2);
    let held = lease(&lookup(&mut tracker, START, 1));
    lookup(&mut tracker, START, 2);
    let told = progress(&mut tracker, ms(1), 1, held, 0, LeaseState::Released);
    lease(&route_told(&told, 2));
}

#[test]
fn a_tracker_that_stops_lets_leases_end_and_gives_none() {
    let mut tracker = swarm(4);
    let [first, second] = [1, 2].map(|name| {
        let request = TrackerRequest::Lookup {
            blob: blob(),
            stripes: vec![u32::from(name)],
        };
        lease(&route_told(
            &tell(&mut tracker, START, peer(name), request),
            name,
        ))
    });
    assert_eq!(tracker.reading_count(), 2);
    tracker.drain();
    lookup_nothing(&mut tracker, START, 3);
    progress(&mut tracker, ms(400), 1, first, 1, LeaseState::Reading);
    assert_eq!(tracker.reading_count(), 2, "one goes on");
    assert!(replies(&mut tracker, ms(500)).is_empty());
    assert_eq!(tracker.reading_count(), 1, "the other is over");
    progress(&mut tracker, ms(600), 2, second, 1, LeaseState::Released);
    progress(&mut tracker, ms(800), 1, first, 9, LeaseState::Resting);
    assert_eq!(tracker.reading_count(), 0, "nothing is read");
}

/// Stripe 0, which nobody has, is asked for in vain.
fn lookup_nothing(tracker: &mut Tracker, now: Duration, name: u8) {
    let route = lookup(tracker, now, name);
    assert!(matches!(route, Route::Wait { .. }), "{route:?}");
}

#[test]
fn no_more_stripes_are_read_at_once_than_may_be() {
    let options = TrackerOptions {
        origin_reads: 2,
        ..TrackerOptions::default()
    };
    let mut tracker = Tracker::new(options, 1, []);
    for name in 1..=3 {
        join(&mut tracker, member(name, "a", Role::Agent));
    }
    let ask = |tracker: &mut Tracker, now, name: u8, stripe| {
        let request = TrackerRequest::Lookup {
            blob: blob(),
            stripes: vec![stripe],
        };
        route_told(&tell(tracker, now, peer(name), request), name)
    };
    let first = lease(&ask(&mut tracker, START, 1, 0));
    let second = lease(&ask(&mut tracker, START, 2, 1));
    let full = ask(&mut tracker, START, 3, 2);
    assert!(matches!(full, Route::Wait { ms: 250 }), "{full:?}");
    // A lease that rests makes room, as one does that goes from hand to hand.
    progress(&mut tracker, ms(100), 1, first, 1, LeaseState::Resting);
    lease(&ask(&mut tracker, ms(101), 3, 2));
    let full = ask(&mut tracker, ms(102), 1, 3);
    assert!(matches!(full, Route::Wait { .. }), "{full:?}");
    assert!(parents(&ask(&mut tracker, ms(103), 1, 1)).contains(&2));
    let told = progress(&mut tracker, ms(104), 2, second, 0, LeaseState::Released);
    lease(&route_told(&told, 1));
    assert_eq!(tracker.reading_count(), 2);
    // Those who were given theirs fall silent, and the bound does not hang on them for ever.
    replies(&mut tracker, ms(60_000));
    assert!(tracker.reading_count() <= 2);
}

// A tracker that had begun anew made those who had waited for the reader of the registry its parents: it waited for them, and they
// for it, until somebody's patience ended.
#[test]
fn whoever_asks_about_what_it_has_begun_reads_for_those_who_have_begun_it_too() {
    let mut tracker = swarm(4);
    tracker.grace_until = START;
    for name in [2, 3, 1] {
        announce(&mut tracker, ms(1), name, StripeState::InFlight);
    }
    let held = lease(&lookup(&mut tracker, ms(2), 1));
    assert_eq!(
        parents(&lookup(&mut tracker, ms(3), 4))[0],
        1,
        "by one that comes later"
    );
    assert_eq!(lease(&lookup(&mut tracker, ms(4), 1)), held);
    assert_eq!(
        parents(&lookup(&mut tracker, ms(5), 2)),
        [1],
        "one reads for all"
    );
}

// Who lost its parents and asked was given others of those at it, some of which waited for it.
#[test]
fn whoever_has_begun_and_asks_again_is_sent_to_the_reader_alone_while_there_is_one() {
    let mut tracker = swarm(40);
    tracker.grace_until = START;
    for name in 1..=40 {
        announce(&mut tracker, ms(1), name, StripeState::InFlight);
    }
    let held = lease(&lookup(&mut tracker, ms(2), 20));
    for name in 21..=40 {
        assert_eq!(parents(&lookup(&mut tracker, ms(3), name)), [20]);
    }
    let told = progress(&mut tracker, ms(4), 20, held, 0, LeaseState::Released);
    assert!(
        told.iter()
            .any(|(_, reply)| matches!(reply, TrackerReply::Routes { .. }))
    );
    replies(&mut tracker, ms(5));
    assert!(!parents(&lookup(&mut tracker, ms(6), 20)).contains(&20));
}

#[test]
fn whoever_asks_about_what_it_has_begun_is_sent_to_those_who_have_all_of_it() {
    let mut tracker = swarm(2);
    tracker.grace_until = START;
    announce(&mut tracker, ms(1), 1, StripeState::InFlight);
    announce(&mut tracker, ms(1), 2, StripeState::Complete);
    assert_eq!(parents(&lookup(&mut tracker, ms(2), 1)), [2]);
}

// Within the first seconds of a swarm whoever asked again, since its parent was slow or it had started anew, was sent to the holder of the
// lease, and so were all others: 4.1 to 4.8 T* for 2.3 while 16 agents restarted.
#[test]
fn a_tracker_that_nobody_remembers_has_no_order_to_go_on_in() {
    let options = TrackerOptions {
        grace: Duration::ZERO,
        ..TrackerOptions::default()
    };
    let mut tracker = Tracker::new(options, 1, []);
    for name in 1..=20 {
        join(&mut tracker, member(name, "a", Role::Agent));
    }
    tracker.grace_until = START;
    for name in 1..=19 {
        lookup(&mut tracker, ms(1), name);
    }
    announce(&mut tracker, ms(2), 20, StripeState::InFlight);
    let asked = [20, 19, 18].map(|name| parents(&lookup(&mut tracker, ms(3), name)));
    assert!(asked.iter().all(|parents| parents.len() > 1), "{asked:?}");
}

// A tracker that took over gave the lease to the first that asked, though the holder of the former one's lease read on: one stripe of four
// was read twice.
#[test]
fn a_tracker_that_takes_over_gives_no_lease_to_one_of_those_who_have_begun_a_stripe() {
    let mut tracker = swarm(2);
    for name in [1, 2] {
        announce(&mut tracker, ms(1), name, StripeState::InFlight);
    }
    assert_eq!(parents(&lookup(&mut tracker, ms(2), 2)), [1]);
}
