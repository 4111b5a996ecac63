//! The task that owns libp2p's swarm: it dials, listens and keeps connections.

use std::collections::BTreeMap;
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
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::TransportError;
use crate::net::identity::Identity;
use crate::net::mux::Mux;
use crate::net::tls::Tls;

/// A connection that carries no stream is closed after this time. Longer than
/// any pause between two starts of one image, short enough to forget the dead.
const IDLE: Duration = Duration::from_mins(10);
/// TCP, TLS and yamux together; more than a long round trip to a busy node.
const CONNECT: Duration = Duration::from_secs(10);
/// Connections to one peer: one that we dialled, one that the peer dialled at
/// the same moment, and one that is about to die.
const MAX_CONNECTIONS_PER_PEER: u32 = 3;
/// Connections that may be in the middle of their handshake: strangers cost
/// processor time before they can be told from members.
const MAX_PENDING: u32 = 512;
/// Connections that others made to us, which is more than a tracker has members.
const MAX_CONNECTIONS: u32 = 24_000;

/// What the handle asks of the task.
pub(super) enum Command {
    Connect {
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        done: oneshot::Sender<Result<(), TransportError>>,
    },
    Disconnect(PeerId),
}

#[derive(NetworkBehaviour)]
#[behaviour(prelude = "libp2p::swarm::derive_prelude")]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    streams: libp2p_stream::Behaviour,
}

/// A swarm that listens nowhere yet, and what opens and accepts its streams.
pub(super) fn swarm(
    identity: &Identity,
    tasks: &TaskTracker,
) -> Result<(Swarm<Behaviour>, libp2p_stream::Control), TransportError> {
    let tls = Tls::new(identity.keypair())?;
    let transport = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(tls)
        .multiplex(Mux::new())
        .timeout(CONNECT)
        .boxed();
    let streams = libp2p_stream::Behaviour::new();
    let control = streams.new_control();
    let limits = ConnectionLimits::default()
        .with_max_pending_incoming(Some(MAX_PENDING))
        .with_max_established_incoming(Some(MAX_CONNECTIONS))
        .with_max_established_per_peer(Some(MAX_CONNECTIONS_PER_PEER));
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        streams,
    };
    let executor = tasks.clone();
    let config = libp2p::swarm::Config::with_executor(move |future| {
        executor.spawn(future);
    })
    .with_idle_connection_timeout(IDLE);
    let swarm = Swarm::new(transport, behaviour, identity.libp2p_peer(), config);
    Ok((swarm, control))
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

type Waiters = Vec<oneshot::Sender<Result<(), TransportError>>>;

/// See the module.
pub(super) struct SwarmTask {
    swarm: Swarm<Behaviour>,
    commands: mpsc::Receiver<Command>,
    addresses: watch::Sender<Vec<Multiaddr>>,
    dialled: BTreeMap<PeerId, Waiters>,
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
            dialled: BTreeMap::new(),
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
            Command::Connect { peer, done, .. } if self.swarm.is_connected(&peer) => {
                let _ = done.send(Ok(()));
            }
            Command::Connect {
                peer,
                addresses,
                done,
            } => {
                if let Some(waiters) = self.dialled.get_mut(&peer) {
                    waiters.push(done);
                    return;
                }
                let dial = DialOpts::peer_id(peer)
                    .condition(PeerCondition::Always)
                    .addresses(addresses)
                    .build();
                match self.swarm.dial(dial) {
                    Ok(()) => {
                        self.dialled.insert(peer, vec![done]);
                    }
                    Err(error) => {
                        let reason = error.to_string();
                        let _ = done.send(Err(TransportError::Connect { peer, reason }));
                    }
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
                for waiter in self.dialled.remove(&peer_id).unwrap_or_default() {
                    let _ = waiter.send(Ok(()));
                }
            }
            SwarmEvent::OutgoingConnectionError {
                peer_id: Some(peer),
                error,
                ..
            } => {
                for waiter in self.dialled.remove(&peer).unwrap_or_default() {
                    let reason = error.to_string();
                    let _ = waiter.send(Err(TransportError::Connect { peer, reason }));
                }
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
