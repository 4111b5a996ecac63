//! What a peer that may not have a blob is told, and what a node does that may not have one itself.

use super::*;

fn answers(actions: &[Action]) -> Vec<String> {
    actions.iter().map(|action| format!("{action:?}")).collect()
}

#[test]
fn a_peer_without_a_right_is_answered_as_if_the_blob_were_not_here() {
    let mut bench = Bench::routed();
    bench.hold([7]);
    let nowhere = Want {
        class: Class::Demand,
        chunk: ChunkId {
            blob: Digest::of(b"nobody has this"),
            number: 7,
        },
        hash: None,
    };
    let absent = bench.tell(Input::Want {
        peer: peer(99),
        request: 1,
        want: nowhere,
    });
    let refused = bench.asked(99, 1, 7, Class::Demand);
    assert!(matches!(refused[..], [Action::SendMiss { .. }]));
    assert_eq!(answers(&refused), answers(&absent));
    // What the node is getting, or would get for others, is not told either.
    bench.want(9, Class::Demand);
    for number in [9, 10] {
        let refused = bench.asked(99, 2, number, Class::Demand);
        assert!(matches!(refused[..], [Action::SendMiss { .. }]));
    }
    assert!(matches!(
        bench.asked(1, 1, 7, Class::Demand)[..],
        [Action::SendData { .. }]
    ));
}

#[test]
fn a_right_is_good_until_it_ends_and_its_peer_goes() {
    let mut bench = Bench::routed();
    bench.hold([7, 8]);
    let served = |actions: &[Action]| matches!(actions, [Action::SendData { .. }]);
    bench.grant(99, "registry", bench.now + Duration::from_secs(1));
    assert!(served(&bench.asked(99, 1, 7, Class::Demand)));
    bench.tell(Input::Sent {
        peer: peer(99),
        request: 1,
    });
    bench.pass(1_000);
    assert!(!served(&bench.asked(99, 2, 7, Class::Demand)));
    bench.grant(99, "registry", bench.now + Duration::from_secs(1));
    assert!(served(&bench.asked(99, 3, 8, Class::Demand)));
    bench.tell(Input::PeerGone { peer: peer(99) });
    assert!(!served(&bench.asked(99, 4, 7, Class::Demand)));
}

#[test]
fn the_word_of_a_registry_that_the_image_is_not_from_counts_for_nothing() {
    let mut bench = Bench::routed();
    bench.hold([7]);
    bench.grant(99, "my own", FOR_EVER);
    assert!(matches!(
        bench.asked(99, 1, 7, Class::Demand)[..],
        [Action::SendMiss { .. }]
    ));
}

#[test]
fn a_peer_with_too_many_rights_keeps_those_that_last() {
    let mut bench = Bench::routed();
    bench.hold([7]);
    bench.grant(99, "registry", FOR_EVER);
    for number in 0..100_u32 {
        let blobs = (0..256_u32).map(|blob| Digest::of(&(number * 256 + blob).to_le_bytes()));
        let right = Right {
            registry: "registry".into(),
            manifest: Digest::of(&number.to_le_bytes()),
            blobs: blobs.collect(),
            until: bench.now + Duration::from_mins(1),
        };
        let peer = peer(99);
        bench.tell(Input::Granted { peer, right });
    }
    assert!(matches!(
        bench.asked(99, 1, 7, Class::Demand)[..],
        [Action::SendData { .. }]
    ));
}

#[test]
fn a_node_without_a_right_reads_the_registry_and_asks_nobody_else() {
    let mut bench = Bench::new(|_| {});
    bench.tell(Input::TrackerUp {
        epoch: 1,
        seed: None,
    });
    bench.pass(1);
    let blob = Digest::of(b"another");
    bench.tell(Input::OpenBlob {
        blob,
        registries: vec!["registry".into()],
        chunk_lens: vec![CHUNK_LEN; 64].into(),
        present: Vec::new(),
    });
    let want = Input::Wanted {
        chunk: ChunkId { blob, number: 0 },
        class: Class::Demand,
        give_up_at: None,
    };
    assert_eq!(looked_up(&bench.tell(want)), [0]);
    let told = |until| Input::Members {
        blob,
        members: vec![member(1).into()],
        until,
    };
    let refused = bench.tell(told(None));
    assert_eq!(reads(&refused).len(), 1);
    let want = |number| Input::Wanted {
        chunk: ChunkId { blob, number },
        class: Class::Demand,
        give_up_at: None,
    };
    let next = bench.tell(want(1));
    assert_eq!((reads(&next).len(), looked_up(&next).len()), (1, 0));
    let until = bench.now + Duration::from_secs(10);
    bench.tell(told(Some(until)));
    assert_eq!(looked_up(&bench.tell(want(2))), [0]);
    // A refusal takes nothing away before its time, and nothing is left after it.
    bench.tell(told(None));
    bench.tell(Input::Routes {
        blob,
        routes: vec![StripeRoute {
            stripe: 0,
            route: parents(&[1]),
        }],
    });
    assert_eq!(wants(&bench.tell(want(3))).len(), 1);
    bench.now = until;
    let late = bench.tell(want(4));
    let reads_it = reads(&late)
        .iter()
        .any(|&(_, first, end)| (first..end).contains(&4));
    assert!(wants(&late).is_empty() && reads_it, "{late:?}");
}

#[test]
fn what_is_wanted_while_a_proof_is_got_waits_for_the_right_and_not_for_ever() {
    // A node read the registry in the moment between the tracker's first answer and the proof that it wanted: each
    // node of a crowd did.
    let mut bench = Bench::new(|_| {});
    bench.tell(Input::TrackerUp {
        epoch: 1,
        seed: None,
    });
    bench.pass(1);
    let blob = Digest::of(b"private");
    bench.tell(Input::OpenBlob {
        blob,
        registries: vec!["registry".into()],
        chunk_lens: vec![CHUNK_LEN; 256].into(),
        present: Vec::new(),
    });
    let want = |number| Input::Wanted {
        chunk: ChunkId { blob, number },
        class: Class::Demand,
        give_up_at: None,
    };
    let told = |until| Input::Members {
        blob,
        members: vec![member(1).into()],
        until,
    };
    assert_eq!(looked_up(&bench.tell(want(0))), [0, 1, 2, 3]);
    bench.tell(Input::RightAwaited { blob });
    // The tracker's answer to what was asked before: it knows no such blob.
    let stripes = vec![0, 1, 2, 3];
    let unknown = bench.tell(Input::LookupFailed { blob, stripes });
    assert!(
        unknown.is_empty(),
        "opened again, without a proof: {unknown:?}"
    );
    let second = bench.tell(want(64));
    assert!(reads(&second).is_empty() && looked_up(&second).is_empty());
    let held = bench.pass(200);
    assert!(
        reads(&held).is_empty() && looked_up(&held).is_empty(),
        "{held:?}"
    );
    let granted = bench.tell(told(Some(bench.now + Duration::from_mins(1))));
    assert_eq!(looked_up(&granted), [0, 1, 2, 3]);

    // Whoever waits for a proof that does not come reads the registry when patience ends, or when the answer is no.
    let blob = Digest::of(b"another's");
    bench.tell(Input::OpenBlob {
        blob,
        registries: vec!["registry".into()],
        chunk_lens: vec![CHUNK_LEN; 64].into(),
        present: Vec::new(),
    });
    bench.tell(Input::RightAwaited { blob });
    let want = |number| Input::Wanted {
        chunk: ChunkId { blob, number },
        class: Class::Demand,
        give_up_at: None,
    };
    assert!(reads(&bench.tell(want(0))).is_empty());
    assert!(!reads(&bench.pass(2_000)).is_empty());
    assert!(reads(&bench.tell(want(9))).is_empty());
    let refused = bench.tell(Input::Members {
        blob,
        members: Vec::new(),
        until: None,
    });
    assert_eq!(reads(&refused).len(), 1);
}

#[test]
fn without_a_tracker_a_node_whose_right_is_over_reads_the_registry() {
    let mut bench = Bench::new(|_| {});
    bench.members(&[1, 2], Some(bench.now + Duration::from_secs(1)));
    // Bench::new gave a right without an end, which a shorter one does not cut.
    let first = bench.want(0, Class::Demand);
    assert_eq!(wants(&first).len() + reads(&first).len(), 1);
    let mut bench = Bench::new(|_| {});
    bench.tell(Input::CloseBlob { blob: blob() });
    bench.hold([]);
    bench.members(&[1, 2], Some(bench.now + Duration::from_secs(1)));
    bench.pass(1_000);
    for stripe in 0..3 {
        let late = bench.want(stripe * 64, Class::Demand);
        assert!(wants(&late).is_empty() && reads(&late).len() == 1);
    }
}
