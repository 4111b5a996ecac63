//! The swarm as this node takes part in it.
//!
//! [`SwarmNet`] is a node: its key, its sockets, the tasks that carry frames, and
//! the one task that drives the decisions of `tranship_swarm`. It starts without
//! the network and lives without it: a tracker that is away is tried again in the
//! background, and until then chunks come from the registry.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use libp2p::multiaddr::Protocol;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tranship_format::Digest;
use tranship_format::wire::{MAX_ADDRESSES, Member, Role};
use tranship_store::BlobStore;
use tranship_swarm::node::{Node, NodeOptions};

use crate::counters::Counters;
use crate::fetch::{BlobOrigin, Fetcher, Jobs, Mailbox};
use certificate::{Authority, wire_peer};
use driver::{Driver, Inbox};
use event::Event;
use hello::Membership;
use identity::Identity;
use images::Images;
use links::{Carrier, Links};
use serve::Server;
use session::{Applicant, Session};
use transport::{Arrival, Purpose, Transport};
use waiters::Waiters;

pub use libp2p::{Multiaddr, PeerId};
pub use options::{
    Fault, JoinToken, NetError, NetOptions, TrackerAddress, TrackerAddressError, parse_address,
};
pub use tracker_stream::{Replies, TrackerStream, TrackerStreamError};
pub use transport::TransportError;

mod act;
pub mod certificate;
mod driver;
pub(crate) mod event;
mod hello;
pub mod identity;
mod images;
mod links;
mod mux;
mod options;
mod serve;
mod session;
mod stream;
#[cfg(test)]
mod tests;
mod tls;
mod tracker_stream;
mod transport;
mod waiters;

/// Events that may wait for the driver; senders wait beyond it, so a peer that
/// floods us fills its own connection.
const EVENTS: usize = 1024;
/// Readers' wishes that may wait for the driver.
const WANTED: usize = 1024;
/// Nodes that may wait for the tracker to hear them.
const TRACKER_STREAMS: usize = 256;
/// Each half of stopping may take so long.
const STOP: Duration = Duration::from_secs(3);
/// How much more a seed does at once than an agent.
const SEED_FACTOR: u32 = 4;
/// Least room for chunks in flight.
const MIN_ROOM: u32 = 4 << 20;

/// An image whose chunks this node wants to read, and to give.
#[derive(Clone, Debug)]
pub struct OpenImage {
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Registry host, with its port if not the default; empty for an image that no registry has.
    pub registry: String,
    /// Repository in that registry; empty likewise.
    pub repository: String,
    /// Its layers' blobs, opened in the node's store.
    pub blobs: Vec<BlobStore>,
    /// Where they are read when nobody has them.
    pub origin: Arc<dyn BlobOrigin>,
}

/// How a node stands in the swarm at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetStatus {
    /// Its peer id, as text.
    pub peer_id: String,
    /// Where it can be dialled, as multiaddrs that end in its peer id.
    pub addresses: Vec<String>,
    /// Its tracker's address, if it has one.
    pub tracker: Option<String>,
    /// Whether the tracker has taken it in and is connected.
    pub joined: bool,
    /// Agents and seeds that it has streams with.
    pub peer_count: u64,
    /// Open images' blobs.
    pub blob_count: u64,
    /// Chunks that local readers wait for.
    pub waiting_count: u64,
}

/// A node of the swarm. Stops when it is told to, or dropped.
#[derive(Debug)]
pub struct SwarmNet {
    fetcher: Fetcher,
    events: mpsc::Sender<Event>,
    status: watch::Receiver<NetStatus>,
    transport: Transport,
    member: Member,
    tasks: TaskTracker,
    driver: TaskTracker,
    /// Ends the driver, which then says good-bye.
    farewell: CancellationToken,
    /// Ends everything.
    stop: DropGuard,
}

impl SwarmNet {
    /// Starts a node. Only its own machine can make this fail: the network is
    /// looked for in the background.
    ///
    /// # Errors
    /// [`NetError`] when the key cannot be had or an address cannot be listened on.
    pub async fn start(options: NetOptions) -> Result<Self, NetError> {
        let (net, _) = Self::start_with_tracker(options).await?;
        Ok(net)
    }

    /// Starts the node beside a tracker: the streams that nodes open to the tracker
    /// come out of the channel. A node whose tracker is itself joins through memory.
    ///
    /// # Errors
    /// As [`SwarmNet::start`].
    pub async fn start_with_tracker(
        options: NetOptions,
    ) -> Result<(Self, mpsc::Receiver<TrackerStream>), NetError> {
        let identity = Identity::open(&options.state_dir).map_err(NetError::Identity)?;
        let authority = match &options.tracker {
            Some(tracker) => Some(Authority::of(tracker.peer).map_err(NetError::Tracker)?),
            None => None,
        };
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let guard = stop.clone().drop_guard();
        let (transport, arrivals) =
            Transport::start(&identity, &options.listen, &tasks, stop.clone())
                .await
                .map_err(NetError::Transport)?;
        let counters = Arc::new(Counters::default());
        let (events, received) = mpsc::channel(EVENTS);
        let (ours, certificate) = watch::channel(None);
        let boot_id = random_bytes().ok_or(NetError::Random)?;
        let carrier = Carrier {
            transport: transport.clone(),
            membership: authority.clone().map(|authority| Membership {
                authority,
                ours: certificate.clone(),
                boot_id,
            }),
            events: events.clone(),
            tasks: tasks.clone(),
            stop: stop.clone(),
            room: Arc::new(Semaphore::new(room(&options))),
            counters: Arc::clone(&counters),
            ids: Arc::new(AtomicU64::new(0)),
        };
        let (streams, tracker_streams) = mpsc::channel(TRACKER_STREAMS);
        tasks.spawn(sort(arrivals, carrier.clone(), streams, stop.clone()));

        let member = member(&options, &transport).ok_or(NetError::Stopped)?;
        let applicant = options
            .tracker
            .clone()
            .zip(authority)
            .map(|(tracker, authority)| Applicant {
                tracker,
                authority,
                token: options.token.clone(),
                member: member.clone(),
                boot_id,
                certificate,
            });
        if let Some(applicant) = applicant.clone() {
            let keeping = session::keep(applicant, transport.clone(), events.clone(), stop.clone());
            tasks.spawn(keeping);
        }
        let jobs = Jobs {
            events: events.clone(),
            tasks: tasks.clone(),
            counters: Arc::clone(&counters),
        };
        let room_out = Arc::new(Semaphore::new(room(&options)));
        let (status, shown) = watch::channel(NetStatus {
            peer_id: transport.peer().to_string(),
            tracker: options.tracker.as_ref().map(ToString::to_string),
            ..NetStatus::default()
        });
        let driver = Driver {
            node: Node::new(node_options(member.clone(), &boot_id)),
            started: Instant::now(),
            links: Links::new(carrier),
            session: Session::new(applicant, ours, Arc::clone(&counters)),
            images: Images::default(),
            waiters: Waiters::default(),
            server: Server::new(jobs.clone(), room_out, options.upload_rate, options.fault),
            jobs,
            status,
            at_hand: None,
        };
        let (wanted, wanted_received) = mpsc::channel(WANTED);
        let (dropped, dropped_received) = mpsc::unbounded_channel();
        let inbox = Inbox {
            events: received,
            wanted: wanted_received,
            dropped: dropped_received,
        };
        let farewell = stop.child_token();
        let driving = TaskTracker::new();
        driving.spawn(driver.run(inbox, farewell.clone()));
        let net = Self {
            fetcher: Fetcher::new(Mailbox { wanted, dropped }, counters, tasks.clone()),
            events,
            status: shown,
            transport,
            member,
            tasks,
            driver: driving,
            farewell,
            stop: guard,
        };
        Ok((net, tracker_streams))
    }

    /// Gets chunks of open images.
    pub fn fetcher(&self) -> &Fetcher {
        &self.fetcher
    }

    /// Takes part in the swarm of an image from now on, and returns when its chunks
    /// can be asked for. An image that is opened twice must be closed twice.
    ///
    /// # Errors
    /// [`NetError::Stopped`] alone: the network is not waited for.
    pub async fn open(&self, image: OpenImage) -> Result<(), NetError> {
        let (done, opened) = oneshot::channel();
        let image = Box::new(image);
        let sent = self.events.send(Event::Open { image, done }).await;
        sent.map_err(|_| NetError::Stopped)?;
        opened.await.map_err(|_| NetError::Stopped)
    }

    /// Takes part no longer, once closed as often as opened. Readers that wait get an error.
    pub async fn close(&self, manifest: Digest) {
        // A node that has stopped has nothing open.
        let _ = self.events.send(Event::Close { manifest }).await;
    }

    /// What happened to chunks so far.
    pub fn counters(&self) -> &Arc<Counters> {
        self.fetcher.counters()
    }

    /// How it stands now.
    pub fn status(&self) -> NetStatus {
        let mut status = self.status.borrow().clone();
        let addresses = self.addresses();
        status.addresses = addresses.iter().map(ToString::to_string).collect();
        status
    }

    /// Changes of how it stands, to wait for; without the addresses.
    pub fn watch(&self) -> watch::Receiver<NetStatus> {
        self.status.clone()
    }

    /// It as a member, as it presents itself.
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// Its peer id.
    pub fn peer(&self) -> PeerId {
        self.transport.peer()
    }

    /// Where it listens, each address ending in its peer id.
    pub fn addresses(&self) -> Vec<Multiaddr> {
        let peer = self.transport.peer();
        let listening = self.transport.listening().into_iter();
        listening
            .map(|address| address.with(Protocol::P2p(peer)))
            .collect()
    }

    /// Says good-bye to the tracker and stops, within a few seconds.
    pub async fn stop(self) {
        self.farewell.cancel();
        self.driver.close();
        let driven = tokio::time::timeout(STOP, self.driver.wait()).await;
        drop(self.stop);
        self.tasks.close();
        let ended = tokio::time::timeout(STOP, self.tasks.wait()).await;
        if driven.is_err() || ended.is_err() {
            tracing::warn!("the node did not stop in time");
        }
    }
}

/// Sends arrived streams to whom they are for.
async fn sort(
    mut arrivals: mpsc::Receiver<Arrival>,
    carrier: Carrier,
    streams: mpsc::Sender<TrackerStream>,
    stop: CancellationToken,
) {
    loop {
        let arrival = tokio::select! {
            () = stop.cancelled() => return,
            arrival = arrivals.recv() => arrival,
        };
        match arrival {
            None => return,
            Some(arrival) if arrival.purpose == Purpose::Tracker => {
                if let Some(peer) = wire_peer(arrival.peer) {
                    // Full or closed: the node finds its stream closed and comes back.
                    let _ = streams.try_send(TrackerStream::new(peer, arrival.stream));
                }
            }
            Some(arrival) => carrier.accept(arrival),
        }
    }
}

fn member(options: &NetOptions, transport: &Transport) -> Option<Member> {
    let advertised = match options.advertise.as_slice() {
        [] => reachable(transport.listening()),
        given => given.to_vec(),
    };
    let addresses = advertised.iter().map(ToString::to_string);
    Some(Member {
        peer: wire_peer(transport.peer())?,
        addresses: addresses.take(MAX_ADDRESSES).collect(),
        zone: options.zone.clone(),
        rack: options.rack.clone(),
        role: options.role,
    })
}

/// Loopback leads a peer to itself, so it is told only when there is nothing else.
fn reachable(listening: Vec<Multiaddr>) -> Vec<Multiaddr> {
    let is_loopback = |address: &Multiaddr| match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    };
    let (loopback, others): (Vec<_>, Vec<_>) = listening.into_iter().partition(is_loopback);
    if others.is_empty() { loopback } else { others }
}

fn room(options: &NetOptions) -> usize {
    // One frame of the longest kind must always fit, or nothing ever moves.
    options.in_flight_len.max(MIN_ROOM) as usize
}

/// Sixteen bytes that nobody can guess; `None` if the system has no randomness.
pub fn random_bytes() -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    let random = rustls::crypto::ring::default_provider().secure_random;
    random.fill(&mut bytes).ok().map(|()| bytes)
}

fn node_options(member: Member, boot_id: &[u8; 16]) -> NodeOptions {
    let random = boot_id.first_chunk().copied().unwrap_or_default();
    let role = member.role;
    let options = NodeOptions::new(member, u64::from_le_bytes(random));
    match role {
        Role::Agent => options,
        // A seed serves the first children of every stripe and reads the registry
        // for all, and has a machine for it.
        Role::Seed => NodeOptions {
            registry_reads: options.registry_reads * SEED_FACTOR,
            upload_slots: options.upload_slots * SEED_FACTOR as usize,
            upload_queue: options.upload_queue * SEED_FACTOR as usize,
            waiters: options.waiters * SEED_FACTOR as usize,
            ..options
        },
    }
}
