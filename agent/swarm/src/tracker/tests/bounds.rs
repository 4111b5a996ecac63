//! What is forgotten, refused or crossed on the way, and what is not.

use super::*;

#[test]
fn a_tracker_that_began_anew_sends_nobody_to_the_registry_at_once() {
    let mut tracker = Tracker::new(TrackerOptions::default(), 2, []);
    let now = Duration::from_millis(10);
    for name in 1..=2 {
        tracker.handle(
            now,
            Input::Joined {
                member: member(name, "a", Role::Agent),
                boot_id: [0; 16],
            },
        );
        open(&mut tracker, now, peer(name), (blob(), 1), Some(FOR_EVER));
    }
    assert!(matches!(lookup(&mut tracker, now, 1), Route::Wait { .. }));
    announce(&mut tracker, now, 2, StripeState::Complete);
    assert_eq!(parents(&lookup(&mut tracker, now, 1)), [2]);
}

#[test]
fn what_is_not_open_or_not_there_is_not_answered() {
    let mut tracker = swarm(1);
    let blob = Digest::of(b"another");
    let request = TrackerRequest::Lookup {
        blob,
        stripes: vec![0],
    };
    let told = tell(&mut tracker, START, peer(1), request);
    assert!(matches!(
        told[0].1,
        TrackerReply::Error {
            code: ErrorCode::UnknownBlob,
            ..
        }
    ));
    let request = TrackerRequest::Lookup {
        blob: self::blob(),
        stripes: vec![3, 4, u32::MAX],
    };
    let told = tell(&mut tracker, START, peer(1), request);
    let TrackerReply::Routes { routes, .. } = &told[0].1 else {
        panic!("no routes")
    };
    assert!(matches!(routes[..], [StripeRoute { stripe: 3, .. }]));
}

#[test]
fn a_full_stripe_still_routes_but_registers_nobody() {
    let options = TrackerOptions {
        stripe_members: 2,
        ..TrackerOptions::default()
    };
    let mut tracker = Tracker::new(options, 1, []);
    for name in 1..=4 {
        join(&mut tracker, member(name, "a", Role::Agent));
        lookup(&mut tracker, START, name);
    }
    assert_eq!(tracker.census().registrations, 2);
    assert!(!parents(&lookup(&mut tracker, START, 4)).contains(&3));
}

// Of 5,000 machines that read one image 900 found its stripes full, and all of them were sent to the same parent:
// the swarm said nothing but BUSY from then on.
#[test]
fn those_for_whom_a_full_stripe_has_no_room_are_spread() {
    let options = TrackerOptions {
        stripe_members: 20,
        ..TrackerOptions::default()
    };
    let mut tracker = Tracker::new(options, 1, []);
    for name in 1..=60 {
        join(&mut tracker, member(name, "a", Role::Agent));
    }
    for name in 1..=20 {
        lookup(&mut tracker, START, name);
    }
    let mut children = [0; 61];
    for name in 21..=60 {
        for &parent in parents(&lookup(&mut tracker, START, name)).iter().take(2) {
            children[usize::from(parent)] += 1;
        }
    }
    let most = children.iter().max().unwrap();
    assert!(*most <= 12, "{children:?}");
}

#[test]
fn the_blob_unused_longest_makes_room() {
    let options = TrackerOptions {
        blobs: 2,
        ..TrackerOptions::default()
    };
    let mut tracker = Tracker::new(options, 1, []);
    join(&mut tracker, member(1, "a", Role::Agent));
    lookup(&mut tracker, START, 1);
    for name in ["b", "c"] {
        let digest = Digest::of(name.as_bytes());
        open(&mut tracker, ms(1), peer(1), (digest, 1), Some(FOR_EVER));
    }
    let census = tracker.census();
    assert_eq!(
        (census.blobs, census.registrations, census.leases),
        (2, 0, 0)
    );
}

#[test]
fn a_restarted_node_has_nothing_under_way() {
    let mut tracker = swarm(2);
    lookup(&mut tracker, START, 1);
    lookup(&mut tracker, START, 2);
    let member = member(1, "a", Role::Agent);
    tracker.handle(
        ms(1),
        Input::Joined {
            member,
            boot_id: [1; 16],
        },
    );
    lease(&route_told(&replies(&mut tracker, ms(1)), 2));
}

#[test]
fn news_that_crossed_the_lease_do_not_take_it_away() {
    let mut tracker = swarm(2);
    lookup(&mut tracker, START, 1);
    lookup(&mut tracker, START, 2);
    announce(&mut tracker, ms(1), 1, StripeState::None);
    lease(&lookup(&mut tracker, ms(2), 1));
    assert_eq!(parents(&lookup(&mut tracker, ms(2), 2)), [1]);
    replies(&mut tracker, ms(500));
    lease(&lookup(&mut tracker, ms(501), 2));
}

#[test]
fn dropping_a_stripe_gives_its_children_to_others() {
    let mut tracker = swarm(3);
    for name in 1..=3 {
        lookup(&mut tracker, START, name);
    }
    let runs = Vec::new();
    let told = tell(
        &mut tracker,
        ms(1),
        peer(1),
        TrackerRequest::Announce { blob: blob(), runs },
    );
    lease(&route_told(&told, 2));
    assert_eq!(parents(&route_told(&told, 3)), [2]);
}
