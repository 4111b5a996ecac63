//! A node's door, with real sockets: who is let in and who is not.

use std::time::Duration;

use tokio::time::timeout;
use tranship_format::wire::{
    Certificate, ChunkId, Class, Hello, PeerMessage, Role, TrackerReply, Versions, Want,
};

use super::certificate::{issue, libp2p_peer, unix_seconds, wire_peer};
use super::identity::Identity;
use super::stream::{FrameReader, FrameWriter, frames};
use super::transport::{Arrival, Purpose};
use super::*;

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
    options.tracker = Some(TrackerAddress {
        address: "/ip4/127.0.0.1/tcp/1".parse().unwrap(),
        peer: identity.libp2p_peer(),
    });
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
    let (transport, arrivals) = Transport::start(visitor, &[], &tasks, stop).await.unwrap();
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

#[tokio::test]
async fn another_peer_at_the_address_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let (net, _) = node(dir.path()).await;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let visitor = Identity::generate();
    let (transport, _arrivals) = Transport::start(&visitor, &[], &tasks, stop).await.unwrap();
    let expected = Identity::generate().libp2p_peer();
    let opened = transport
        .open(expected, &net.transport.listening(), Purpose::Demand)
        .await;
    assert!(matches!(opened, Err(TransportError::Connect { .. })));
}
