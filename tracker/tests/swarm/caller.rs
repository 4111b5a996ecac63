//! A bare end of a conversation with a tracker: it says what it is given and decides nothing.

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tranship_format::Digest;
use tranship_format::wire::{
    BlobInfo, ImageSource, Join, JoinProof, MAX_BODY_LEN, Member, Open, PullProof, Role,
    TrackerReply, TrackerRequest, Versions,
};
use tranship_source::net::certificate::wire_peer;
use tranship_source::net::identity::Identity;
use tranship_source::net::stream::{FrameReader, FrameWriter, frames};
use tranship_source::net::transport::{Arrival, Limits, Purpose, Transport};

use crate::cluster::{PATIENCE, TOKEN, TestTracker};

/// A member's stream to a tracker; closed when this is dropped.
pub(crate) struct Caller {
    reader: FrameReader,
    writer: FrameWriter,
    last_request: u32,
    _arrivals: mpsc::Receiver<Arrival>,
    _transport: Transport,
    _stop: DropGuard,
}

impl Caller {
    /// Connects and joins; gives the tracker's answer to that, too.
    pub(crate) async fn join(tracker: &TestTracker) -> (Self, TrackerReply) {
        let identity = Identity::generate();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let guard = stop.clone().drop_guard();
        let starting = Transport::start(&identity, &[], Limits::NODE, &tasks, stop);
        let (transport, arrivals) = starting.await.unwrap();
        let place = tracker.address();
        let addresses = std::slice::from_ref(&place.address);
        let opening = transport.open(place.peer, addresses, Purpose::Tracker);
        let (reader, writer) = frames(opening.await.unwrap(), MAX_BODY_LEN);
        let mut caller = Self {
            reader,
            writer,
            last_request: 0,
            _arrivals: arrivals,
            _transport: transport,
            _stop: guard,
        };
        let join = TrackerRequest::Join(Box::new(Join {
            versions: Versions::OURS,
            proof: JoinProof::Token(TOKEN.as_bytes().to_vec()),
            member: Member {
                peer: wire_peer(identity.libp2p_peer()).unwrap(),
                addresses: Vec::new(),
                zone: String::new(),
                rack: String::new(),
                role: Role::Agent,
            },
            boot_id: [0; 16],
        }));
        let reply = caller.call(&join).await;
        (caller, reply)
    }

    /// A member, for sure.
    pub(crate) async fn member(tracker: &TestTracker) -> Self {
        let (caller, joined) = Self::join(tracker).await;
        assert!(matches!(joined, TrackerReply::Joined { .. }), "{joined:?}");
        caller
    }

    /// Opens an image that no registry has, of one blob with so many chunks.
    pub(crate) async fn open(&mut self, blob: Digest, chunk_count: u32) -> TrackerReply {
        let open = Open {
            image: ImageSource {
                registry: String::new(),
                repository: String::new(),
                manifest: Digest::of(b"manifest"),
            },
            grant: None,
            proof: PullProof::None,
            blobs: vec![BlobInfo {
                digest: blob,
                len: 1 << 20,
                chunk_count,
            }],
        };
        self.call(&TrackerRequest::Open(Box::new(open))).await
    }

    /// Says something and waits for the answer to it; what nobody asked for is passed over.
    pub(crate) async fn call(&mut self, request: &TrackerRequest) -> TrackerReply {
        self.last_request += 1;
        let mut bytes = Vec::new();
        request.encode(self.last_request, &mut bytes);
        self.writer.send(&bytes).await.unwrap();
        loop {
            let (number, reply) = self.hear().await;
            if number == self.last_request {
                return reply;
            }
        }
    }

    /// What the tracker says next, and the number of the request that it answers: 0 if nobody asked.
    pub(crate) async fn hear(&mut self) -> (u32, TrackerReply) {
        let frame = timeout(PATIENCE, self.reader.next()).await;
        let frame = frame.expect("an answer in time").unwrap();
        TrackerReply::from_frame(&frame.expect("a stream that stands")).unwrap()
    }
}
