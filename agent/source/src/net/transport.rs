//! How bytes reach a peer: the one place that knows libp2p.
//!
//! Everything above asks for a [`ByteStream`] to a peer and gets those that
//! peers opened to us. A stream is proved to belong to the peer it names (TLS
//! with libp2p certificates) and nothing more: membership is checked by the
//! hello that is sent on it. A transport of plain TLS sockets would fit behind
//! the same four calls.

use std::io;
use std::time::Duration;

use futures::StreamExt;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::compat::FuturesAsyncReadCompatExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::identity::Identity;
use super::tls::TlsError;
use task::{Command, SwarmTask};

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
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// One long-lived, ordered, encrypted stream of bytes to or from a peer.
pub(crate) type ByteStream = Box<dyn Duplex>;

/// What a stream is for; each has a protocol name of its own, so that a version
/// that nobody speaks any more can be told from a broken connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// Chunks that a reader waits for.
    Demand,
    /// Chunks that nobody waits for yet.
    Bulk,
    /// Calls from a node to its tracker.
    Tracker,
}

impl Purpose {
    const ALL: [Self; 3] = [Self::Demand, Self::Bulk, Self::Tracker];

    fn protocol(self) -> StreamProtocol {
        StreamProtocol::new(match self {
            Self::Demand => "/tranship/demand/1",
            Self::Bulk => "/tranship/bulk/1",
            Self::Tracker => "/tranship/tracker/1",
        })
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
pub(crate) struct Arrival {
    pub(crate) peer: PeerId,
    pub(crate) purpose: Purpose,
    pub(crate) stream: ByteStream,
}

/// Handle to the swarm's task.
#[derive(Clone)]
pub(crate) struct Transport {
    peer: PeerId,
    commands: mpsc::Sender<Command>,
    control: libp2p_stream::Control,
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
    pub(crate) async fn start(
        identity: &Identity,
        listen: &[Multiaddr],
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<(Self, mpsc::Receiver<Arrival>), TransportError> {
        let (mut swarm, mut control) = task::swarm(identity, tasks)?;
        let (arrived, arrivals) = mpsc::channel(ARRIVALS);
        for purpose in Purpose::ALL {
            let Ok(incoming) = control.accept(purpose.protocol()) else {
                return Err(TransportError::Stopped);
            };
            tasks.spawn(accept(purpose, incoming, arrived.clone(), stop.clone()));
        }
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
            control,
            arrived,
            listening,
        };
        Ok((handle, arrivals))
    }

    /// Our own name.
    pub(crate) fn peer(&self) -> PeerId {
        self.peer
    }

    /// Where we can be dialled, as far as our own sockets tell.
    pub(crate) fn listening(&self) -> Vec<Multiaddr> {
        self.listening.borrow().clone()
    }

    /// Opens a stream, connecting first when there is no connection. The peer at
    /// the other end is the one that is named, or there is an error. A stream to
    /// ourselves stays in memory: so the seed talks to the tracker it lives with.
    pub(crate) async fn open(
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
        let (done, connected) = oneshot::channel();
        let command = Command::Connect {
            peer,
            addresses: resolve(addresses).await,
            done,
        };
        let sent = self.commands.send(command).await;
        sent.map_err(|_| TransportError::Stopped)?;
        connected.await.map_err(|_| TransportError::Stopped)??;
        let mut control = self.control.clone();
        let opening = control.open_stream(peer, purpose.protocol());
        match tokio::time::timeout(OPEN_STREAM, opening).await {
            Ok(Ok(stream)) => Ok(Box::new(stream.compat())),
            Ok(Err(error)) => Err(TransportError::Open {
                peer,
                reason: error.to_string(),
            }),
            Err(_) => Err(TransportError::Open {
                peer,
                reason: "no answer in time".to_owned(),
            }),
        }
    }

    /// Closes every connection to a peer, and with them its streams.
    pub(crate) async fn disconnect(&self, peer: PeerId) {
        // A transport that has stopped holds no connection either.
        let _ = self.commands.send(Command::Disconnect(peer)).await;
    }
}

/// Hands streams on at once: libp2p's queue holds one and drops the rest.
async fn accept(
    purpose: Purpose,
    mut incoming: libp2p_stream::IncomingStreams,
    arrived: mpsc::Sender<Arrival>,
    stop: CancellationToken,
) {
    loop {
        let next = tokio::select! {
            () = stop.cancelled() => return,
            next = incoming.next() => next,
        };
        let Some((peer, stream)) = next else { return };
        let arrival = Arrival {
            peer,
            purpose,
            stream: Box::new(stream.compat()),
        };
        // A full queue drops the stream, as libp2p would: its opener tries again.
        if let Err(mpsc::error::TrySendError::Closed(_)) = arrived.try_send(arrival) {
            return;
        }
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
