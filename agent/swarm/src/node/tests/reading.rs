//! Reads of the registry: alone, by lease, and by the trees that need no tracker.

use tranship_format::wire::LeaseState;

use super::*;

fn progress(actions: &[Action]) -> Vec<(u64, LeaseState)> {
    let told = |action: &Action| match action {
        Action::Progress { lease, state, .. } => Some((*lease, *state)),
        _ => None,
    };
    actions.iter().filter_map(told).collect()
}

fn lease(id: u64) -> Route {
    Route::Origin {
        lease: id,
        expires_ms: 500,
    }
}

#[test]
fn alone_a_node_reads_the_registry_in_long_runs_and_several_at_once() {
    let mut bench = Bench::new(|_| {});
    for number in 0..192 {
        bench.node.handle(
            bench.now,
            Input::Wanted {
                chunk: chunk(number),
                class: Class::Prefetch,
                give_up_at: None,
            },
        );
    }
    let runs: Vec<_> = reads(&bench.act())
        .iter()
        .map(|&(_, from, to)| (from, to))
        .collect();
    assert_eq!(
        runs,
        [(0, 16), (16, 32), (32, 48), (48, 64)],
        "4 MiB each, four in flight"
    );
    assert_eq!(
        reads(&bench.want(150, Class::Demand)).len(),
        1,
        "demand does not wait for them"
    );
}

#[test]
fn a_lease_is_read_though_peers_have_all_the_credit_and_wait_for_it() {
    let mut bench = Bench::new(|options| options.credit_len = 2 * u64::from(CHUNK_LEN));
    bench.tell(Input::TrackerUp {
        epoch: 1,
        seed: None,
    });
    bench.want(0, Class::Demand);
    bench.want(1, Class::Demand);
    let asked = bench.route(0, parents(&[1, 2]));
    assert_eq!(wants(&asked).len(), 2, "all the credit");
    // The two peers wait for chunks that only the holder of this lease may read.
    bench.want(64, Class::Demand);
    bench.want(65, Class::Demand);
    let read = bench.route(1, lease(9));
    let read: Vec<_> = reads(&read)
        .iter()
        .map(|&(_, from, to)| (from, to))
        .collect();
    assert_eq!(read, [(64, 65)], "one chunk, and no more than one");
}

#[test]
fn a_lease_holder_reads_what_is_wanted_and_nothing_else() {
    let mut bench = Bench::new(|_| {});
    bench.tell(Input::TrackerUp {
        epoch: 1,
        seed: None,
    });
    for number in [3, 4, 9] {
        bench.want(number, Class::Demand);
    }
    let started = bench.route(0, lease(5));
    let runs: Vec<_> = reads(&started)
        .iter()
        .map(|&(_, from, to)| (from, to))
        .collect();
    assert_eq!(runs, [(3, 5), (9, 10)]);
    assert_eq!(progress(&started), []);
    let asked = bench.asked(1, 1, 20, Class::Demand);
    assert_eq!(reads(&asked)[0].1, 20, "what a child wants is wanted");
    assert!(
        asked
            .iter()
            .any(|action| matches!(action, Action::SendWait { .. }))
    );
}

#[test]
fn a_lease_rests_when_all_is_read_and_wakes_when_more_is_wanted() {
    let mut bench = Bench::new(|_| {});
    bench.tell(Input::TrackerUp {
        epoch: 1,
        seed: None,
    });
    bench.want(3, Class::Demand);
    let (read, _, _) = reads(&bench.route(0, lease(5)))[0];
    bench.pass(10);
    let chunk_done = Input::RegistryChunk {
        read,
        number: 3,
        arrival: Arrival::Kept,
    };
    assert_eq!(
        progress(&bench.tell(chunk_done)),
        [(5, LeaseState::Resting)]
    );
    bench.tell(Input::RegistryEnd {
        read,
        failure: None,
    });
    bench.pass(200);
    assert_eq!(
        progress(&bench.want(4, Class::Demand)),
        [(5, LeaseState::Reading)]
    );
}

#[test]
fn bytes_that_stream_in_are_progress_before_a_chunk_is_whole() {
    let mut bench = Bench::new(|_| {});
    bench.tell(Input::TrackerUp {
        epoch: 1,
        seed: None,
    });
    bench.want(3, Class::Demand);
    let (read, _, _) = reads(&bench.route(0, lease(5)))[0];
    let mut told = 0;
    for _ in 0..10 {
        told += progress(&bench.pass(50)).len();
        told += progress(&bench.tell(Input::RegistryProgress { read, len: 1_000 })).len();
    }
    assert!(
        (3..=6).contains(&told),
        "about each 100 ms, not each time: {told}"
    );
}

#[test]
fn who_gets_the_lease_reads_what_peers_were_to_bring() {
    let mut bench = Bench::routed();
    let (_, request, _) = wants(&bench.want(4, Class::Demand))[0];
    let started = bench.route(0, lease(8));
    assert_eq!(cancelled(&started), [request]);
    assert_eq!(reads(&started)[0].1, 4);
}

#[test]
fn who_loses_the_lease_asks_the_tracker_again() {
    let mut bench = Bench::new(|_| {});
    bench.tell(Input::TrackerUp {
        epoch: 1,
        seed: None,
    });
    bench.want(3, Class::Demand);
    bench.route(0, lease(5));
    bench.tell(Input::ProgressAck {
        lease: 5,
        expires_in: None,
    });
    assert_eq!(looked_up(&bench.want(9, Class::Demand)), [0]);
}

#[test]
fn a_failing_registry_is_tried_again_and_then_given_up() {
    let mut bench = Bench::new(|_| {});
    let mut actions = bench.want(3, Class::Prefetch);
    let mut tries = 0;
    loop {
        for (read, _, _) in reads(&actions) {
            tries += 1;
            let failure = Some(RegistryFailure {
                retry_after: None,
                permanent: false,
            });
            actions = bench.tell(Input::RegistryEnd { read, failure });
        }
        if !failed(&actions).is_empty() {
            break;
        }
        actions = bench.pass(100);
    }
    assert_eq!(
        (tries, failed(&actions)),
        (4, vec![FailReason::RegistryFailed])
    );
}

#[test]
fn what_the_registry_refuses_fails_at_once_when_nobody_else_can_have_it() {
    let mut bench = Bench::new(|_| {});
    let (read, _, _) = reads(&bench.want(3, Class::Demand))[0];
    let failure = Some(RegistryFailure {
        retry_after: None,
        permanent: true,
    });
    let end = bench.tell(Input::RegistryEnd { read, failure });
    assert_eq!(failed(&end), [FailReason::Refused]);
}

#[test]
fn a_registry_that_asks_for_a_pause_gets_it() {
    let mut bench = Bench::new(|_| {});
    let (read, _, _) = reads(&bench.want(3, Class::Demand))[0];
    let retry_after = Some(Duration::from_secs(3));
    let failure = Some(RegistryFailure {
        retry_after,
        permanent: false,
    });
    bench.tell(Input::RegistryEnd { read, failure });
    assert!(reads(&bench.pass(2_999)).is_empty());
    assert_eq!(reads(&bench.pass(2)).len(), 1);
}

#[test]
fn while_the_registry_rests_the_lease_is_kept_and_children_wait() {
    let mut bench = Bench::new(|_| {});
    bench.tell(Input::TrackerUp {
        epoch: 1,
        seed: None,
    });
    bench.want(3, Class::Demand);
    let mut open = reads(&bench.route(0, lease(5)));
    bench.asked(1, 1, 3, Class::Demand);
    for _ in 0..10 {
        let failure = Some(RegistryFailure {
            retry_after: Some(Duration::from_secs(5)),
            permanent: false,
        });
        let mut told = Vec::new();
        for (read, _, _) in open {
            told.extend(progress(&bench.tell(Input::RegistryEnd { read, failure })));
        }
        assert_eq!(told, [(5, LeaseState::Resting)]);
        // What is wanted meanwhile waits like the rest.
        assert_eq!(reads(&bench.asked(2, 1, 9, Class::Demand)), []);
        let mut waits = 0;
        for _ in 0..49 {
            let actions = bench.pass(100);
            assert_eq!(reads(&actions), []);
            assert_eq!(progress(&actions), []);
            assert_eq!(failed(&actions), []);
            for action in &actions {
                if let Action::SendWait { idle, .. } = action {
                    assert_eq!(*idle, Duration::ZERO, "nobody is to blame");
                    waits += 1;
                }
            }
        }
        assert!(waits >= 49, "{waits}");
        let again = bench.pass(101);
        assert_eq!(progress(&again), [(5, LeaseState::Reading)]);
        open = reads(&again);
        assert_eq!(open.first().map(|&(_, from, _)| from), Some(3));
    }
}

#[test]
fn a_chunk_that_is_wrong_at_the_registry_too_fails() {
    let mut bench = Bench::new(|_| {});
    let mut actions = bench.want(3, Class::Prefetch);
    for _ in 0..100 {
        for (read, number, _) in reads(&actions) {
            let arrival = Arrival::Wrong;
            actions = bench.tell(Input::RegistryChunk {
                read,
                number,
                arrival,
            });
            bench.tell(Input::RegistryEnd {
                read,
                failure: None,
            });
        }
        if !failed(&actions).is_empty() {
            assert_eq!(failed(&actions), [FailReason::WrongAtRegistry]);
            return;
        }
        actions = bench.pass(100);
    }
    panic!("it was neither complete nor failed");
}

#[test]
fn a_chunk_that_came_from_a_peer_first_is_complete_once() {
    let mut bench = Bench::routed();
    let (_, request, _) = wants(&bench.want(4, Class::Demand))[0];
    let (read, _, _) = reads(&bench.pass(520))[0];
    let done = bench.tell(Input::Data {
        peer: peer(1),
        request,
        arrival: Arrival::Kept,
    });
    assert_eq!(completed(&done), [4]);
    let arrival = Arrival::Kept;
    assert!(
        completed(&bench.tell(Input::RegistryChunk {
            read,
            number: 4,
            arrival
        }))
        .is_empty()
    );
}

/// Three stripes wanted by each of `names`, who are told of `told`: registry reads of each stripe.
fn roots(names: std::ops::Range<u16>, told: std::ops::Range<u16>) -> [usize; 3] {
    let one = |name: u16| Member {
        peer: PeerId::from_bytes(&name.to_le_bytes()).unwrap(),
        zone: format!("zone {}", name % 3),
        ..member(0)
    };
    let mut roots = [0; 3];
    for me in names {
        let mut node = Node::new(NodeOptions::new(one(me), 1));
        let now = Duration::from_secs(1);
        let chunk_lens: Arc<[u32]> = vec![CHUNK_LEN; 192].into();
        node.handle(
            now,
            Input::OpenBlob {
                registries: Vec::new(),
                blob: blob(),
                chunk_lens,
                present: Vec::new(),
            },
        );
        let members = told.clone().map(|name| Arc::new(one(name))).collect();
        node.handle(
            now,
            Input::Members {
                blob: blob(),
                members,
                until: Some(FOR_EVER),
            },
        );
        for number in [0, 64, 128] {
            let class = Class::Demand;
            node.handle(
                now,
                Input::Wanted {
                    chunk: chunk(number),
                    class,
                    give_up_at: None,
                },
            );
        }
        let actions: Vec<Action> = std::iter::from_fn(|| node.poll(now)).collect();
        assert_eq!(wants(&actions).len() + reads(&actions).len(), 3);
        for (_, first, _) in reads(&actions) {
            roots[first as usize / 64] += 1;
        }
    }
    roots
}

#[test]
fn without_a_tracker_one_member_reads_each_stripe_and_the_others_ask_it() {
    assert_eq!(roots(0..40, 0..40), [1, 1, 1]);
}

#[test]
fn of_a_swarm_too_large_to_know_only_the_known_part_has_roots() {
    assert_eq!(roots(0..700, 0..256), [1, 1, 1]);
}

// A node that had lost patience with a peer read the registry, which wanted to be left alone; then the node asked a second peer, as if the
// first were not asked, outside of what it may ask twice, and counted nowhere.
#[test]
fn a_peer_that_is_asked_still_is_not_forgotten_when_the_registry_rests() {
    let mut bench = Bench::routed();
    assert_eq!(wants(&bench.want(0, Class::Demand))[0].0, 1);
    bench.node.pace = Pace::new(Duration::from_mins(1), Duration::from_mins(1), 0);
    let &[(read, _, _)] = &reads(&bench.pass(3_000))[..] else {
        panic!("not read of the registry");
    };
    let failure = Some(RegistryFailure {
        retry_after: Some(Duration::from_secs(1)),
        permanent: false,
    });
    let mut after = bench.tell(Input::RegistryEnd { read, failure });
    after.extend(bench.route(0, parents(&[1, 1, 2])));
    after.extend(bench.pass(900));
    let hedges = bench.node.counters.hedges;
    assert_eq!(wants(&after).len() as u64, hedges, "{after:?}");
}
