//! Puts a node together: its parts, their channels and their tasks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tranship_format::wire::{Certificate, MAX_ADDRESSES, Member, PeerId, Role};
use tranship_swarm::node::{Node, NodeOptions};

use super::certificate::{Authority, wire_peer};
use super::driver::{Driver, Inbox};
use super::event::Event;
use super::grants::KeptGrants;
use super::hello::Membership;
use super::identity::Identity;
use super::images::Images;
use super::links::{Carrier, Links};
use super::serve::Server;
use super::session::{self, Applicant, Session};
use super::sessions::Sessions;
use super::transport::{Arrival, Limits, Purpose, Transport};
use super::waiters::Waiters;
use super::{NetError, NetOptions, NetStatus, SwarmNet, TrackerStream, random_bytes};
use crate::counters::Counters;
use crate::fetch::{Fetcher, Jobs, Mailbox};

/// Events that may wait for the driver; senders wait beyond it, so a peer that
/// floods us fills its own connection.
const EVENTS: usize = 1024;
/// Readers' wishes that may wait for the driver.
const WANTED: usize = 1024;
/// Nodes that may wait for the tracker to hear them.
const TRACKER_STREAMS: usize = 256;
/// How much more a seed does at once than an agent.
const SEED_FACTOR: usize = 4;
/// Least room for chunks in flight.
const MIN_ROOM: u32 = 4 << 20;

impl SwarmNet {
    /// Starts a node. Only its own machine can make this fail: the network is
    /// looked for in the background.
    ///
    /// # Errors
    /// [`NetError`] when the key cannot be had or an address cannot be listened on.
    pub async fn start(options: NetOptions) -> Result<Self, NetError> {
        let (net, _) = Self::start_within(options, Limits::NODE).await?;
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
        Self::start_within(options, Limits::TRACKER).await
    }

    async fn start_within(
        options: NetOptions,
        limits: Limits,
    ) -> Result<(Self, mpsc::Receiver<TrackerStream>), NetError> {
        let identity = Identity::open(&options.state_dir).map_err(NetError::Identity)?;
        let authority = authority(&options)?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let guard = stop.clone().drop_guard();
        let (transport, arrivals) =
            Transport::start(&identity, &options.listen, limits, &tasks, stop.clone())
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
        let kept_grants = match &authority {
            Some(authority) => {
                KeptGrants::open(options.state_dir.join("grants"), authority, &member.peer)
            }
            None => KeptGrants::default(),
        };
        let sessions = sessions(
            &options,
            &member,
            &Joining {
                transport: &transport,
                authority: authority.as_ref(),
                boot_id,
                ours: &ours,
                certificate: &certificate,
                counters: &counters,
                events: &events,
                tasks: &tasks,
                stop: &stop,
            },
        );
        let jobs = Jobs {
            events: events.clone(),
            tasks: tasks.clone(),
            counters: Arc::clone(&counters),
            whole: Arc::default(),
        };
        let room_out = Arc::new(Semaphore::new(room(&options)));
        let (status, shown) = watch::channel(NetStatus {
            peer_id: transport.peer().to_string(),
            trackers: options.trackers.iter().map(ToString::to_string).collect(),
            ..NetStatus::default()
        });
        let driver = Driver {
            node: Node::new(node_options(&options, member.clone(), &boot_id)),
            started: Instant::now(),
            links: Links::new(carrier),
            sessions: Sessions::new(sessions),
            images: Images::default(),
            kept_grants,
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
            authority,
            tasks,
            driver: driving,
            farewell,
            stop: guard,
        };
        Ok((net, tracker_streams))
    }
}

/// What it takes to join trackers.
struct Joining<'a> {
    transport: &'a Transport,
    authority: Option<&'a Authority>,
    boot_id: [u8; 16],
    /// Where our certificate is put, and where it is read.
    ours: &'a watch::Sender<Option<Certificate>>,
    certificate: &'a watch::Receiver<Option<Certificate>>,
    counters: &'a Arc<Counters>,
    events: &'a mpsc::Sender<Event>,
    tasks: &'a TaskTracker,
    stop: &'a CancellationToken,
}

/// A conversation with each tracker, and the tasks that keep them.
fn sessions(
    options: &NetOptions,
    member: &Member,
    joining: &Joining<'_>,
) -> BTreeMap<PeerId, Session> {
    let mut sessions = BTreeMap::new();
    for tracker in &options.trackers {
        let (Some(authority), Some(tracker_peer)) = (joining.authority, wire_peer(tracker.peer))
        else {
            continue;
        };
        let applicant = Applicant {
            tracker: tracker.clone(),
            tracker_peer,
            authority: authority.clone(),
            token: options.token.clone(),
            member: member.clone(),
            boot_id: joining.boot_id,
            certificate: joining.certificate.clone(),
        };
        let counters = Arc::clone(joining.counters);
        let session = Session::new(applicant.clone(), joining.ours.clone(), counters);
        // A tracker that is named twice is one tracker.
        if sessions.insert(tracker_peer, session).is_none() {
            let (transport, events) = (joining.transport.clone(), joining.events.clone());
            let keeping = session::keep(applicant, transport, events, joining.stop.clone());
            joining.tasks.spawn(keeping);
        }
    }
    sessions
}

/// Who signs for this node's peers; `None` for a node without a tracker, which has none.
fn authority(options: &NetOptions) -> Result<Option<Authority>, NetError> {
    if options.trackers.is_empty() {
        return Ok(None);
    }
    let ours = options.trackers.iter().map(|tracker| tracker.peer);
    let all = ours.chain(options.believed.iter().copied());
    Authority::of_all(all).map(Some).map_err(NetError::Tracker)
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

fn node_options(asked: &NetOptions, member: Member, boot_id: &[u8; 16]) -> NodeOptions {
    let random = boot_id.first_chunk().copied().unwrap_or_default();
    let role = member.role;
    let mut options = NodeOptions::new(member, u64::from_le_bytes(random));
    if let Some(patience) = asked.demand_patience {
        options.demand_patience = patience;
        options.waiting_patience = options.waiting_patience.max(patience);
        // A tracker on the same overloaded machines is as slow to answer.
        options.lookup_patience = patience;
    }
    match role {
        Role::Agent => options,
        // A seed serves the first children of every stripe and reads the registry
        // for all, and has a machine for it.
        Role::Seed => NodeOptions {
            registry_reads: options.registry_reads * SEED_FACTOR,
            upload_slots_most: options.upload_slots * SEED_FACTOR,
            upload_queue: options.upload_queue * SEED_FACTOR,
            waiters: options.waiters * SEED_FACTOR,
            ..options
        },
    }
}
