//! A node's door, with real sockets: who is let in and who is not.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use tranship_format::wire::{
    Certificate, ChunkId, Class, Grant, Hello, PeerMessage, Role, TrackerReply, Versions, Want,
};
use tranship_format::{ChunkTableBuilder, HashAlgorithm};
use tranship_store::{ChunkStore, StoreOptions};

use super::certificate::{issue, issue_grant, libp2p_peer, unix_seconds, wire_peer};
use super::identity::Identity;
use super::stream::{FrameReader, FrameWriter, frames};
use super::transport::{Arrival, Limits, Purpose};
use super::*;
use crate::fetch::RegistryOrigin;
use crate::registry::{RegistryClient, RegistryOptions};

const PATIENCE: Duration = Duration::from_secs(20);
const HOUR: Duration = Duration::from_hours(1);

fn agent_as(identity: &Identity) -> Member {
    Member {
        peer: wire_peer(identity.libp2p_peer()).unwrap(),
        addresses: Vec::new(),
        zone: String::new(),
        rack: String::new(),
        role: Role::Agent,
    }
}

/// A node that is a member of its own swarm: the test plays the tracker.
async fn node(dir: &std::path::Path) -> (SwarmNet, Identity) {
    let identity = Identity::open(dir).unwrap();
    let mut options = NetOptions::new(dir.to_owned());
    options.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    options.trackers = vec![TrackerAddress {
        address: "/ip4/127.0.0.1/tcp/1".parse().unwrap(),
        peer: identity.libp2p_peer(),
    }];
    let (net, mut streams) = SwarmNet::start_with_tracker(options).await.unwrap();
    let mut stream = streams.recv().await.unwrap();
    let (request, _) = stream.next().await.unwrap().unwrap();
    let certificate = issue(&identity, net.member().clone(), unix_seconds(), HOUR).unwrap();
    let joined = TrackerReply::Joined {
        version: 1,
        certificate: Box::new(certificate),
        epoch: 1,
        heartbeat_ms: 60_000,
        seed: None,
    };
    stream.replies().send(request, &joined);
    let joined = async {
        let mut watch = net.watch();
        tokio::select! {
            joined = watch.wait_for(|status| status.joined) => assert!(joined.is_ok()),
            _ = stream.next() => panic!("the node has more to say"),
        }
    };
    timeout(PATIENCE, joined).await.unwrap();
    (net, identity)
}

/// Somebody at a node's door, as long as the transport lives.
struct Visit {
    answer: Option<PeerMessage>,
    reader: FrameReader,
    writer: FrameWriter,
    _transport: (Transport, mpsc::Receiver<Arrival>),
}

/// Dials a node's door as `visitor` and says `first`; what comes back, if anything.
async fn knock(net: &SwarmNet, visitor: &Identity, first: &PeerMessage) -> Visit {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let (transport, arrivals) = Transport::start(visitor, &[], Limits::NODE, &tasks, stop)
        .await
        .unwrap();
    let there = libp2p_peer(&net.member().peer).unwrap();
    let stream = transport
        .open(there, &net.transport.listening(), Purpose::Demand)
        .await
        .unwrap();
    let (mut reader, mut writer) = frames(stream, 1 << 20);
    let mut bytes = Vec::new();
    first.encode(&mut bytes);
    writer.send(&bytes).await.unwrap();
    let answer = timeout(PATIENCE, reader.next()).await.unwrap();
    let answer = answer.ok().flatten();
    let answer = answer.map(|frame| PeerMessage::from_frame(frame).unwrap());
    Visit {
        answer,
        reader,
        writer,
        _transport: (transport, arrivals),
    }
}

fn hello(certificate: Certificate) -> PeerMessage {
    PeerMessage::Hello(Box::new(Hello {
        versions: Versions::OURS,
        certificate,
        boot_id: [7; 16],
    }))
}

#[tokio::test]
async fn a_member_is_welcomed_and_served_and_a_foreigner_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (net, tracker) = node(dir.path()).await;

    let member = Identity::generate();
    let good = issue(&tracker, agent_as(&member), unix_seconds(), HOUR).unwrap();
    let mut visit = knock(&net, &member, &hello(good)).await;
    assert!(matches!(visit.answer, Some(PeerMessage::HelloAck(_))));
    let want = Want {
        class: Class::Demand,
        chunk: ChunkId {
            blob: Digest::of(b"unknown"),
            number: 0,
        },
        hash: None,
    };
    let mut bytes = Vec::new();
    PeerMessage::Want { request: 1, want }.encode(&mut bytes);
    visit.writer.send(&bytes).await.unwrap();
    let frame = timeout(PATIENCE, visit.reader.next()).await.unwrap();
    let answer = PeerMessage::from_frame(frame.unwrap().unwrap()).unwrap();
    assert_eq!(answer, PeerMessage::Miss { request: 1 });

    let strangers = [
        // Signed by somebody else's tracker.
        issue(
            &Identity::generate(),
            agent_as(&member),
            unix_seconds(),
            HOUR,
        ),
        // Another member's.
        issue(
            &tracker,
            agent_as(&Identity::generate()),
            unix_seconds(),
            HOUR,
        ),
        // Over.
        issue(
            &tracker,
            agent_as(&member),
            unix_seconds() - 2 * HOUR.as_secs(),
            HOUR,
        ),
    ];
    for (number, certificate) in strangers.into_iter().enumerate() {
        let visit = knock(&net, &member, &hello(certificate.unwrap())).await;
        assert_eq!(visit.answer, None, "stranger {number} got an answer");
    }
    let visit = knock(&net, &member, &PeerMessage::Miss { request: 1 }).await;
    assert_eq!(visit.answer, None, "whoever does not greet got an answer");
    assert_eq!(net.counters().snapshot().refused_peer_count, 4);
    timeout(PATIENCE, net.stop()).await.unwrap();
}

/// A node of the swarm with one blob of one chunk, whose bytes are `abc`, from an image of `registry.example`.
async fn node_with_image(dir: &std::path::Path) -> (SwarmNet, Identity, Digest) {
    let (net, tracker) = node(dir).await;
    let mut builder = ChunkTableBuilder::new(HashAlgorithm::Blake3);
    builder.update(b"abc");
    let table = builder.finish();
    let store = ChunkStore::open(&dir.join("store"), StoreOptions::with_quota(1 << 20)).unwrap();
    let digest = Digest::of(b"abc");
    let blob = store.blob(digest, 3, table.clone()).unwrap();
    let index = table.index(0).unwrap();
    let chunk = table.verify(index, Bytes::from_static(b"abc")).unwrap();
    blob.put(index, &chunk).unwrap();
    let client = RegistryClient::new(RegistryOptions::default()).unwrap();
    let repo = "registry.example/team/app".parse().unwrap();
    let image = OpenImage {
        manifest: Digest::of(b"manifest"),
        registry: "registry.example".to_owned(),
        repository: "team/app".to_owned(),
        blobs: vec![blob],
        origin: Arc::new(RegistryOrigin::new(client, repo)),
    };
    net.open(image).await.unwrap();
    (net, tracker, digest)
}

impl Visit {
    async fn say(&mut self, message: &PeerMessage) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.writer.send(&bytes).await.unwrap();
    }

    /// Wants the first chunk of a blob; the final answer.
    async fn want(&mut self, request: u32, blob: Digest) -> PeerMessage {
        let want = Want {
            class: Class::Demand,
            chunk: ChunkId { blob, number: 0 },
            hash: None,
        };
        self.say(&PeerMessage::Want { request, want }).await;
        loop {
            let frame = timeout(PATIENCE, self.reader.next()).await.unwrap();
            let answer = PeerMessage::from_frame(frame.unwrap().unwrap()).unwrap();
            if !matches!(answer, PeerMessage::Wait { .. }) {
                return answer;
            }
        }
    }
}

#[tokio::test]
async fn a_member_without_a_grant_that_holds_is_answered_as_if_nothing_were_here() {
    let dir = tempfile::tempdir().unwrap();
    let (net, tracker, blob) = node_with_image(dir.path()).await;
    let (member, now) = (Identity::generate(), unix_seconds());
    let good = issue(&tracker, agent_as(&member), now, HOUR).unwrap();
    let mut visit = knock(&net, &member, &hello(good)).await;
    let (mine, theirs) = (agent_as(&member).peer, agent_as(&Identity::generate()).peer);
    let miss = |request| PeerMessage::Miss { request };
    assert_eq!(visit.want(1, blob).await, miss(1));
    assert_eq!(visit.want(2, Digest::of(b"nowhere")).await, miss(2));
    let grant = |by: &Identity, to, registry: &str, blob, issued_at, life| {
        let image = (registry.to_owned(), Digest::of(b"manifest"));
        issue_grant(by, to, image, vec![blob], issued_at, life).unwrap()
    };
    let here = "registry.example";
    let old = now - 2 * HOUR.as_secs();
    let useless = [
        grant(&tracker, mine, here, Digest::of(b"nowhere"), now, HOUR),
        // The registry of the visitor's choice.
        grant(&tracker, mine, "my.own", blob, now, HOUR),
        // Over; another's; of another swarm; changed.
        grant(&tracker, mine, here, blob, old, HOUR),
        grant(&tracker, theirs, here, blob, now, HOUR),
        grant(&Identity::generate(), mine, here, blob, now, HOUR),
        Grant {
            blobs: vec![blob],
            ..grant(&tracker, mine, here, Digest::of(b"nowhere"), now, HOUR)
        },
    ];
    for (request, grant) in (3..).zip(useless) {
        visit.say(&PeerMessage::Grant(Box::new(grant))).await;
        assert_eq!(visit.want(request, blob).await, miss(request));
    }
    assert_eq!(net.counters().snapshot().refused_grant_count, 4);
    let good = grant(&tracker, mine, here, blob, now, HOUR);
    visit.say(&PeerMessage::Grant(Box::new(good))).await;
    let bytes = Bytes::from_static(b"abc");
    assert_eq!(
        visit.want(20, blob).await,
        PeerMessage::Data { request: 20, bytes }
    );
    timeout(PATIENCE, net.stop()).await.unwrap();
}

#[tokio::test]
async fn a_grant_stops_when_it_expires() {
    let dir = tempfile::tempdir().unwrap();
    let (net, tracker, blob) = node_with_image(dir.path()).await;
    let (member, now) = (Identity::generate(), unix_seconds());
    let good = issue(&tracker, agent_as(&member), now, HOUR).unwrap();
    let mut visit = knock(&net, &member, &hello(good)).await;
    let image = ("registry.example".to_owned(), Digest::of(b"manifest"));
    let life = Duration::from_secs(3);
    let mine = agent_as(&member).peer;
    let short = issue_grant(&tracker, mine, image, vec![blob], now, life).unwrap();
    let expires_at = short.expires_at;
    visit.say(&PeerMessage::Grant(Box::new(short))).await;
    let mut given = 0;
    for request in 1.. {
        // Before the answer: it may come a little later than it was decided on.
        let asked_at = unix_seconds();
        match visit.want(request, blob).await {
            PeerMessage::Data { .. } => {
                assert!(asked_at <= expires_at);
                given += 1;
            }
            // What was given a moment ago is not given again: a second later that is not why.
            PeerMessage::Miss { .. } if asked_at <= expires_at + 1 => {}
            PeerMessage::Miss { .. } => break,
            answer => panic!("{answer:?}"),
        }
    }
    assert!(given > 0);
    timeout(PATIENCE, net.stop()).await.unwrap();
}

#[tokio::test]
async fn another_peer_at_the_address_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let (net, _) = node(dir.path()).await;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let visitor = Identity::generate();
    let (transport, _arrivals) = Transport::start(&visitor, &[], Limits::NODE, &tasks, stop)
        .await
        .unwrap();
    let expected = Identity::generate().libp2p_peer();
    let opened = transport
        .open(expected, &net.transport.listening(), Purpose::Demand)
        .await;
    assert!(matches!(opened, Err(TransportError::Connect { .. })));
}

#[tokio::test]
async fn a_peer_gets_no_more_connections_than_it_may_have() {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let _end = stop.clone().drop_guard();
    let (identity, visitor) = (Identity::generate(), Identity::generate());
    let listen = ["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    let limits = Limits {
        per_peer: 2,
        ..Limits::NODE
    };
    let host = Transport::start(&identity, &listen, limits, &tasks, stop.clone()).await;
    let (host, mut arrivals) = host.unwrap();
    let guest = Transport::start(&visitor, &[], Limits::NODE, &tasks, stop).await;
    let (guest, _none) = guest.unwrap();
    let mut held = Vec::new();
    for purpose in [Purpose::Demand, Purpose::Bulk] {
        let opened = guest.open(host.peer(), &host.listening(), purpose).await;
        held.push(opened.unwrap());
        let arrival = timeout(PATIENCE, arrivals.recv()).await.unwrap().unwrap();
        assert_eq!(arrival.purpose, purpose);
        assert_eq!(arrival.peer, guest.peer());
        held.push(arrival.stream);
    }
    // It may look open from here for a moment, and then ends.
    let third = guest
        .open(host.peer(), &host.listening(), Purpose::Demand)
        .await;
    if let Ok(stream) = third {
        let (mut reader, _writer) = frames(stream, 1 << 20);
        let ended = timeout(PATIENCE, reader.next()).await.unwrap();
        assert!(!matches!(ended, Ok(Some(_))), "a third stream speaks");
    }
    assert!(arrivals.try_recv().is_err(), "a third stream arrived");
}

#[tokio::test]
async fn a_connection_that_is_given_up_ends_its_stream_and_the_other_way_round() {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let _end = stop.clone().drop_guard();
    let (identity, visitor) = (Identity::generate(), Identity::generate());
    let listen = ["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    let limits = Limits {
        per_peer: 1,
        ..Limits::NODE
    };
    let host = Transport::start(&identity, &listen, limits, &tasks, stop.clone()).await;
    let (host, mut arrivals) = host.unwrap();
    let guest = Transport::start(&visitor, &[], Limits::NODE, &tasks, stop).await;
    let (guest, _none) = guest.unwrap();
    let stream = guest
        .open(host.peer(), &host.listening(), Purpose::Bulk)
        .await;
    let (mut ours, _writer) = frames(stream.unwrap(), 1 << 20);
    let arrival = timeout(PATIENCE, arrivals.recv()).await.unwrap().unwrap();
    let (mut theirs, their_writer) = frames(arrival.stream, 1 << 20);
    host.disconnect(guest.peer()).await;
    let given_up = timeout(PATIENCE, theirs.next()).await.unwrap();
    assert!(given_up.is_err(), "a stream outlives its connection");
    drop((theirs, their_writer));
    let ended = timeout(PATIENCE, ours.next()).await.unwrap();
    assert!(!matches!(ended, Ok(Some(_))), "a stream has one end");
    // A stream that is dropped frees its place among the host's connections.
    for _ in 0..3 {
        let again = async {
            loop {
                let opened = guest
                    .open(host.peer(), &host.listening(), Purpose::Bulk)
                    .await;
                if let (Ok(stream), Some(arrival)) = (opened, arrivals.recv().await) {
                    return (stream, arrival);
                }
            }
        };
        timeout(PATIENCE, again).await.unwrap();
    }
}
