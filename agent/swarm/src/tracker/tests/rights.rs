//! Who may not have an image learns nothing of it, and rights end when they end.

use super::*;

fn told(reply: &TrackerReply) -> (bool, usize) {
    let TrackerReply::Opened { grant, members } = reply else {
        panic!("not OPENED but {reply:?}")
    };
    (grant.is_some(), members.len())
}

fn is_unknown(replies: &[(PeerId, TrackerReply)]) -> bool {
    matches!(
        replies,
        [(
            _,
            TrackerReply::Error {
                code: ErrorCode::UnknownBlob,
                ..
            }
        )]
    )
}

fn ask(
    tracker: &mut Tracker,
    now: Duration,
    name: u8,
    blob: Digest,
) -> Vec<(PeerId, TrackerReply)> {
    let stripes = vec![0];
    tell(
        tracker,
        now,
        peer(name),
        TrackerRequest::Lookup { blob, stripes },
    )
}

/// Agents 1 and 2 with the blob open, and agent 3, which is only a member.
fn swarm_and_stranger() -> Tracker {
    let mut tracker = swarm(2);
    let member = member(3, "a", Role::Agent);
    let boot_id = [0; 16];
    tracker.handle(START, Input::Joined { member, boot_id });
    tracker
}

#[test]
fn whoever_may_not_have_a_blob_is_answered_as_if_there_were_none() {
    let mut tracker = swarm_and_stranger();
    let nowhere = Digest::of(b"nobody has this");
    for digest in [blob(), nowhere] {
        let reply = open(&mut tracker, START, peer(3), (digest, 256), None);
        assert_eq!(told(&reply), (false, 0));
    }
    let refused = ask(&mut tracker, START, 3, blob());
    assert!(is_unknown(&refused));
    assert_eq!(refused, ask(&mut tracker, START, 3, nowhere));
    let announce = |blob| TrackerRequest::Announce {
        blob,
        runs: vec![StripeRun {
            state: StripeState::Complete,
            count: 1,
        }],
    };
    let refused = tell(&mut tracker, START, peer(3), announce(blob()));
    assert!(is_unknown(&refused));
    assert_eq!(
        refused,
        tell(&mut tracker, START, peer(3), announce(nowhere))
    );
    // Nor do the others hear of it.
    let reply = open(&mut tracker, START, peer(1), (blob(), 256), Some(FOR_EVER));
    assert_eq!(told(&reply), (true, 2));
    assert!(tracker.blobs().all(|(digest, _)| digest == blob()));
}

#[test]
fn a_blob_that_the_grant_does_not_name_is_not_opened() {
    let mut tracker = swarm(1);
    let grant = Grant {
        peer: peer(1),
        registry: "registry".to_owned(),
        manifest: Digest::of(b"manifest"),
        blobs: vec![Digest::of(b"named")],
        issued_at: 0,
        expires_at: 0,
        tracker: peer(99),
        signature: Vec::new(),
    };
    let info = |digest| BlobInfo {
        digest,
        len: 1,
        chunk_count: 1,
    };
    tracker.handle(
        START,
        Input::Open {
            from: peer(1),
            request: 1,
            image: ImageSource {
                registry: "registry".to_owned(),
                repository: "image".to_owned(),
                manifest: grant.manifest,
            },
            blobs: vec![info(Digest::of(b"named")), info(Digest::of(b"unnamed"))],
            rights: Some(Box::new(Rights {
                grant,
                until: FOR_EVER,
            })),
        },
    );
    replies(&mut tracker, START);
    assert!(!is_unknown(&ask(
        &mut tracker,
        START,
        1,
        Digest::of(b"named")
    )));
    assert!(is_unknown(&ask(
        &mut tracker,
        START,
        1,
        Digest::of(b"unnamed")
    )));
}

#[test]
fn a_right_ends_when_it_ends_and_children_get_another_parent() {
    let mut tracker = swarm_and_stranger();
    let reply = open(&mut tracker, START, peer(3), (blob(), 256), Some(ms(1_000)));
    assert_eq!(told(&reply), (true, 3));
    assert!(matches!(
        lookup(&mut tracker, START, 3),
        Route::Origin { .. }
    ));
    announce(&mut tracker, START, 3, StripeState::Complete);
    assert_eq!(parents(&lookup(&mut tracker, START, 1)), [3]);
    assert!(tracker.wake_at().is_some_and(|at| at <= ms(1_000)));
    let routes = replies(&mut tracker, ms(1_000));
    // Its child reads the registry now, since nobody else has the stripe.
    assert!(matches!(route_told(&routes, 1), Route::Origin { .. }));
    assert!(is_unknown(&ask(&mut tracker, ms(1_000), 3, blob())));
    let reply = open(
        &mut tracker,
        ms(1_000),
        peer(1),
        (blob(), 256),
        Some(FOR_EVER),
    );
    assert_eq!(told(&reply), (true, 2));
}

#[test]
fn a_renewed_right_lasts_longer() {
    let mut tracker = swarm_and_stranger();
    open(&mut tracker, START, peer(3), (blob(), 256), Some(ms(1_000)));
    open(
        &mut tracker,
        ms(500),
        peer(3),
        (blob(), 256),
        Some(ms(5_000)),
    );
    replies(&mut tracker, ms(1_000));
    assert!(!is_unknown(&ask(&mut tracker, ms(1_000), 3, blob())));
    // An OPEN that is refused takes nothing away before its time.
    open(&mut tracker, ms(1_000), peer(3), (blob(), 256), None);
    assert!(!is_unknown(&ask(&mut tracker, ms(4_999), 3, blob())));
    // Nobody polled in between.
    assert!(is_unknown(&ask(&mut tracker, ms(5_000), 3, blob())));
}

#[test]
fn who_may_by_the_word_of_another_registry_is_nobody_here() {
    let mut tracker = swarm_and_stranger();
    let reply = open_at(
        &mut tracker,
        "my own",
        START,
        peer(3),
        (blob(), 256),
        Some(FOR_EVER),
    );
    assert_eq!(told(&reply), (true, 1));
    assert!(matches!(
        lookup(&mut tracker, START, 1),
        Route::Origin { .. }
    ));
    announce(&mut tracker, START, 1, StripeState::Complete);
    // It is alone with its blob of the same digest.
    assert!(matches!(
        lookup(&mut tracker, START, 3),
        Route::Origin { .. }
    ));
    assert_eq!(parents(&lookup(&mut tracker, START, 2)), [1]);
}
