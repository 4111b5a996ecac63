//! What to answer when peers ask.

use tranship_format::wire::{Fault, TrackerRequest};

use super::*;

fn sent(actions: &[Action]) -> Vec<(u8, u32)> {
    let data = |action: &Action| match action {
        Action::SendData { peer, request, .. } => Some((peer.as_bytes()[0], *request)),
        _ => None,
    };
    actions.iter().filter_map(data).collect()
}

fn busy(actions: &[Action]) -> Vec<(u8, Vec<u8>)> {
    let refused = |action: &Action| match action {
        Action::SendBusy {
            peer, alternatives, ..
        } => {
            let named = alternatives
                .iter()
                .map(|other| other.peer.as_bytes()[0])
                .collect();
            Some((peer.as_bytes()[0], named))
        }
        _ => None,
    };
    actions.iter().filter_map(refused).collect()
}

fn waits(actions: &[Action]) -> usize {
    actions
        .iter()
        .filter(|action| matches!(action, Action::SendWait { .. }))
        .count()
}

fn misses(actions: &[Action]) -> usize {
    actions
        .iter()
        .filter(|action| matches!(action, Action::SendMiss { .. }))
        .count()
}

#[test]
fn what_is_here_is_sent_and_what_is_unknown_is_missed() {
    let mut bench = Bench::routed();
    bench.hold([7]);
    assert_eq!(sent(&bench.asked(5, 1, 7, Class::Demand)), [(5, 1)]);
    assert_eq!(misses(&bench.asked(5, 2, 999, Class::Demand)), 1);
    let chunk = ChunkId {
        blob: Digest::of(b"another"),
        number: 0,
    };
    let want = Want {
        class: Class::Demand,
        chunk,
        hash: None,
    };
    assert_eq!(
        misses(&bench.tell(Input::Want {
            peer: peer(5),
            request: 3,
            want
        })),
        1
    );
    let mut bench = Bench::new(|_| {});
    bench.tell(Input::TrackerUp {
        epoch: 1,
        seed: None,
    });
    assert_eq!(
        misses(&bench.asked(5, 4, 180, Class::Demand)),
        1,
        "no part in that stripe"
    );
}

#[test]
fn what_is_on_its_way_is_promised_again_and_again_and_then_sent() {
    let mut bench = Bench::routed();
    let (_, request, _) = wants(&bench.want(4, Class::Demand))[0];
    assert_eq!(waits(&bench.asked(8, 1, 4, Class::Demand)), 1);
    assert!(waits(&bench.pass(210)) >= 2);
    let done = bench.tell(Input::Data {
        peer: peer(1),
        request,
        arrival: Arrival::Kept,
    });
    assert_eq!((completed(&done), sent(&done)), (vec![4], vec![(8, 1)]));
}

#[test]
fn a_chunk_without_room_in_the_store_is_passed_on_and_then_forgotten() {
    let mut bench = Bench::routed();
    let (_, request, _) = wants(&bench.want(4, Class::Demand))[0];
    bench.asked(8, 1, 4, Class::Demand);
    let done = bench.tell(Input::Data {
        peer: peer(1),
        request,
        arrival: Arrival::Passed,
    });
    assert_eq!((completed(&done), sent(&done)), (vec![4], vec![(8, 1)]));
    let asked = bench.asked(9, 1, 4, Class::Demand);
    assert!(
        sent(&asked).is_empty() && waits(&asked) == 1,
        "it is fetched anew"
    );
}

#[test]
fn a_member_of_the_tree_gets_for_others_what_it_does_not_want_itself() {
    let mut bench = Bench::routed();
    bench.want(4, Class::Demand);
    let asked = bench.asked(8, 1, 30, Class::Prefetch);
    assert_eq!((wants(&asked)[0].2, waits(&asked)), (30, 1));
    assert_eq!(bench.node.counters().relayed, 1);
    let (_, request, _) = wants(&asked)[0];
    let gone = bench.tell(Input::Cancel {
        peer: peer(8),
        request: 1,
    });
    assert_eq!(
        cancelled(&gone),
        [request],
        "and no longer than they want it"
    );
}

#[test]
fn two_that_wait_for_each_other_do_not() {
    let mut bench = Bench::routed();
    let (to, _, _) = wants(&bench.want(4, Class::Demand))[0];
    assert_eq!(misses(&bench.asked(to, 1, 4, Class::Demand)), 1);
    bench.asked(2, 1, 4, Class::Demand);
    let next = bench.tell(Input::PeerGone { peer: peer(1) });
    assert!(
        wants(&next).iter().all(|&(to, _, _)| to != 2),
        "who waits for us is not asked"
    );
}

#[test]
fn slots_and_queue_are_bounded_and_busy_names_who_has_the_chunk() {
    let mut bench = Bench::routed();
    bench.hold(0..64);
    bench.tell(Input::PeerUp { member: member(60) });
    send_quickly(&mut bench, 60);
    let mut started = 0;
    let mut queued = 0;
    for request in 0..20 {
        let actions = bench.asked(50, request + 1, request, Class::Prefetch);
        started += sent(&actions).len();
        queued += waits(&actions);
    }
    assert_eq!((started, queued), (4, 16));
    assert_eq!(
        busy(&bench.asked(51, 1, 40, Class::Prefetch)),
        [(51, vec![60])]
    );
    assert_eq!(
        busy(&bench.asked(51, 2, 45, Class::Prefetch)),
        [(51, vec![])]
    );
    assert_eq!(bench.node.load_permille(), 1_000);
}

/// Sends a peer as much as shows how fast the link is: that of a machine of 100 Mbit/s.
fn send_quickly(bench: &mut Bench, name: u8) {
    let peer = peer(name);
    for request in 100..103 {
        let asked = bench.asked(name, request, request - 60, Class::Prefetch);
        assert_eq!(sent(&asked).len(), 1);
        bench.pass(21);
        bench.tell(Input::Sent { peer, request });
    }
}

/// The node with all of stripe 0 and so much time for each of eight chunks that it sent.
fn sent_before(took: u64) -> Bench {
    let mut bench = Bench::routed();
    bench.hold(0..64);
    for request in 0..8 {
        let name = 60 + u8::try_from(request).unwrap() % 2;
        bench.asked(name, request, 40 + request, Class::Prefetch);
        bench.pass(took);
        let peer = peer(name);
        bench.tell(Input::Sent { peer, request });
    }
    bench
}

/// What is sent at once of thirty chunks that somebody asks for, what waits, and what is refused.
fn asked_for_thirty(bench: &mut Bench) -> (usize, usize, usize) {
    let asked = (0..30).map(|request| bench.asked(50, request + 1, request, Class::Prefetch));
    let asked: Vec<Action> = asked.flatten().collect();
    (sent(&asked).len(), waits(&asked), busy(&asked).len())
}

// A link of a fiftieth took as many into its queue as all others, which is twenty seconds of it, and its own questions
// stood behind what it sent: it was the last by half of the time.
#[test]
fn a_slow_link_has_a_short_queue_and_a_very_slow_one_sends_one_chunk_at_a_time() {
    assert_eq!(asked_for_thirty(&mut sent_before(21)), (4, 16, 10));
    assert_eq!(asked_for_thirty(&mut sent_before(120)), (4, 8, 18));
    assert_eq!(asked_for_thirty(&mut sent_before(420)), (1, 0, 29));
}

#[test]
fn what_nobody_else_has_is_waited_for_however_slow_the_link() {
    let mut bench = sent_before(420);
    bench.route(
        0,
        Route::Origin {
            lease: 1,
            expires_ms: 500,
        },
    );
    assert_eq!(asked_for_thirty(&mut bench), (1, 16, 13));
    let mut bench = sent_before(420);
    for name in [1, 2] {
        bench.tell(Input::PeerGone { peer: peer(name) });
    }
    assert_eq!(asked_for_thirty(&mut bench), (1, 16, 13));
}

#[test]
fn a_link_of_which_nothing_is_known_is_given_little_until_it_is() {
    let mut bench = Bench::routed();
    bench.hold(0..64);
    assert_eq!(asked_for_thirty(&mut bench), (2, 16, 12));
    let mut sent_after = |request| {
        bench.pass(21);
        let peer = peer(50);
        sent(&bench.tell(Input::Sent { peer, request })).len()
    };
    assert_eq!([1, 2].map(&mut sent_after), [1, 3]);
}

// A link of a fiftieth took seconds to find out: the first chunks to each peer went into what the kernel holds, and a short
// one was as quick as if it were long. By then ten were on their way, and it was the last of all by twice the time.
#[test]
fn a_slow_link_is_known_before_the_first_chunks_are_through() {
    let mut bench = Bench::routed();
    bench.hold(0..64);
    assert_eq!(sent(&bench.asked(60, 1, 40, Class::Demand)).len(), 1);
    bench.pass(2);
    let (peer_60, peer_61) = (peer(60), peer(61));
    bench.tell(Input::Sent {
        peer: peer_60,
        request: 1,
    });
    assert_eq!(sent(&bench.asked(60, 2, 41, Class::Demand)).len(), 1);
    assert_eq!(sent(&bench.asked(61, 1, 40, Class::Demand)).len(), 1);
    assert_eq!(waits(&bench.asked(60, 3, 42, Class::Prefetch)), 1);
    let told = bench.pass(900);
    let slow = |action: &Action| match action {
        Action::Report { fault, peer, .. } => Some((*fault, *peer)),
        _ => None,
    };
    let said: Vec<_> = told.iter().filter_map(slow).collect();
    assert_eq!(said, [(Fault::Slow, peer(0))], "of itself, once");
    assert_eq!(busy(&told), [(60, vec![])], "somebody else has it");
    assert_eq!(busy(&bench.asked(62, 1, 40, Class::Demand)).len(), 1);
    bench.tell(Input::Sent {
        peer: peer_60,
        request: 2,
    });
    bench.tell(Input::Sent {
        peer: peer_61,
        request: 1,
    });
    assert_eq!(sent(&bench.asked(62, 2, 43, Class::Demand)).len(), 1);
    assert_eq!(busy(&bench.asked(63, 1, 44, Class::Demand)).len(), 1);
}

// A receiver whose own link is slow looks like a slow link from here.
#[test]
fn one_that_takes_long_keeps_nobody_else_waiting() {
    let mut bench = Bench::routed();
    bench.hold(0..64);
    for request in 0..8 {
        assert_eq!(
            sent(&bench.asked(60, request, request, Class::Prefetch)).len(),
            1
        );
        bench.pass(1_000);
        let peer = peer(60);
        bench.tell(Input::Sent { peer, request });
    }
    assert_eq!(sent(&bench.asked(60, 9, 20, Class::Prefetch)).len(), 1);
    send_quickly(&mut bench, 61);
    for name in 62..65 {
        assert_eq!(sent(&bench.asked(name, 1, 0, Class::Prefetch)).len(), 1);
    }
}

#[test]
fn a_request_for_what_was_asked_before_takes_its_place_unless_it_is_being_sent() {
    let mut bench = Bench::routed();
    bench.want(4, Class::Demand);
    assert_eq!(waits(&bench.asked(8, 1, 4, Class::Prefetch)), 1);
    let again = bench.asked(8, 2, 4, Class::Demand);
    assert_eq!(
        (misses(&again), waits(&again)),
        (1, 1),
        "the first is missed"
    );
    bench.hold(0..64);
    send_quickly(&mut bench, 60);
    assert_eq!(sent(&bench.asked(9, 1, 10, Class::Prefetch)), [(9, 1)]);
    assert_eq!(misses(&bench.asked(9, 2, 10, Class::Demand)), 1);
    for request in 6..=8 {
        let asked = bench.asked(9, request, 10 + request, Class::Prefetch);
        assert_eq!(sent(&asked), [(9, request)]);
    }
    assert_eq!(waits(&bench.asked(9, 4, 12, Class::Prefetch)), 1);
    let urgent = bench.asked(9, 5, 12, Class::Demand);
    assert_eq!((misses(&urgent), sent(&urgent)), (1, vec![(9, 5)]));
}

// What was read ahead and then demanded came twice wherever a link was full: the second request found the first
// one's chunk gone from here, and it was still on its way.
#[test]
fn what_left_lately_is_not_sent_again() {
    let mut bench = Bench::routed();
    bench.hold(0..64);
    assert_eq!(sent(&bench.asked(9, 1, 10, Class::Prefetch)), [(9, 1)]);
    bench.tell(Input::Sent {
        peer: peer(9),
        request: 1,
    });
    bench.pass(1_500);
    let again = bench.asked(9, 2, 10, Class::Demand);
    assert_eq!((misses(&again), sent(&again)), (1, vec![]));
    bench.pass(1_000);
    assert_eq!(sent(&bench.asked(9, 3, 10, Class::Demand)), [(9, 3)]);
    bench.tell(Input::PeerGone { peer: peer(9) });
    bench.grant(9, "registry", FOR_EVER);
    let anew = bench.asked(9, 4, 10, Class::Demand);
    assert_eq!(sent(&anew), [(9, 4)], "it was lost with the connection");
}

#[test]
fn demand_is_served_though_bulk_fills_every_place() {
    let mut bench = sent_before(21);
    for request in 0..20 {
        bench.asked(50, request + 1, request, Class::Prefetch);
    }
    let mut started = 0;
    for request in 3..=4 {
        started += sent(&bench.asked(52, request, 40 + request, Class::Demand)).len();
    }
    assert_eq!(started, 2, "slots of its own");
    let actions = bench.asked(52, 5, 45, Class::Demand);
    assert_eq!(
        (waits(&actions), busy(&actions).len()),
        (1, 1),
        "it takes the place of the last"
    );
    let next = bench.tell(Input::Sent {
        peer: peer(52),
        request: 4,
    });
    assert_eq!(sent(&next), [(52, 5)], "and is sent before all others");
}

#[test]
fn too_many_who_wait_for_one_chunk_are_told_of_each_other() {
    let mut bench = Bench::routed();
    bench.want(4, Class::Demand);
    for name in 10..18 {
        bench.tell(Input::PeerUp {
            member: member(name),
        });
        assert_eq!(waits(&bench.asked(name, 1, 4, Class::Demand)), 1);
    }
    assert_eq!(
        busy(&bench.asked(18, 1, 4, Class::Demand)),
        [(18, vec![10, 11, 12, 13])]
    );
}

#[test]
fn a_chunk_that_the_store_lost_is_missed_and_not_offered_again() {
    let mut bench = Bench::routed();
    bench.hold([7, 8]);
    bench.asked(5, 1, 7, Class::Demand);
    let lost = bench.tell(Input::SendFailed {
        peer: peer(5),
        request: 1,
    });
    assert_eq!(misses(&lost), 1);
    assert!(sent(&bench.asked(5, 2, 7, Class::Demand)).is_empty());
}

#[test]
fn a_request_made_twice_is_answered_once() {
    let mut bench = Bench::routed();
    bench.hold([7]);
    bench.asked(5, 1, 7, Class::Demand);
    assert!(bench.asked(5, 1, 7, Class::Demand).is_empty());
}

#[test]
fn who_waits_in_a_queue_is_told_for_how_long() {
    let mut bench = Bench::routed();
    bench.hold(0..64);
    for request in 0..9 {
        bench.asked(50, request + 1, request, Class::Prefetch);
    }
    bench.pass(201);
    let told = bench.pass(100);
    let idle = |action: &Action| match action {
        Action::SendWait {
            request: 9,
            idle,
            hops: 0,
            ..
        } => Some(*idle),
        _ => None,
    };
    let longest = told.iter().filter_map(idle).max();
    assert!(
        longest.is_some_and(|idle| idle >= Duration::from_millis(300)),
        "{longest:?}"
    );
}

#[test]
fn what_changed_is_announced_soon_and_not_for_every_chunk() {
    let mut bench = Bench::routed();
    bench.pass(1_000);
    let mut announced = 0;
    for number in 0..64 {
        for (to, request, _) in wants(&bench.want(number, Class::Demand)) {
            let arrival = Arrival::Kept;
            let actions = bench.tell(Input::Data {
                peer: peer(to),
                request,
                arrival,
            });
            announced += actions
                .iter()
                .filter(|a| matches!(a, Action::Announce { .. }))
                .count();
        }
    }
    let later = bench.pass(150);
    announced += later
        .iter()
        .filter(|a| matches!(a, Action::Announce { .. }))
        .count();
    assert!((1..=2).contains(&announced), "{announced}");
}

#[test]
fn what_is_held_of_a_gibibyte_is_told_in_less_than_a_kibibyte() {
    let mut bench = Bench::new(|_| {});
    bench.tell(Input::TrackerUp {
        epoch: 1,
        seed: None,
    });
    let count = (1_u32 << 30) / CHUNK_LEN;
    let chunk_lens: Arc<[u32]> = vec![CHUNK_LEN; count as usize].into();
    let large = Digest::of(b"a gibibyte");
    // The worst: every other stripe is whole, those between have a hole in every other place.
    let present = (0..count / 8).map(|at| if at / 8 % 2 == 0 { 0xff } else { 0x55 });
    let present = present.collect();
    let told = bench.tell(Input::OpenBlob {
        blob: large,
        registries: vec!["registry".into()],
        chunk_lens,
        present,
    });
    let told: Vec<Action> = told.into_iter().chain(bench.pass(1_000)).collect();
    let runs = told.iter().find_map(|action| match action {
        Action::Announce { blob, runs } if *blob == large => Some(runs.clone()),
        _ => None,
    });
    let runs = runs.expect("an announcement");
    assert_eq!(runs.len(), 64, "no two stripes are alike");
    let mut bytes = Vec::new();
    TrackerRequest::Announce { blob: large, runs }.encode(1, &mut bytes);
    assert!(bytes.len() <= 1 << 10, "{} bytes", bytes.len());
}
