//! Whom to ask: parents, hedges, alternatives, and what comes when none of them helps.

use tranship_format::wire::Fault;

use super::*;

#[test]
fn a_stripe_is_asked_of_the_tracker_once_for_all_its_chunks() {
    let mut bench = Bench::new(|_| {});
    bench.tell(Input::TrackerUp {
        epoch: 1,
        seed: None,
    });
    for number in 0..128 {
        bench.node.handle(
            bench.now,
            Input::Wanted {
                chunk: chunk(number),
                class: Class::Prefetch,
                give_up_at: None,
            },
        );
    }
    assert_eq!(looked_up(&bench.act()), [0, 1, 2]);
    let asked = bench.route(0, parents(&[1]));
    assert_eq!(
        wants(&asked).len(),
        8,
        "as much as the credit of one peer allows"
    );
    assert!(wants(&asked).iter().all(|&(to, _, _)| to == 1));
}

#[test]
fn with_a_stripe_those_behind_it_are_asked_about_once() {
    // Of ten thousand nodes that asked about one stripe at a time, a tracker had answered some when it was lost.
    let mut bench = Bench::new(|_| {});
    bench.tell(Input::TrackerUp {
        epoch: 1,
        seed: None,
    });
    let blob = Digest::of(b"long");
    bench.tell(Input::OpenBlob {
        blob,
        registries: vec!["registry".into()],
        chunk_lens: vec![CHUNK_LEN; 640].into(),
        present: Vec::new(),
    });
    bench.tell(Input::Members {
        blob,
        members: vec![member(1).into()],
        until: Some(bench.now + Duration::from_mins(1)),
    });
    let mut asked_for = |number| {
        let chunk = ChunkId { blob, number };
        looked_up(&bench.tell(Input::Wanted {
            chunk,
            class: Class::Demand,
            give_up_at: None,
        }))
    };
    assert_eq!(asked_for(0), [0, 1, 2, 3]);
    assert!(asked_for(64).is_empty(), "asked about already");
    assert_eq!(asked_for(6 * 64), [6, 7, 8, 9]);
    assert_eq!(asked_for(5 * 64), [5], "those behind it are known");
}

#[test]
fn demand_goes_before_what_was_wanted_earlier() {
    let mut bench = Bench::new(|options| options.peer_bulk_credit_len = u64::from(CHUNK_LEN));
    bench.tell(Input::TrackerUp {
        epoch: 1,
        seed: None,
    });
    bench.want(0, Class::Background);
    bench.want(1, Class::Prefetch);
    bench.want(2, Class::Demand);
    let asked = bench.route(0, parents(&[1]));
    assert_eq!(wants(&asked)[0].2, 2);
    let (_, request, _) = wants(&asked)[0];
    let next = bench.tell(Input::Data {
        peer: peer(1),
        request,
        arrival: Arrival::Kept,
    });
    assert_eq!(completed(&next), [2]);
    assert_eq!(
        wants(&next).iter().map(|want| want.2).collect::<Vec<_>>(),
        [1]
    );
}

#[test]
fn a_silent_peer_is_hedged_once_and_the_loser_told() {
    let mut bench = Bench::routed();
    let (first, request, _) = wants(&bench.want(4, Class::Demand))[0];
    assert_eq!(first, 1);
    let (second, hedge, _) = wants(&bench.pass(320))[0];
    assert_eq!(second, 2);
    assert!(wants(&bench.pass(150)).is_empty(), "never two hedges");
    let done = bench.tell(Input::Data {
        peer: peer(2),
        request: hedge,
        arrival: Arrival::Kept,
    });
    assert_eq!(
        (completed(&done), cancelled(&done)),
        (vec![4], vec![request])
    );
    assert_eq!(
        bench.node.requested(&peer(1), request),
        None,
        "what it sends now is dropped"
    );
    assert_eq!(bench.node.counters().hedge_wins, 1);
}

#[test]
fn a_peer_that_says_wait_is_not_hedged_but_not_waited_for_without_end() {
    let mut bench = Bench::routed();
    let (_, request, _) = wants(&bench.want(4, Class::Demand))[0];
    let wait = |idle_ms| Input::Wait {
        peer: peer(1),
        request,
        idle: Duration::from_millis(idle_ms),
        hops: 1,
    };
    for _ in 0..20 {
        bench.tell(wait(0));
        let actions = bench.pass(100);
        assert!(wants(&actions).is_empty() && reads(&actions).is_empty());
    }
    bench.tell(wait(100));
    assert_eq!(reads(&bench.pass(901)).len(), 1, "its source gives nothing");
    assert_eq!(bench.node.counters().origin_overrides, 1);
}

#[test]
fn of_a_line_of_waiting_nodes_the_first_goes_to_the_registry() {
    let mut bench = Bench::routed();
    let (_, request, _) = wants(&bench.want(4, Class::Demand))[0];
    let idle = Duration::ZERO;
    bench.tell(Input::Wait {
        peer: peer(1),
        request,
        idle,
        hops: 3,
    });
    assert!(reads(&bench.pass(1_099)).is_empty());
    assert_eq!(reads(&bench.pass(2)).len(), 1);
}

#[test]
fn a_ring_of_waiting_nodes_is_left() {
    let mut bench = Bench::routed();
    let (_, request, _) = wants(&bench.want(4, Class::Prefetch))[0];
    let idle = Duration::ZERO;
    let left = bench.tell(Input::Wait {
        peer: peer(1),
        request,
        idle,
        hops: 25,
    });
    assert_eq!(wants(&left)[0].0, 2);
}

#[test]
fn hedges_are_few_though_all_peers_are_silent() {
    let mut bench = Bench::routed();
    for number in 0..16 {
        bench.want(number, Class::Demand);
    }
    let hedges = wants(&bench.pass(320)).len();
    assert_eq!(
        hedges, 11,
        "the burst saved up, and one that ten hedges earn"
    );
}

#[test]
fn busy_is_followed_to_whom_it_names_at_once() {
    let mut bench = Bench::routed();
    let (_, request, _) = wants(&bench.want(4, Class::Demand))[0];
    let retry = Duration::from_millis(20);
    let alternatives = vec![member(9)];
    let next = bench.tell(Input::Busy {
        peer: peer(1),
        request,
        retry,
        alternatives,
    });
    assert_eq!(wants(&next)[0].0, 9);
    let (_, request, _) = wants(&next)[0];
    let next = bench.tell(Input::Miss {
        peer: peer(9),
        request,
    });
    assert!(wants(&next).is_empty());
    assert_eq!(
        wants(&bench.pass(21))[0].0,
        1,
        "the first may be asked again by now"
    );
}

// 128 machines that read one image were ready after 1.3 s but for a few chunks each, which came after 5: a node whose
// parent was busy asked its other one, which waited for it by way of five more, until all of them lost their patience.
#[test]
fn who_is_busy_is_asked_again_and_not_the_parent_of_other_chunks_who_may_be_waiting() {
    let mut bench = Bench::routed();
    let (first, request, _) = wants(&bench.want(4, Class::Prefetch))[0];
    assert_eq!(first, 1);
    let next = bench.tell(Input::Busy {
        peer: peer(1),
        request,
        retry: Duration::from_millis(20),
        alternatives: Vec::new(),
    });
    assert!(wants(&next).is_empty());
    let (again, request, _) = wants(&bench.pass(21))[0];
    assert_eq!(again, 1);
    let peer = peer(1);
    let next = bench.tell(Input::Miss { peer, request });
    assert_eq!(wants(&next)[0].0, 2, "who has it no more is no such reason");
}

#[test]
fn who_sends_a_wrong_chunk_is_shunned_reported_and_replaced() {
    let mut bench = Bench::routed();
    let asked = [bench.want(4, Class::Demand), bench.want(6, Class::Demand)].concat();
    let (_, request, _) = wants(&asked)[0];
    let next = bench.tell(Input::Data {
        peer: peer(1),
        request,
        arrival: Arrival::Wrong,
    });
    assert!(completed(&next).is_empty());
    let reported = |action: &Action| matches!(action, Action::Report { fault: Fault::WrongChunk, peer: of, .. } if *of == peer(1));
    assert!(next.iter().any(reported));
    let again: Vec<_> = wants(&next)
        .iter()
        .map(|&(to, _, number)| (to, number))
        .collect();
    assert_eq!(
        again,
        [(2, 4), (2, 6)],
        "all that was asked of it is asked of another"
    );
    assert!(bench.node.is_shunned(bench.now, &peer(1)));
    bench.hold([8]);
    let served = bench.asked(1, 1, 8, Class::Demand);
    assert!(
        matches!(served[..], [Action::SendData { .. }]),
        "what it asks for it gets: {served:?}"
    );
    bench.pass(599_000);
    assert!(bench.node.is_shunned(bench.now, &peer(1)));
    bench.pass(2_000);
    assert!(!bench.node.is_shunned(bench.now, &peer(1)));
}

#[test]
fn what_was_asked_of_a_peer_that_is_gone_is_asked_of_another_at_once() {
    let mut bench = Bench::routed();
    bench.want(4, Class::Demand);
    let next = bench.tell(Input::PeerGone { peer: peer(1) });
    assert_eq!(wants(&next)[0].0, 2);
    assert!(next.iter().any(|action| matches!(
        action,
        Action::Report {
            fault: Fault::Dead,
            ..
        }
    )));
    let asked = bench.want(6, Class::Demand);
    assert_eq!(wants(&asked)[0].0, 2, "and not asked again for a while");
}

#[test]
fn who_says_goaway_is_asked_no_more_but_may_answer() {
    let mut bench = Bench::routed();
    let (_, request, _) = wants(&bench.want(4, Class::Demand))[0];
    bench.tell(Input::GoAway { peer: peer(1) });
    assert_eq!(wants(&bench.want(6, Class::Demand))[0].0, 2);
    let done = bench.tell(Input::Data {
        peer: peer(1),
        request,
        arrival: Arrival::Kept,
    });
    assert_eq!(completed(&done), [4]);
}

#[test]
fn when_all_parents_miss_the_tracker_is_asked_again_and_then_the_registry() {
    let mut bench = Bench::routed();
    let mut asked = bench.want(4, Class::Prefetch);
    let mut lookups = 0;
    for _ in 0..40 {
        for (to, request, _) in wants(&asked) {
            asked = bench.tell(Input::Miss {
                peer: peer(to),
                request,
            });
        }
        let later = bench.pass(30);
        if !looked_up(&later).is_empty() {
            lookups += 1;
            asked = bench.route(0, parents(&[1, 1, 2]));
        }
        if !reads(&later).is_empty() || !reads(&asked).is_empty() {
            assert_eq!(lookups, 3);
            return;
        }
    }
    panic!("the registry was never read");
}

#[test]
fn a_chunk_asked_in_passing_is_asked_anew_when_it_is_demanded() {
    let mut bench = Bench::routed();
    let (_, before, _) = wants(&bench.want(4, Class::Background))[0];
    let raised = bench.want(4, Class::Demand);
    let (to, after, _) = wants(&raised)[0];
    assert_eq!((to, cancelled(&raised)), (1, vec![]));
    assert_ne!(before, after);
    // The peer was sending it already, and misses the second.
    let request = after;
    let missed = bench.tell(Input::Miss {
        peer: peer(1),
        request,
    });
    assert!(missed.is_empty(), "{missed:?}");
    let done = bench.tell(Input::Data {
        peer: peer(1),
        request: before,
        arrival: Arrival::Kept,
    });
    assert_eq!(completed(&done), [4]);
}

#[test]
fn what_becomes_urgent_is_given_the_patience_of_the_urgent_from_then_on() {
    let mut bench = Bench::routed();
    let (_, request, _) = wants(&bench.want(4, Class::Prefetch))[0];
    bench.tell(Input::Wait {
        peer: peer(1),
        request,
        idle: Duration::ZERO,
        hops: 1,
    });
    bench.pass(150);
    assert!(reads(&bench.want(4, Class::Demand)).is_empty());
    assert!(reads(&bench.pass(200)).is_empty());
    assert_eq!(reads(&bench.pass(900)).len(), 1);
}

#[test]
fn odd_chunks_are_asked_of_the_second_parent() {
    let mut bench = Bench::routed();
    bench.route(0, parents(&[1, 2]));
    let asked = [bench.want(4, Class::Demand), bench.want(5, Class::Demand)].concat();
    let to: Vec<(u8, u32)> = wants(&asked).iter().map(|want| (want.0, want.2)).collect();
    assert_eq!(to, [(1, 4), (2, 5)]);
}

// Eight machines behind 50 Mbit/s took three times as long as they should: who was given up for slow was the parent in
// one tree, and the parent in the other, which was asked instead, waited for this node.
#[test]
fn the_parent_in_one_tree_is_not_asked_for_a_chunk_of_the_other() {
    let mut bench = Bench::routed();
    bench.route(0, parents(&[1, 2]));
    let (first, request, _) = wants(&bench.want(4, Class::Prefetch))[0];
    assert_eq!(first, 1);
    let peer = peer(1);
    let next = bench.tell(Input::Miss { peer, request });
    assert!(wants(&next).is_empty(), "{next:?}");
    assert_eq!(
        looked_up(&bench.pass(60)),
        [0],
        "the tracker may know others"
    );
}

// The same machines: a word that came after 201 ms, through full queues, made its sender count as slow for 10 s.
#[test]
fn who_misses_a_repetition_or_two_is_not_silent() {
    let mut bench = Bench::routed();
    let (_, request, _) = wants(&bench.want(4, Class::Demand))[0];
    let wait = || Input::Wait {
        peer: peer(1),
        request,
        idle: Duration::ZERO,
        hops: 1,
    };
    bench.tell(wait());
    assert!(wants(&bench.pass(350)).is_empty());
    bench.tell(wait());
    assert_eq!(wants(&bench.pass(501))[0].0, 2, "but who says nothing is");
}

#[test]
fn who_keeps_a_chunk_back_for_long_is_not_waited_for_when_the_tracker_knows_others() {
    let mut bench = Bench::routed();
    bench.route(0, parents(&[1]));
    let (_, request, _) = wants(&bench.want(4, Class::Demand))[0];
    let mut asked = Vec::new();
    for at in 0..30 {
        bench.tell(Input::Wait {
            peer: peer(1),
            request,
            idle: Duration::ZERO,
            hops: 0,
        });
        let actions = bench.pass(100);
        assert!(reads(&actions).is_empty(), "its queue moves");
        asked.extend(looked_up(&actions).iter().map(|_| at));
    }
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert!(asked[0] >= 19);
    bench.route(0, parents(&[3]));
    let mut hedged = Vec::new();
    for _ in 0..20 {
        bench.tell(Input::Wait {
            peer: peer(1),
            request,
            idle: Duration::ZERO,
            hops: 0,
        });
        hedged.extend(wants(&bench.pass(100)));
    }
    assert_eq!(hedged.first().map(|want| (want.0, want.2)), Some((3, 4)));
}

#[test]
fn what_a_peer_has_and_does_not_get_sent_is_asked_of_another() {
    let mut bench = Bench::routed();
    let (_, request, _) = wants(&bench.want(4, Class::Demand))[0];
    let here = || Input::Wait {
        peer: peer(1),
        request,
        idle: Duration::ZERO,
        hops: 0,
    };
    let mut hedged = Vec::new();
    for _ in 0..15 {
        bench.tell(here());
        hedged.extend(wants(&bench.pass(100)));
    }
    assert_eq!(hedged.first().map(|want| (want.0, want.2)), Some((2, 4)));
    assert_eq!(hedged.len(), 1, "never two hedges");
}

#[test]
fn an_unwanted_chunk_is_not_fetched_any_more() {
    let mut bench = Bench::routed();
    let (_, request, _) = wants(&bench.want(4, Class::Demand))[0];
    assert_eq!(
        cancelled(&bench.tell(Input::Unwanted { chunk: chunk(4) })),
        [request]
    );
    assert!(bench.node.asked_peers().is_empty());
}

#[test]
fn a_reader_that_set_an_end_is_told_when_it_comes() {
    let mut bench = Bench::routed();
    let give_up_at = Some(bench.now + Duration::from_millis(40));
    bench.tell(Input::Wanted {
        chunk: chunk(4),
        class: Class::Prefetch,
        give_up_at,
    });
    assert!(failed(&bench.pass(39)).is_empty());
    assert_eq!(failed(&bench.pass(1)), [FailReason::TimedOut]);
}

#[test]
fn a_restarted_tracker_is_told_of_everything_before_it_is_asked() {
    let mut bench = Bench::routed();
    bench.want(70, Class::Demand);
    let told = bench.tell(Input::TrackerUp {
        epoch: 2,
        seed: None,
    });
    let place = |is: fn(&Action) -> bool| told.iter().position(is).unwrap();
    let opened = place(|action| matches!(action, Action::OpenBlobs { .. }));
    let announced = place(|action| matches!(action, Action::Announce { .. }));
    let asked = place(|action| matches!(action, Action::Lookup { .. }));
    assert!(opened < announced && announced < asked);
}
