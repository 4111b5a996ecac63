//! Each message survives the wire, and no bytes make a decoder panic.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::ChunkHash;

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest::from_bytes)
}

fn peer() -> impl Strategy<Value = PeerId> {
    vec(any::<u8>(), 1..=MAX_PEER_ID_LEN).prop_map(|id| PeerId::from_bytes(&id).unwrap())
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Agent), Just(Role::Seed)]
}

fn member() -> impl Strategy<Value = Member> {
    let addresses = vec("[ -~]{0,40}", 0..=MAX_ADDRESSES);
    (peer(), addresses, "\\PC{0,12}", "[a-z0-9-]{0,12}", role()).prop_map(
        |(peer, addresses, zone, rack, role)| Member {
            peer,
            addresses,
            zone,
            rack,
            role,
        },
    )
}

fn certificate() -> impl Strategy<Value = Certificate> {
    let signature = vec(any::<u8>(), 0..=MAX_SIGNATURE_LEN);
    (member(), any::<u64>(), any::<u64>(), peer(), signature).prop_map(
        |(member, issued_at, expires_at, tracker, signature)| Certificate {
            member,
            issued_at,
            expires_at,
            tracker,
            signature,
        },
    )
}

fn versions() -> impl Strategy<Value = Versions> {
    (any::<u16>(), any::<u16>()).prop_map(|(min, max)| Versions { min, max })
}

fn class() -> impl Strategy<Value = Class> {
    prop_oneof![
        Just(Class::Demand),
        Just(Class::ReadAhead),
        Just(Class::Prefetch),
        Just(Class::Background),
    ]
}

fn chunk() -> impl Strategy<Value = ChunkId> {
    (digest(), any::<u32>()).prop_map(|(blob, number)| ChunkId { blob, number })
}

fn want() -> impl Strategy<Value = Want> {
    let hash = option::of(any::<[u8; 32]>().prop_map(ChunkHash::from_bytes));
    (class(), chunk(), hash).prop_map(|(class, chunk, hash)| Want { class, chunk, hash })
}

fn peer_message() -> impl Strategy<Value = PeerMessage> {
    let request = 1..=u32::MAX;
    let hello = (versions(), certificate(), any::<[u8; 16]>());
    let ack = (any::<u16>(), certificate(), any::<[u8; 16]>());
    let busy = (
        request.clone(),
        any::<u32>(),
        vec(member(), 0..=MAX_PARENTS),
    );
    let data = (request.clone(), vec(any::<u8>(), 0..2_000));
    prop_oneof![
        hello.prop_map(|(versions, certificate, boot_id)| {
            PeerMessage::Hello(Box::new(Hello {
                versions,
                certificate,
                boot_id,
            }))
        }),
        ack.prop_map(|(version, certificate, boot_id)| {
            PeerMessage::HelloAck(Box::new(HelloAck {
                version,
                certificate,
                boot_id,
            }))
        }),
        (request.clone(), want()).prop_map(|(request, want)| PeerMessage::Want { request, want }),
        data.prop_map(|(request, bytes)| PeerMessage::Data {
            request,
            bytes: bytes.into()
        }),
        (request.clone(), any::<u32>(), any::<u8>()).prop_map(|(request, idle_ms, hops)| {
            PeerMessage::Wait {
                request,
                idle_ms,
                hops,
            }
        }),
        busy.prop_map(|(request, retry_ms, alternatives)| PeerMessage::Busy {
            request,
            retry_ms,
            alternatives
        }),
        request
            .clone()
            .prop_map(|request| PeerMessage::Miss { request }),
        request.prop_map(|request| PeerMessage::Cancel { request }),
        Just(PeerMessage::GoAway),
    ]
}

fn image() -> impl Strategy<Value = ImageSource> {
    ("[a-z.:0-9]{0,40}", "[a-z/]{0,40}", digest()).prop_map(|(registry, repository, manifest)| {
        ImageSource {
            registry,
            repository,
            manifest,
        }
    })
}

fn blob_info() -> impl Strategy<Value = BlobInfo> {
    (digest(), any::<u64>(), any::<u32>()).prop_map(|(digest, len, chunk_count)| BlobInfo {
        digest,
        len,
        chunk_count,
    })
}

fn run() -> impl Strategy<Value = StripeRun> {
    let state = prop_oneof![
        Just(StripeState::None),
        Just(StripeState::InFlight),
        Just(StripeState::Complete),
    ];
    (state, 1..=u32::MAX).prop_map(|(state, count)| StripeRun { state, count })
}

fn request() -> impl Strategy<Value = TrackerRequest> {
    let token = vec(any::<u8>(), 0..=MAX_TOKEN_LEN).prop_map(JoinProof::Token);
    let proof = prop_oneof![
        token,
        certificate().prop_map(|certificate| JoinProof::Certificate(Box::new(certificate)))
    ];
    let lease_state = prop_oneof![
        Just(LeaseState::Reading),
        Just(LeaseState::Resting),
        Just(LeaseState::Released),
    ];
    let fault = prop_oneof![
        Just(Fault::WrongChunk),
        Just(Fault::Slow),
        Just(Fault::Dead)
    ];
    let goodput = (peer(), any::<u64>()).prop_map(|(peer, bytes_per_second)| Goodput {
        peer,
        bytes_per_second,
    });
    prop_oneof![
        (versions(), proof, member(), any::<[u8; 16]>()).prop_map(
            |(versions, proof, member, boot_id)| {
                TrackerRequest::Join(Box::new(Join {
                    versions,
                    proof,
                    member,
                    boot_id,
                }))
            }
        ),
        (image(), vec(blob_info(), 0..20))
            .prop_map(|(image, blobs)| TrackerRequest::Open { image, blobs }),
        (digest(), vec(any::<u32>(), 0..=MAX_STRIPES))
            .prop_map(|(blob, stripes)| TrackerRequest::Lookup { blob, stripes }),
        (any::<u64>(), any::<u64>(), lease_state).prop_map(|(lease, done_len, state)| {
            TrackerRequest::Progress {
                lease,
                done_len,
                state,
            }
        }),
        (digest(), vec(run(), 0..50))
            .prop_map(|(blob, runs)| TrackerRequest::Announce { blob, runs }),
        (any::<u16>(), any::<u64>(), vec(goodput, 0..=MAX_GOODPUTS)).prop_map(
            |(load_permille, epoch, goodputs)| TrackerRequest::Heartbeat {
                load_permille,
                epoch,
                goodputs
            }
        ),
        (fault, peer(), chunk()).prop_map(|(fault, peer, chunk)| TrackerRequest::Report {
            fault,
            peer,
            chunk
        }),
        Just(TrackerRequest::Leave),
    ]
}

fn routes() -> impl Strategy<Value = Vec<StripeRoute>> {
    // A few members, so that most are told of more than once.
    vec(member(), 1..5).prop_flat_map(|members| {
        let parents = vec(prop::sample::select(members), 0..=MAX_PARENTS);
        let route = prop_oneof![
            (any::<u64>(), any::<u32>())
                .prop_map(|(lease, expires_ms)| Route::Origin { lease, expires_ms }),
            parents.prop_map(Route::Parents),
            any::<u32>().prop_map(|ms| Route::Wait { ms }),
        ];
        let route = (any::<u32>(), route);
        vec(
            route.prop_map(|(stripe, route)| StripeRoute { stripe, route }),
            0..=MAX_STRIPES,
        )
    })
}

fn reply() -> impl Strategy<Value = TrackerReply> {
    let seed = option::of(member().prop_map(Box::new));
    let code = prop_oneof![
        Just(ErrorCode::Malformed),
        Just(ErrorCode::UnsupportedVersion),
        Just(ErrorCode::NotAMember),
        Just(ErrorCode::NotAdmitted),
        Just(ErrorCode::Banned),
        Just(ErrorCode::UnknownBlob),
        Just(ErrorCode::Overloaded),
    ];
    prop_oneof![
        (
            any::<u16>(),
            certificate(),
            any::<u64>(),
            any::<u32>(),
            seed
        )
            .prop_map(|(version, certificate, epoch, heartbeat_ms, seed)| {
                TrackerReply::Joined {
                    version,
                    certificate: Box::new(certificate),
                    epoch,
                    heartbeat_ms,
                    seed,
                }
            }),
        vec(member(), 0..10).prop_map(|members| TrackerReply::Opened { members }),
        (digest(), routes()).prop_map(|(blob, routes)| TrackerReply::Routes { blob, routes }),
        (any::<u64>(), option::of(any::<u32>()))
            .prop_map(|(lease, expires_ms)| TrackerReply::ProgressAck { lease, expires_ms }),
        (any::<u64>(), vec(peer(), 0..20))
            .prop_map(|(epoch, bans)| TrackerReply::HeartbeatAck { epoch, bans }),
        Just(TrackerReply::Ack),
        (code, "\\PC{0,60}").prop_map(|(code, text)| TrackerReply::Error { code, text }),
    ]
}

/// Bytes with one changed, cut short or drawn out.
fn spoil(bytes: &mut Vec<u8>, at: prop::sample::Index, with: u8, how: u8) {
    match how % 3 {
        0 => *at.get_mut(bytes) ^= with.max(1),
        1 => bytes.truncate(at.index(bytes.len())),
        _ => bytes.push(with),
    }
}

proptest! {
    #[test]
    fn a_peer_message_survives_the_wire(message in peer_message()) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        prop_assert_eq!(PeerMessage::decode(&bytes).unwrap(), message);
    }

    #[test]
    fn a_request_survives_the_wire(message in request(), number in 1..=u32::MAX) {
        let mut bytes = Vec::new();
        message.encode(number, &mut bytes);
        prop_assert_eq!(TrackerRequest::decode(&bytes).unwrap(), (number, message));
    }

    #[test]
    fn a_reply_survives_the_wire(message in reply(), number in 1..=u32::MAX) {
        let mut bytes = Vec::new();
        message.encode(number, &mut bytes);
        prop_assert_eq!(TrackerReply::decode(&bytes).unwrap(), (number, message));
    }

    #[test]
    fn a_certificate_survives_the_disk(kept in certificate()) {
        let mut bytes = Vec::new();
        kept.encode(&mut bytes);
        prop_assert_eq!(Certificate::decode(&bytes).unwrap(), kept);
    }

    /// What is spoilt is refused, or is another message that encodes to the spoilt bytes: no two
    /// encodings mean the same, so nothing slips through unread.
    #[test]
    fn a_spoilt_peer_message_is_refused_or_another(
        message in peer_message(), at: prop::sample::Index, with: u8, how: u8,
    ) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        spoil(&mut bytes, at, with, how);
        if let Ok(other) = PeerMessage::decode(&bytes) {
            let mut again = Vec::new();
            other.encode(&mut again);
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn a_spoilt_request_is_refused_or_another(
        message in request(), at: prop::sample::Index, with: u8, how: u8,
    ) {
        let mut bytes = Vec::new();
        message.encode(7, &mut bytes);
        spoil(&mut bytes, at, with, how);
        if let Ok((number, other)) = TrackerRequest::decode(&bytes) {
            let mut again = Vec::new();
            other.encode(number, &mut again);
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn a_spoilt_reply_never_panics(
        message in reply(), at: prop::sample::Index, with: u8, how: u8,
    ) {
        let mut bytes = Vec::new();
        message.encode(7, &mut bytes);
        spoil(&mut bytes, at, with, how);
        drop(TrackerReply::decode(&bytes));
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(kind: u8, request: u32, body in vec(any::<u8>(), 0..400)) {
        let frame = Frame { kind, request, body: body.clone().into() };
        drop(PeerMessage::from_frame(frame.clone()));
        drop(TrackerRequest::from_frame(&frame));
        drop(TrackerReply::from_frame(&frame));
        drop(Certificate::decode(&body));
        drop(Frame::decode(&body));
    }

    #[test]
    fn frames_come_out_however_the_bytes_are_cut(
        messages in vec(peer_message(), 1..6), cuts in vec(1_usize..300, 1..40),
    ) {
        let mut bytes = Vec::new();
        for message in &messages {
            message.encode(&mut bytes);
        }
        let mut decoder = FrameDecoder::new();
        let mut got = Vec::new();
        let mut rest = bytes.as_slice();
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            decoder.feed(now);
            rest = later;
            while let Some(frame) = decoder.next_frame().unwrap() {
                got.push(PeerMessage::from_frame(frame).unwrap());
            }
        }
        prop_assert_eq!(got, messages);
        prop_assert_eq!(decoder.buffered_len(), 0);
    }
}

#[test]
fn a_frame_that_is_too_long_is_refused_before_its_body_comes() {
    let mut decoder = FrameDecoder::with_max_body_len(100);
    decoder.feed(
        &Header {
            body_len: 101,
            kind: 4,
            request: 1,
        }
        .encode(),
    );
    assert_eq!(
        decoder.next_frame(),
        Err(WireError::FrameTooLong { len: 101, max: 100 })
    );
    let mut decoder = FrameDecoder::new();
    decoder.feed(
        &Header {
            body_len: MAX_BODY_LEN + 1,
            kind: 4,
            request: 1,
        }
        .encode(),
    );
    assert!(decoder.next_frame().is_err());
}

#[test]
fn reserved_bits_of_a_header_are_refused() {
    for place in 5..8 {
        let mut bytes = Header {
            body_len: 0,
            kind: peer::kind::GOAWAY,
            request: 0,
        }
        .encode();
        bytes[place] = 0x80;
        assert!(matches!(
            Frame::decode(&bytes),
            Err(WireError::ReservedBits { .. })
        ));
    }
}

#[test]
fn a_request_number_is_there_when_it_must_be_and_only_then() {
    let frame = |kind, request| Frame {
        kind,
        request,
        body: Bytes::new(),
    };
    assert!(PeerMessage::from_frame(frame(peer::kind::MISS, 0)).is_err());
    assert!(PeerMessage::from_frame(frame(peer::kind::GOAWAY, 1)).is_err());
    assert!(TrackerRequest::from_frame(&frame(tracker::kind::LEAVE, 0)).is_err());
    assert!(TrackerReply::from_frame(&frame(tracker::kind::ACK, 0)).is_err());
}

#[test]
fn unasked_routes_are_understood() {
    let routes = TrackerReply::Routes {
        blob: Digest::of(b"blob"),
        routes: Vec::new(),
    };
    let mut bytes = Vec::new();
    routes.encode(0, &mut bytes);
    assert_eq!(TrackerReply::decode(&bytes), Ok((0, routes)));
}

#[test]
fn a_chunk_is_a_slice_of_the_buffer_it_came_in() {
    let message = PeerMessage::Data {
        request: 9,
        bytes: Bytes::from(vec![7; 1_000]),
    };
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    let mut decoder = FrameDecoder::new();
    decoder.feed(&bytes);
    let frame = decoder.next_frame().unwrap().unwrap();
    let body = frame.body.as_ptr();
    let PeerMessage::Data { bytes, .. } = PeerMessage::from_frame(frame).unwrap() else {
        panic!("DATA is DATA")
    };
    assert_eq!(bytes.as_ptr(), body);
}

#[test]
fn what_is_beyond_a_bound_is_cut_so_that_it_can_be_read() {
    let long = Member {
        peer: PeerId::from_bytes(b"p").unwrap(),
        addresses: vec!["ä".repeat(200); 9],
        zone: "z".repeat(100),
        rack: String::new(),
        role: Role::Agent,
    };
    let busy = PeerMessage::Busy {
        request: 1,
        retry_ms: 0,
        alternatives: vec![long; 9],
    };
    let mut bytes = Vec::new();
    busy.encode(&mut bytes);
    let Ok(PeerMessage::Busy { alternatives, .. }) = PeerMessage::decode(&bytes) else {
        panic!("BUSY can be read")
    };
    assert_eq!(alternatives.len(), MAX_PARENTS);
    assert_eq!(alternatives[0].addresses.len(), MAX_ADDRESSES);
    assert_eq!(alternatives[0].addresses[0].len(), MAX_ADDRESS_LEN);
    assert_eq!(alternatives[0].zone.len(), MAX_LABEL_LEN);
}

#[test]
fn the_longest_messages_fit_a_frame() {
    let member = |number: u8| Member {
        peer: PeerId::from_bytes(&[number; MAX_PEER_ID_LEN]).unwrap(),
        addresses: vec!["a".repeat(MAX_ADDRESS_LEN); MAX_ADDRESSES],
        zone: "z".repeat(MAX_LABEL_LEN),
        rack: "r".repeat(MAX_LABEL_LEN),
        role: Role::Agent,
    };
    let members: Vec<Member> = (0..=255).map(member).collect();
    let parents = members
        .chunks(MAX_PARENTS)
        .map(|parents| Route::Parents(parents.to_vec()));
    let routes = parents
        .map(|route| StripeRoute { stripe: 1, route })
        .collect();
    let mut opened = Vec::new();
    TrackerReply::Opened { members }.encode(1, &mut opened);
    assert!(TrackerReply::decode(&opened).is_ok());
    let mut told = Vec::new();
    TrackerReply::Routes {
        blob: Digest::of(b""),
        routes,
    }
    .encode(1, &mut told);
    assert!(TrackerReply::decode(&told).is_ok());
    let runs = vec![
        StripeRun {
            state: StripeState::Complete,
            count: 1
        };
        MAX_RUNS
    ];
    let mut announced = Vec::new();
    TrackerRequest::Announce {
        blob: Digest::of(b""),
        runs,
    }
    .encode(1, &mut announced);
    assert!(TrackerRequest::decode(&announced).is_ok());
}

#[test]
fn a_signature_covers_every_field_but_itself() {
    let member = Member {
        peer: PeerId::from_bytes(b"peer").unwrap(),
        addresses: vec!["/ip4/10.0.0.1/tcp/7000".to_owned()],
        zone: "a".to_owned(),
        rack: "a1".to_owned(),
        role: Role::Agent,
    };
    let tracker = PeerId::from_bytes(b"tracker").unwrap();
    let signed = Certificate {
        member,
        issued_at: 1,
        expires_at: 2,
        tracker,
        signature: vec![1, 2, 3],
    };
    let mut others = vec![signed.clone(); 6];
    others[0].member.zone = "b".to_owned();
    others[1].member.role = Role::Seed;
    others[2].issued_at = 0;
    others[3].expires_at = 3;
    others[4].tracker = signed.member.peer;
    for other in &others[..5] {
        assert_ne!(other.signed_bytes(), signed.signed_bytes());
    }
    others[5].signature.clear();
    assert_eq!(others[5].signed_bytes(), signed.signed_bytes());
    assert!(signed.covers(1) && !signed.covers(0) && !signed.covers(2));
}

#[test]
fn the_newest_common_version_is_spoken() {
    let versions = |min, max| Versions { min, max };
    assert_eq!(versions(1, 3).common(versions(2, 5)), Some(3));
    assert_eq!(versions(1, 1).common(versions(2, 5)), None);
    assert_eq!(Versions::OURS.common(Versions::OURS), Some(VERSION_MAX));
}

#[test]
fn a_token_is_not_in_the_log() {
    let proof = JoinProof::Token(b"secret".to_vec());
    assert_eq!(format!("{proof:?}"), "Token(..)");
}
