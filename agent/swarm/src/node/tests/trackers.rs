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

// The tracker was back and had forgotten: all asked anew, and who had been asked before might come behind in the new order. Readers
// waited for each other until their patience ended, and another than before got the lease, and read all of it once more.
#[test]
fn a_tracker_that_forgot_is_asked_about_what_is_not_begun_and_by_those_who_read_the_registry() {
    let mut bench = begun();
    let origin = Route::Origin {
        lease: 7,
        expires_ms: 500,
    };
    bench.want(128, Class::Demand);
    bench.route(2, origin);
    bench.tell(Input::TrackerDown);
    let told = bench.tell(Input::TrackerUp {
        epoch: 2,
        seed: None,
    });
    let again = bench.want(129, Class::Demand);
    let asked = [looked_up(&told), looked_up(&again)].concat();
    assert_eq!(asked, [2], "{told:?} {again:?}");
    assert_eq!(wants(&bench.want(1, Class::Demand))[0].0, 80);
    assert_eq!(looked_up(&bench.want(64, Class::Demand)), [1]);
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
