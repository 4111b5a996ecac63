//! The rules of the wire that a sentence can say, one test each.

use std::sync::Arc;

use crate::chunk::PROOF_CHUNK_LEN;
use crate::{ChunkTableBuilder, HashAlgorithm};
use bytes::Bytes;

use super::*;

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
    assert!(TrackerReply::from_frame(&frame(tracker::kind::FAREWELL, 1)).is_err());
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
fn a_farewell_comes_unasked() {
    let mut bytes = Vec::new();
    TrackerReply::Farewell.encode(0, &mut bytes);
    assert_eq!(bytes, [0, 0, 0, 0, 0x6a, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        TrackerReply::decode(&bytes),
        Ok((0, TrackerReply::Farewell))
    );
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
    let members: Vec<Arc<Member>> = (0..=255).map(|number| Arc::new(member(number))).collect();
    let parents = members
        .chunks(MAX_PARENTS)
        .map(|parents| Route::Parents(parents.to_vec()));
    let routes = parents
        .map(|route| StripeRoute { stripe: 1, route })
        .collect();
    let mut opened = Vec::new();
    let grant = Some(Box::new(Grant {
        peer: PeerId::from_bytes(&[1; MAX_PEER_ID_LEN]).unwrap(),
        registry: "r".repeat(MAX_NAME_LEN),
        manifest: Digest::of(b""),
        blobs: vec![Digest::of(b""); MAX_BLOBS],
        issued_at: 0,
        expires_at: 0,
        tracker: PeerId::from_bytes(&[2; MAX_PEER_ID_LEN]).unwrap(),
        signature: vec![0; MAX_SIGNATURE_LEN],
    }));
    TrackerReply::Opened { grant, members }.encode(1, &mut opened);
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
fn a_proof_s_signature_covers_the_blob_and_the_whole_table() {
    let signed = SignedProof {
        blob: Digest::of(b"blob"),
        table: Bytes::from(vec![5; 1_000]),
        tracker: PeerId::from_bytes(b"tracker").unwrap(),
        signature: vec![1],
    };
    let other_blob = SignedProof {
        blob: Digest::of(b"other"),
        ..signed.clone()
    };
    assert_ne!(other_blob.signed_bytes(), signed.signed_bytes());
    for place in [0, 500, 999] {
        let mut table = signed.table.to_vec();
        table[place] ^= 1;
        let other = SignedProof {
            table: table.into(),
            ..signed.clone()
        };
        assert_ne!(other.signed_bytes(), signed.signed_bytes(), "byte {place}");
    }
}

#[test]
fn the_table_of_the_longest_blob_that_is_proven_fits() {
    let mut builder = ChunkTableBuilder::new(HashAlgorithm::Blake3);
    for _ in 0..MAX_LENT_BLOB_LEN / u64::from(PROOF_CHUNK_LEN) {
        builder.update(b"a");
        builder.cut();
    }
    let len = builder.finish().encode().len();
    assert!(len <= MAX_LENT_LEN && len > MAX_LENT_LEN * 9 / 10, "{len}");
}

#[test]
fn the_longest_proof_fits_a_frame_and_a_longer_one_is_refused() {
    let proof = |len| SignedProof {
        blob: Digest::of(b"blob"),
        table: Bytes::from(vec![5; len]),
        tracker: PeerId::from_bytes(&[1; MAX_PEER_ID_LEN]).unwrap(),
        signature: vec![2; MAX_SIGNATURE_LEN],
    };
    let ready = TrackerReply::Proof(ProofState::Ready(Box::new(proof(MAX_LENT_LEN))));
    let mut bytes = Vec::new();
    ready.encode(1, &mut bytes);
    assert_eq!(TrackerReply::decode(&bytes), Ok((1, ready)));
    let mut kept = Vec::new();
    proof(100).encode(&mut kept);
    assert_eq!(SignedProof::decode(&kept), Ok(proof(100)));
    // The length stands before the last hundred bytes.
    let length = kept.len() - 104;
    kept[length..length + 4].copy_from_slice(&1_000_001_u32.to_le_bytes());
    assert!(matches!(
        SignedProof::decode(&kept),
        Err(WireError::OutOfBounds { what: "table", .. })
    ));
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
