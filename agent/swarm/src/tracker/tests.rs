//! The tracker, one decision at a time.

use tranship_format::wire::{
    BlobInfo, ChunkId, Fault, Goodput, ImageSource, LeaseState, Role, Route, StripeRoute,
    StripeRun, StripeState,
};

use super::*;

const START: Duration = Duration::from_secs(100);

fn ms(ms: u64) -> Duration {
    START + Duration::from_millis(ms)
}

fn peer(name: u8) -> PeerId {
    PeerId::from_bytes(&[name]).unwrap()
}

fn blob() -> Digest {
    Digest::of(b"blob")
}

fn chunk() -> ChunkId {
    ChunkId {
        blob: blob(),
        number: 0,
    }
}

fn member(name: u8, zone: &str, role: Role) -> Member {
    Member {
        peer: peer(name),
        addresses: Vec::new(),
        zone: zone.to_owned(),
        rack: String::new(),
        role,
    }
}

/// A tracker with agents 1 to `count` in one zone, who have all opened the blob of four stripes.
fn swarm(count: u8) -> Tracker {
    let mut tracker = Tracker::new(TrackerOptions::default(), 1, []);
    for name in 1..=count {
        join(&mut tracker, member(name, "a", Role::Agent));
    }
    tracker
}

fn join(tracker: &mut Tracker, member: Member) {
    let from = member.peer;
    tracker.handle(
        START,
        Input::Joined {
            member,
            boot_id: [0; 16],
        },
    );
    let image = ImageSource {
        registry: String::new(),
        repository: String::new(),
        manifest: Digest::of(b"manifest"),
    };
    let blobs = vec![BlobInfo {
        digest: blob(),
        len: 1 << 26,
        chunk_count: 256,
    }];
    tell(tracker, START, from, TrackerRequest::Open { image, blobs });
}

/// Handles a request and gives all replies that follow from it, to whomever.
fn tell(
    tracker: &mut Tracker,
    now: Duration,
    from: PeerId,
    message: TrackerRequest,
) -> Vec<(PeerId, TrackerReply)> {
    tracker.handle(
        now,
        Input::Request {
            from,
            request: 1,
            message,
        },
    );
    replies(tracker, now)
}

fn replies(tracker: &mut Tracker, now: Duration) -> Vec<(PeerId, TrackerReply)> {
    let mut replies = Vec::new();
    while let Some(action) = tracker.poll(now) {
        if let Action::Reply { to, reply, .. } = action {
            replies.push((to, reply));
        }
    }
    replies
}

/// The route of stripe 0 for a member, which must be told to it.
fn lookup(tracker: &mut Tracker, now: Duration, name: u8) -> Route {
    let request = TrackerRequest::Lookup {
        blob: blob(),
        stripes: vec![0],
    };
    route_told(&tell(tracker, now, peer(name), request), name)
}

fn route_told(replies: &[(PeerId, TrackerReply)], name: u8) -> Route {
    let told = replies.iter().rev().find_map(|(to, reply)| match reply {
        TrackerReply::Routes { routes, .. } if *to == peer(name) => Some(routes[0].route.clone()),
        _ => None,
    });
    told.unwrap()
}

fn lease(route: &Route) -> u64 {
    let Route::Origin { lease, .. } = route else {
        panic!("no lease but {route:?}")
    };
    *lease
}

fn parents(route: &Route) -> Vec<u8> {
    let Route::Parents(parents) = route else {
        panic!("no parents but {route:?}")
    };
    parents
        .iter()
        .map(|parent| parent.peer.as_bytes()[0])
        .collect()
}

fn announce(tracker: &mut Tracker, now: Duration, name: u8, state: StripeState) {
    let runs = vec![StripeRun { state, count: 1 }];
    tell(
        tracker,
        now,
        peer(name),
        TrackerRequest::Announce { blob: blob(), runs },
    );
}

fn progress(
    tracker: &mut Tracker,
    now: Duration,
    name: u8,
    lease: u64,
    done_len: u64,
    state: LeaseState,
) -> Vec<(PeerId, TrackerReply)> {
    tell(
        tracker,
        now,
        peer(name),
        TrackerRequest::Progress {
            lease,
            done_len,
            state,
        },
    )
}

#[test]
fn the_first_to_ask_reads_the_registry_and_the_next_become_its_tree() {
    let mut tracker = swarm(7);
    lease(&lookup(&mut tracker, START, 1));
    let first: Vec<u8> = (2..=7)
        .map(|name| parents(&lookup(&mut tracker, START, name))[0])
        .collect();
    assert_eq!(
        first,
        [1, 1, 2, 2, 3, 3],
        "two children each, in the order they came"
    );
}

#[test]
fn who_asks_again_keeps_the_lease_but_gets_another_parent() {
    let mut tracker = swarm(3);
    let before = lease(&lookup(&mut tracker, START, 1));
    assert_eq!(lease(&lookup(&mut tracker, ms(100), 1)), before);
    lookup(&mut tracker, START, 2);
    assert_eq!(parents(&lookup(&mut tracker, START, 3)), [1, 2]);
    assert_eq!(parents(&lookup(&mut tracker, START, 3)), [2, 1]);
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
    assert_eq!(parents(&route_told(&told, 3))[0], 2);
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
fn one_accuser_only_keeps_the_two_apart_and_the_second_bans() {
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
    let mut banned = Vec::new();
    while let Some(action) = tracker.poll(ms(4)) {
        if let Action::Banned { peer } = action {
            banned.push(peer);
        }
    }
    assert_eq!(banned, [peer(1)]);
    assert_eq!(parents(&lookup(&mut tracker, ms(5), 4)), [2, 3]);
    join(&mut tracker, member(1, "a", Role::Agent));
    assert!(tracker.is_banned(&peer(1)) && tracker.census().members == 3);
    let beat = TrackerRequest::Heartbeat {
        load_permille: 0,
        epoch: 1,
        goodputs: Vec::new(),
    };
    let told = tell(&mut tracker, ms(6), peer(4), beat);
    assert_eq!(
        told[0].1,
        TrackerReply::HeartbeatAck {
            epoch: 1,
            bans: vec![peer(1)]
        }
    );
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
    tell(&mut tracker, ms(1), peer(2), report());
    assert_eq!(tracker.census().members, 3);
    tell(&mut tracker, ms(2), peer(3), report());
    assert_eq!(tracker.census().members, 2);
}

#[test]
fn the_near_come_before_the_far_and_the_seed_before_all() {
    let mut tracker = swarm(1);
    join(&mut tracker, member(2, "b", Role::Agent));
    join(&mut tracker, member(3, "b", Role::Agent));
    lookup(&mut tracker, START, 1);
    lookup(&mut tracker, START, 2);
    assert_eq!(parents(&lookup(&mut tracker, START, 3)), [2, 1]);
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
    assert_eq!(parents(&lookup(&mut tracker, ms(5_001), 6)), [2, 1]);
}

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
        let image = ImageSource {
            registry: String::new(),
            repository: String::new(),
            manifest: blob(),
        };
        let blobs = vec![BlobInfo {
            digest: blob(),
            len: 1,
            chunk_count: 1,
        }];
        tell(
            &mut tracker,
            now,
            peer(name),
            TrackerRequest::Open { image, blobs },
        );
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
        let image = ImageSource {
            registry: String::new(),
            repository: String::new(),
            manifest: blob(),
        };
        let digest = Digest::of(name.as_bytes());
        let blobs = vec![BlobInfo {
            digest,
            len: 1,
            chunk_count: 1,
        }];
        tell(
            &mut tracker,
            ms(1),
            peer(1),
            TrackerRequest::Open { image, blobs },
        );
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
