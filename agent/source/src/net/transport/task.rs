//! The task that owns libp2p's swarm: it dials, listens and keeps connections.

use std::io;
use std::time::Duration;

use futures::StreamExt;
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::core::Transport as _;
use libp2p::core::transport::ListenerId;
use libp2p::core::upgrade::Version;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, tcp};
use socket2::SockRef;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::single::Single;
use super::streams::{Opening, Streams};
use super::{Arrival, TransportError};
use crate::net::identity::Identity;
use crate::net::tls::Tls;

/// A connection whose stream was not opened is closed after this time.
const IDLE: Duration = Duration::from_secs(10);
/// TCP, TLS and the name of the stream's carrier together; more than a long round trip to a busy node.
const CONNECT: Duration = Duration::from_secs(10);
/// Connections that may be in the middle of their handshake, each way: strangers
/// cost processor time before they can be told from members.
const MAX_PENDING: u32 = 512;

/// Bytes that may wait unsent in the kernel, a connection: enough that the link never idles while we are woken,
/// and no more, for whatever waits there is out of reach of our order of what is urgent, and counts as sent.
const UNSENT_LEN: u32 = 128 << 10;

/// How many connections a node holds at once; what comes beyond is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// With one peer: demand and bulk that each of the two dialled, the tracker's
    /// stream, and some that are about to die.
    pub per_peer: u32,
    /// That others dialled.
    pub incoming: u32,
    /// In all.
    pub total: u32,
}

impl Limits {
    /// A node's: two for each peer that it serves, and as many that it asks.
    pub const NODE: Self = Self {
        per_peer: 8,
        incoming: 2048,
        total: 4096,
    };
    /// A tracker's, which has one for each member, and a seed beside it.
    pub const TRACKER: Self = Self {
        per_peer: 8,
        incoming: 24_000,
        total: 26_000,
    };
}

/// What the handle asks of the task.
pub(super) enum Command {
    Open {
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        opening: Opening,
    },
    Disconnect(PeerId),
}

#[derive(NetworkBehaviour)]
#[behaviour(prelude = "libp2p::swarm::derive_prelude")]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    streams: Streams,
}

/// Without a bound the kernel takes in megabytes that a slow link needs seconds for.
fn keep_little_unsent(stream: &tokio::net::TcpStream) {
    if let Err(error) = SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_LEN) {
        tracing::debug!(%error, "a connection keeps the kernel's own bound on unsent bytes");
    }
}

/// A swarm that listens nowhere yet; streams that peers open go to `arrived`.
pub(super) fn swarm(
    identity: &Identity,
    limits: Limits,
    tasks: &TaskTracker,
    arrived: mpsc::Sender<Arrival>,
) -> Result<Swarm<Behaviour>, TransportError> {
    let tls = Tls::new(identity.keypair())?;
    let transport = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .map(|stream, _| {
            keep_little_unsent(&stream.0);
            stream
        })
        .upgrade(Version::V1Lazy)
        .authenticate(tls)
        .multiplex(Single)
        .timeout(CONNECT)
        .boxed();
    let limits = ConnectionLimits::default()
        .with_max_pending_incoming(Some(MAX_PENDING))
        .with_max_pending_outgoing(Some(MAX_PENDING))
        .with_max_established_incoming(Some(limits.incoming))
        .with_max_established(Some(limits.total))
        .with_max_established_per_peer(Some(limits.per_peer));
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        streams: Streams::new(arrived),
    };
    let executor = tasks.clone();
    let config = libp2p::swarm::Config::with_executor(move |future| {
        executor.spawn(future);
    })
    .with_idle_connection_timeout(IDLE);
    Ok(Swarm::new(
        transport,
        behaviour,
        identity.libp2p_peer(),
        config,
    ))
}

/// Listens, and returns when the listener stands.
pub(super) async fn listen_on(
    swarm: &mut Swarm<Behaviour>,
    address: &Multiaddr,
) -> Result<(), TransportError> {
    let failed = |source| TransportError::Listen {
        address: address.clone(),
        source,
    };
    let id: ListenerId = swarm
        .listen_on(address.clone())
        .map_err(|error| failed(io::Error::other(error)))?;
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::NewListenAddr { listener_id, .. } if listener_id == id => return Ok(()),
            SwarmEvent::ListenerError { listener_id, error } if listener_id == id => {
                return Err(failed(error));
            }
            SwarmEvent::ListenerClosed {
                listener_id,
                reason,
                ..
            } if listener_id == id => {
                let error = reason.err();
                return Err(failed(error.unwrap_or_else(|| io::Error::other("closed"))));
            }
            _ => {}
        }
    }
}

/// See the module.
pub(super) struct SwarmTask {
    swarm: Swarm<Behaviour>,
    commands: mpsc::Receiver<Command>,
    addresses: watch::Sender<Vec<Multiaddr>>,
}

impl SwarmTask {
    pub(super) fn new(
        swarm: Swarm<Behaviour>,
        commands: mpsc::Receiver<Command>,
        addresses: watch::Sender<Vec<Multiaddr>>,
    ) -> Self {
        Self {
            swarm,
            commands,
            addresses,
        }
    }

    /// Runs until told to stop, or until nobody can command any more.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                command = self.commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                event = self.swarm.select_next_some() => self.event(event),
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Open {
                peer,
                addresses,
                opening,
            } => {
                let dial = DialOpts::peer_id(peer)
                    .condition(PeerCondition::Always)
                    .addresses(addresses)
                    .build();
                let connection = dial.connection_id();
                self.swarm.behaviour_mut().streams.dial(connection, opening);
                if let Err(error) = self.swarm.dial(dial) {
                    let streams = &mut self.swarm.behaviour_mut().streams;
                    streams.fail(connection, peer, error.to_string());
                }
            }
            Command::Disconnect(peer) => {
                // An error says that there was no connection, which is what is wanted.
                let _ = self.swarm.disconnect_peer_id(peer);
            }
        }
    }

    fn event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, .. } => {
                tracing::debug!(peer = %peer_id, "connected");
            }
            SwarmEvent::ConnectionClosed { peer_id, cause, .. } => {
                tracing::debug!(peer = %peer_id, ?cause, "disconnected");
            }
            SwarmEvent::NewListenAddr { .. } | SwarmEvent::ExpiredListenAddr { .. } => {
                let listening = self.swarm.listeners().cloned().collect();
                self.addresses.send_replace(listening);
            }
            SwarmEvent::ListenerClosed { reason, .. } => {
                tracing::error!(?reason, "a listener closed: peers cannot reach this node");
            }
            _ => {}
        }
    }
}
