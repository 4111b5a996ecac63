//! How bytes reach a peer: the one place that knows libp2p.
//!
//! Everything above asks for a [`ByteStream`] to a peer and gets those that
//! peers opened to us. A stream is proved to belong to the peer it names (TLS
//! with libp2p certificates) and nothing more: membership is checked by the
//! hello that is sent on it. Each stream has a connection of its own, so that
//! what is sent on one never stands before another.

use std::io;
use std::time::Duration;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::identity::Identity;
use super::tls::TlsError;
use streams::Opening;
use task::{Command, SwarmTask};

pub use task::Limits;

mod single;
mod streams;
mod task;

/// Opening a stream on a connection that stands.
const OPEN_STREAM: Duration = Duration::from_secs(5);
/// Commands that may wait for the swarm's task.
const COMMANDS: usize = 64;
/// Arrived streams that may wait for their hello.
const ARRIVALS: usize = 64;
/// Bytes under way between a node and itself.
const LOOP_LEN: usize = 64 << 10;

/// What a stream must be able to do.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// One long-lived, ordered, encrypted stream of bytes to or from a peer.
pub type ByteStream = Box<dyn Duplex>;

/// What a stream is for; each has a protocol name of its own, so that a version
/// that nobody speaks any more can be told from a broken connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Chunks that a reader waits for.
    Demand,
    /// Chunks that nobody waits for yet.
    Bulk,
    /// Calls from a node to its tracker.
    Tracker,
}

impl Purpose {
    pub(super) const ALL: [Self; 3] = [Self::Demand, Self::Bulk, Self::Tracker];

    fn protocol(self) -> &'static str {
        match self {
            Self::Demand => "/tranship/demand/1",
            Self::Bulk => "/tranship/bulk/1",
            Self::Tracker => "/tranship/tracker/1",
        }
    }
}

/// Why there is no transport, or no stream to a peer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The node's certificate or the TLS configuration failed.
    #[error("prepare TLS")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The address cannot be listened on.
    #[error("listen on {address}")]
    Listen {
        /// The address that was asked for.
        address: Multiaddr,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// No address of the peer leads to it.
    #[error("connect to peer {peer}: {reason}")]
    Connect {
        /// The peer that was dialled.
        peer: PeerId,
        /// What each address answered.
        reason: String,
    },
    /// The connection stands but gives no stream.
    #[error("open a stream to peer {peer}: {reason}")]
    Open {
        /// The peer.
        peer: PeerId,
        /// What libp2p said.
        reason: String,
    },
    /// The transport is stopping.
    #[error("the transport has stopped")]
    Stopped,
}

impl From<TlsError> for TransportError {
    fn from(error: TlsError) -> Self {
        Self::Tls(Box::new(error))
    }
}

/// A stream that a peer opened to us.
pub struct Arrival {
    /// Who opened it.
    pub peer: PeerId,
    /// What for.
    pub purpose: Purpose,
    /// The stream itself.
    pub stream: ByteStream,
}

impl std::fmt::Debug for Arrival {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arrival")
            .field("peer", &self.peer)
            .field("purpose", &self.purpose)
            .finish_non_exhaustive()
    }
}

/// Handle to the swarm's task.
#[derive(Clone)]
pub struct Transport {
    peer: PeerId,
    commands: mpsc::Sender<Command>,
    arrived: mpsc::Sender<Arrival>,
    listening: watch::Receiver<Vec<Multiaddr>>,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl Transport {
    /// Starts listening and accepting; the task lives in `tasks` until `stop`.
    /// Returns once each listener stands, so its port is known.
    ///
    /// # Errors
    /// [`TransportError`] when there is no certificate, or an address cannot be listened on.
    pub async fn start(
        identity: &Identity,
        listen: &[Multiaddr],
        limits: Limits,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<(Self, mpsc::Receiver<Arrival>), TransportError> {
        let (arrived, arrivals) = mpsc::channel(ARRIVALS);
        let mut swarm = task::swarm(identity, limits, tasks, arrived.clone())?;
        for address in listen {
            task::listen_on(&mut swarm, address).await?;
        }
        let (commands, received) = mpsc::channel(COMMANDS);
        let (addresses, listening) = watch::channel(swarm.listeners().cloned().collect());
        let task = SwarmTask::new(swarm, received, addresses);
        tasks.spawn(task.run(stop));
        let handle = Self {
            peer: identity.libp2p_peer(),
            commands,
            arrived,
            listening,
        };
        Ok((handle, arrivals))
    }

    /// Our own name.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Where we can be dialled, as far as our own sockets tell.
    pub fn listening(&self) -> Vec<Multiaddr> {
        self.listening.borrow().clone()
    }

    /// Opens a stream on a connection of its own. The peer at the other end is the
    /// one that is named, or there is an error. A stream to ourselves stays in
    /// memory: so the seed talks to the tracker it lives with.
    ///
    /// # Errors
    /// [`TransportError`] when no address leads to the peer, or it gives no stream.
    pub async fn open(
        &self,
        peer: PeerId,
        addresses: &[Multiaddr],
        purpose: Purpose,
    ) -> Result<ByteStream, TransportError> {
        if peer == self.peer {
            let (ours, theirs) = tokio::io::duplex(LOOP_LEN);
            let arrival = Arrival {
                peer,
                purpose,
                stream: Box::new(theirs),
            };
            let sent = self.arrived.send(arrival).await;
            return sent
                .map(|()| Box::new(ours) as ByteStream)
                .map_err(|_| TransportError::Stopped);
        }
        let (done, opened) = oneshot::channel();
        let command = Command::Open {
            peer,
            addresses: resolve(addresses).await,
            opening: Opening { purpose, done },
        };
        let sent = self.commands.send(command).await;
        sent.map_err(|_| TransportError::Stopped)?;
        opened.await.unwrap_or_else(|_| {
            Err(TransportError::Open {
                peer,
                reason: "the connection closed".to_owned(),
            })
        })
    }

    /// Closes every connection to a peer, and with them its streams.
    pub(crate) async fn disconnect(&self, peer: PeerId) {
        // A transport that has stopped holds no connection either.
        let _ = self.commands.send(Command::Disconnect(peer)).await;
    }
}

/// Turns names into addresses, since the transport dials numbers only. A name
/// that does not resolve is left out: the dial then says that nothing is left.
async fn resolve(addresses: &[Multiaddr]) -> Vec<Multiaddr> {
    let mut found = Vec::new();
    for address in addresses {
        let mut parts = address.iter();
        let (
            Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)),
            Some(Protocol::Tcp(port)),
        ) = (parts.next(), parts.next())
        else {
            found.push(address.clone());
            continue;
        };
        match tokio::net::lookup_host((name.as_ref(), port)).await {
            Ok(sockets) => found.extend(
                sockets
                    .map(|socket| Multiaddr::from(socket.ip()).with(Protocol::Tcp(socket.port()))),
            ),
            Err(error) => tracing::debug!(%name, %error, "a name does not resolve"),
        }
    }
    found
}
