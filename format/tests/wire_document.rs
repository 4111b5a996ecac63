//! The examples in `docs/protocol.md` are what the codecs write and read, so that the two cannot drift apart.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use bytes::Bytes;
use tranship_format::Digest;
use tranship_format::wire::{
    BlobInfo, Certificate, ChunkId, Class, Grant, Hello, ImageSource, Member, Open, PeerId,
    PeerMessage, PullProof, Role, Route, StripeRoute, TrackerReply, TrackerRequest, Versions, Want,
};

const DOCUMENT: &str = include_str!("../../docs/protocol.md");

/// The blocks of the document that are marked `hex`, each with its offsets checked.
fn examples() -> Vec<Vec<u8>> {
    let blocks = DOCUMENT.split("```hex\n").skip(1);
    let inside = blocks.map(|block| block.split("```").next().unwrap());
    inside.map(parse).collect()
}

/// Lines of an offset, bytes, and a note behind `#`; all numbers are hexadecimal.
fn parse(block: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in block.lines() {
        let mut words = line.split('#').next().unwrap().split_whitespace();
        let offset = usize::from_str_radix(words.next().unwrap(), 16).unwrap();
        assert_eq!(offset, bytes.len(), "offset of {line:?}");
        bytes.extend(words.map(|word| u8::from_str_radix(word, 16).unwrap()));
    }
    bytes
}

fn member() -> Member {
    Member {
        peer: PeerId::from_bytes(b"node").unwrap(),
        addresses: vec!["/ip4/10.0.0.7/tcp/4001".to_owned()],
        zone: "a".to_owned(),
        rack: String::new(),
        role: Role::Agent,
    }
}

fn grant() -> Grant {
    Grant {
        peer: PeerId::from_bytes(b"node").unwrap(),
        registry: "registry.example".to_owned(),
        manifest: Digest::of(b"manifest"),
        blobs: vec![Digest::of(b"abc")],
        issued_at: 1_700_000_000,
        expires_at: 1_700_003_600,
        tracker: PeerId::from_bytes(b"trk1").unwrap(),
        signature: b"sig".to_vec(),
    }
}

fn hello() -> PeerMessage {
    PeerMessage::Hello(Box::new(Hello {
        versions: Versions { min: 1, max: 1 },
        certificate: Certificate {
            member: member(),
            issued_at: 1_700_000_000,
            expires_at: 1_700_086_400,
            tracker: PeerId::from_bytes(b"trk1").unwrap(),
            signature: b"sig".to_vec(),
        },
        boot_id: *b"0123456789abcdef",
    }))
}

#[test]
fn the_examples_of_the_peer_stream_are_what_is_sent() {
    let request = 7;
    let chunk = ChunkId {
        blob: Digest::of(b"abc"),
        number: 130,
    };
    let want = Want {
        class: Class::Demand,
        chunk,
        hash: None,
    };
    let messages = [
        hello(),
        PeerMessage::Want { request, want },
        PeerMessage::Grant(Box::new(grant())),
        PeerMessage::Wait {
            request,
            idle_ms: 40,
            hops: 0,
        },
        PeerMessage::Data {
            request,
            bytes: Bytes::from_static(b"abc"),
        },
        PeerMessage::Busy {
            request,
            retry_ms: 20,
            alternatives: vec![member()],
        },
    ];
    let examples = examples();
    assert_eq!(examples.len(), messages.len() + 3);
    for (message, example) in messages.iter().zip(&examples) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        assert_eq!(&bytes, example, "{message:?}");
        assert_eq!(&PeerMessage::decode(example).unwrap(), message);
    }
}

#[test]
fn the_examples_of_the_tracker_stream_are_what_is_sent() {
    let blob = Digest::of(b"abc");
    let lookup = TrackerRequest::Lookup {
        blob,
        stripes: vec![2, 5],
    };
    let route = |stripe, route| StripeRoute { stripe, route };
    let origin = Route::Origin {
        lease: 17,
        expires_ms: 500,
    };
    let routes = TrackerReply::Routes {
        blob,
        routes: vec![
            route(2, Route::Parents(vec![member().into()])),
            route(5, origin),
        ],
    };
    let open = TrackerRequest::Open(Box::new(Open {
        image: ImageSource {
            registry: "registry.example".to_owned(),
            repository: "team/app".to_owned(),
            manifest: Digest::of(b"manifest"),
        },
        grant: None,
        proof: PullProof::Token(b"tok".to_vec()),
        blobs: vec![BlobInfo {
            digest: blob,
            len: 75 << 20,
            chunk_count: 300,
        }],
    }));
    let [.., opened, asked, answered] = &*examples() else {
        panic!("the document has too few examples");
    };
    let mut bytes = Vec::new();
    open.encode(8, &mut bytes);
    assert_eq!(&bytes, opened);
    assert_eq!(TrackerRequest::decode(opened).unwrap(), (8, open));
    bytes.clear();
    lookup.encode(9, &mut bytes);
    assert_eq!(&bytes, asked);
    assert_eq!(TrackerRequest::decode(asked).unwrap(), (9, lookup));
    bytes.clear();
    routes.encode(9, &mut bytes);
    assert_eq!(&bytes, answered);
    assert_eq!(TrackerReply::decode(answered).unwrap(), (9, routes));
}

#[test]
fn the_signed_bytes_are_those_of_the_document() {
    let PeerMessage::Hello(hello) = hello() else {
        panic!("a HELLO");
    };
    let mut carried = Vec::new();
    hello.certificate.encode(&mut carried);
    let signed = hello.certificate.signed_bytes();
    let fields = signed
        .strip_prefix(b"tranship membership certificate 1\0")
        .unwrap();
    // The signature with its length is all that the signature does not cover.
    assert_eq!(fields, carried.strip_suffix(b"\x03\0sig").unwrap());
    assert!(DOCUMENT.contains("`tranship membership certificate 1\\0`"));

    let (mut carried, domain) = (Vec::new(), b"tranship pull grant 1\0");
    grant().encode(&mut carried);
    let signed = grant().signed_bytes();
    let fields = signed.strip_prefix(domain).unwrap();
    assert_eq!(fields, carried.strip_suffix(b"\x03\0sig").unwrap());
    assert!(DOCUMENT.contains("the 22 bytes `tranship pull grant 1\\0`"));
    assert_eq!(domain.len(), 22);
}
