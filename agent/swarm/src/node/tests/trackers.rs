//! Of several trackers another one answers: what is told it, and what of the former one holds.

use super::*;

#[test]
fn when_another_tracker_answers_it_is_told_before_it_is_asked() {
    let mut bench = Bench::new(|_| {});
    bench.tell(Input::TrackerUp {
        epoch: 1,
        seed: None,
    });
    bench.want(0, Class::Demand);
    bench.route(0, Route::Wait { ms: 1_000 });
    let mut change = |change, blob| {
        let blobs = vec![blob];
        bench.tell(Input::TrackerChanged { blobs, change })
    };
    let place = |told: &[Action], is: fn(&Action) -> bool| told.iter().position(is);
    let is_open = |action: &Action| matches!(action, Action::OpenBlobs { .. });
    let is_announce = |action: &Action| matches!(action, Action::Announce { .. });
    let is_lookup = |action: &Action| matches!(action, Action::Lookup { .. });
    let told = change(TrackerChange::StandIn, blob());
    assert!(place(&told, is_open).is_some(), "{told:?}");
    assert!(
        place(&told, is_open) < place(&told, is_announce),
        "{told:?}"
    );
    assert_eq!(place(&told, is_lookup), None, "its stand-in alone is new");
    let told = change(TrackerChange::Asked, blob());
    assert!(place(&told, is_announce).is_some(), "{told:?}");
    assert!(
        place(&told, is_announce) < place(&told, is_lookup),
        "{told:?}"
    );
    assert!(change(TrackerChange::Forgot, Digest::of(b"another")).is_empty());
}

#[test]
fn a_lease_outlives_the_tracker_that_gave_it_but_not_that_it_forgot() {
    let mut bench = Bench::new(|_| {});
    bench.tell(Input::TrackerUp {
        epoch: 1,
        seed: None,
    });
    bench.want(0, Class::Demand);
    bench.route(
        0,
        Route::Origin {
            lease: 7,
            expires_ms: 500,
        },
    );
    let mut change = |change| {
        let blobs = vec![blob()];
        bench.tell(Input::TrackerChanged { blobs, change });
        bench.want(1, Class::Demand)
    };
    let asks = |told: &[Action]| {
        told.iter()
            .any(|action| matches!(action, Action::Lookup { .. }))
    };
    assert!(!asks(&change(TrackerChange::Asked)));
    let blobs = vec![blob()];
    let change = TrackerChange::Forgot;
    bench.tell(Input::TrackerChanged { blobs, change });
    assert!(asks(&bench.want(2, Class::Demand)));
}

/// A node that knows forty others, wants a chunk of the first stripe, and was given a parent for it and for the second one too.
fn begun() -> Bench {
    let mut bench = Bench::new(|_| {});
    bench.tell(Input::TrackerUp {
        epoch: 1,
        seed: None,
    });
    bench.members(&(1..=40).collect::<Vec<_>>(), Some(FOR_EVER));
    assert_eq!(looked_up(&bench.want(0, Class::Demand)), [0, 1, 2]);
    for stripe in [0, 1] {
        bench.route(stripe, parents(&[80]));
    }
    bench
}

fn restart(bench: &mut Bench) -> Vec<Action> {
    bench.tell(Input::TrackerDown);
    bench.tell(Input::TrackerUp {
        epoch: 2,
        seed: None,
    })
}

// The tracker was back and had forgotten: all asked anew, and who had been asked before might come behind in the new order. Readers
// waited for each other until their patience ended, and another than before got the lease, and read all of it once more.
#[test]
fn a_tracker_that_forgot_is_asked_by_who_read_the_registry_and_by_nobody_with_parents() {
    let mut bench = begun();
    let origin = Route::Origin {
        lease: 7,
        expires_ms: 500,
    };
    bench.want(128, Class::Demand);
    bench.route(2, origin);
    let told = restart(&mut bench);
    let again = bench.want(129, Class::Demand);
    let asked = [looked_up(&told), looked_up(&again)].concat();
    assert_eq!(asked, [2], "{told:?} {again:?}");
    assert_eq!(wants(&bench.want(1, Class::Demand))[0].0, 80);
    // Nor about what was asked about ahead: others may have begun it in the order of then.
    let later = bench.want(64, Class::Demand);
    assert_eq!((looked_up(&later), wants(&later)[0].0), (vec![], 80));
}

// The seed went with its tracker. Whoever it was the parent of waited for it.
#[test]
fn a_tracker_that_forgot_is_asked_by_those_who_lost_a_parent() {
    let seed = Arc::new(Member {
        role: Role::Seed,
        ..member(90)
    });
    let of_seed = Route::Parents(vec![Arc::new(member(80)), seed]);
    let mut bench = begun();
    bench.route(1, of_seed);
    restart(&mut bench);
    let asked = looked_up(&bench.want(64, Class::Demand));
    assert_eq!(asked[0], 1, "{asked:?}");

    let mut bench = begun();
    bench.tell(Input::PeerGone { peer: peer(80) });
    restart(&mut bench);
    let asked = looked_up(&bench.want(64, Class::Demand));
    assert_eq!(asked[0], 1, "{asked:?}");
}

// What was asked about ahead was not told of: another tracker made whoever had been sent here for it a parent of this node.
#[test]
fn what_is_decided_is_told_of_before_anything_of_it_is_wanted() {
    let mut bench = begun();
    let told = restart(&mut bench);
    let runs = told.iter().find_map(|action| match action {
        Action::Announce { runs, .. } => Some(runs.clone()),
        _ => None,
    });
    let run = |state, count| StripeRun { state, count };
    let expected = [run(StripeState::InFlight, 2), run(StripeState::None, 1)];
    assert_eq!(runs.unwrap(), expected);
}

// Of ten thousand nodes most are leaves of the 256 that all know. One whose member was the first of the stripe had nobody
// else to turn to: if that one had died, all its leaves read the registry, which made half of all that was read twice.
#[test]
fn whoever_is_left_out_of_a_large_swarm_has_others_to_turn_to() {
    let numbered = |number: u16| {
        let mut member = member(0);
        member.peer = PeerId::from_bytes(&number.to_le_bytes()).unwrap();
        Arc::new(member)
    };
    let known: Vec<_> = (0..256).map(numbered).collect();
    let id = StripeId {
        blob: blob(),
        number: 0,
    };
    for me in 1_000..3_000 {
        let parents = tree::parents(id, &numbered(me), true, known.iter());
        let different: BTreeSet<PeerId> = parents.iter().map(|parent| parent.peer).collect();
        assert_eq!((parents.len(), different.len()), (4, 4));
    }
}
