//! libp2p's side of a stream: which one a connection is for, and who waits for it.
//!
//! A stream that is asked for is dialled, so it has its connection to itself; whoever asked gets it, or hears why not.
//! A stream that a peer opened is handed on at once.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use libp2p::core::{Endpoint, transport::PortUse};
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, DialFailure,
    FromSwarm, NetworkBehaviour, Stream, SubstreamProtocol, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::FuturesAsyncReadCompatExt as _;

use super::{Arrival, ByteStream, Purpose, TransportError};

/// A stream that somebody waits for.
pub(super) struct Opening {
    pub(super) purpose: Purpose,
    pub(super) done: oneshot::Sender<Result<ByteStream, TransportError>>,
}

/// Streams of all connections.
pub(super) struct Streams {
    arrived: mpsc::Sender<Arrival>,
    /// Those whose connection is being dialled.
    dialled: BTreeMap<ConnectionId, Opening>,
}

impl Streams {
    pub(super) fn new(arrived: mpsc::Sender<Arrival>) -> Self {
        Self {
            arrived,
            dialled: BTreeMap::new(),
        }
    }

    /// Gives the stream of a connection that is about to be dialled to whoever waits.
    pub(super) fn dial(&mut self, connection: ConnectionId, opening: Opening) {
        self.dialled.insert(connection, opening);
    }

    /// Tells whoever waits, and has not been told, that there is no connection.
    pub(super) fn fail(&mut self, connection: ConnectionId, peer: PeerId, reason: String) {
        if let Some(opening) = self.dialled.remove(&connection) {
            // Whoever asked may have lost interest.
            let _ = opening
                .done
                .send(Err(TransportError::Connect { peer, reason }));
        }
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler {
            peer,
            arrived: self.arrived.clone(),
            stage: Stage::Nothing,
        })
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let opening = self.dialled.remove(&connection);
        Ok(Handler {
            peer,
            arrived: self.arrived.clone(),
            stage: opening.map_or(Stage::Nothing, Stage::Wanted),
        })
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::DialFailure(DialFailure {
            peer_id: Some(peer),
            error,
            connection_id,
        }) = event
        {
            self.fail(connection_id, peer, error.to_string());
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

/// What is to be done about a stream on a connection that we dialled.
enum Stage {
    /// Nothing: the other side dialled, or the stream is there.
    Nothing,
    Wanted(Opening),
    Negotiated(Opening),
}

/// One connection's.
pub(super) struct Handler {
    peer: PeerId,
    arrived: mpsc::Sender<Arrival>,
    stage: Stage,
}

impl Handler {
    fn opened(&mut self, result: Result<ByteStream, TransportError>) {
        if let Stage::Negotiated(opening) = std::mem::replace(&mut self.stage, Stage::Nothing) {
            // Whoever asked may have lost interest; the connection ends with the stream.
            let _ = opening.done.send(result);
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = Named;
    type OutboundProtocol = Named;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Named> {
        SubstreamProtocol::new(Named(Purpose::ALL.to_vec()), ())
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Named, (), Self::ToBehaviour>> {
        match std::mem::replace(&mut self.stage, Stage::Nothing) {
            Stage::Wanted(opening) => {
                let named = Named(vec![opening.purpose]);
                self.stage = Stage::Negotiated(opening);
                Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                    protocol: SubstreamProtocol::new(named, ()).with_timeout(super::OPEN_STREAM),
                })
            }
            stage => {
                self.stage = stage;
                Poll::Pending
            }
        }
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        match event {}
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Named, Named>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, purpose),
                info: (),
            }) => {
                let arrival = Arrival {
                    peer: self.peer,
                    purpose,
                    stream: Box::new(stream.compat()),
                };
                // A full queue drops the stream: its opener tries again.
                let _ = self.arrived.try_send(arrival);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (stream, _),
                info: (),
            }) => self.opened(Ok(Box::new(stream.compat()))),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, info: () }) => {
                self.opened(Err(TransportError::Open {
                    peer: self.peer,
                    reason: error.to_string(),
                }));
            }
            _ => {}
        }
    }
}

/// Names that a stream may have; it comes out with the one that was agreed on.
#[derive(Clone, Debug)]
pub(super) struct Named(Vec<Purpose>);

impl AsRef<str> for Purpose {
    fn as_ref(&self) -> &str {
        self.protocol()
    }
}

impl UpgradeInfo for Named {
    type Info = Purpose;
    type InfoIter = std::vec::IntoIter<Purpose>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Named {
    type Output = (Stream, Purpose);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, purpose: Purpose) -> Self::Future {
        ready(Ok((stream, purpose)))
    }
}

impl OutboundUpgrade<Stream> for Named {
    type Output = (Stream, Purpose);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, purpose: Purpose) -> Self::Future {
        ready(Ok((stream, purpose)))
    }
}
