//! The streams between this node and its peers.
//!
//! A pair of peers keeps two, each with a connection of its own: one for chunks
//! that a reader waits for and one for the rest, so that bulk never stands before
//! demand, in our queues or on the wire. Either end may ask on either stream,
//! whoever opened it. A stream is carried by one task; when one stream of a peer
//! ends all do, since an answer lost on one is lost for good.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use libp2p::Multiaddr;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tranship_format::Digest;
use tranship_format::wire::{Class, Member, PeerId};

use super::certificate::{libp2p_peer, wire_peer};
use super::event::Event;
use super::hello::{Greeted, HelloError, Membership, greet, welcome};
use super::images::OwnGrant;
use super::receive::{GrantJudge, ReceiveError, receive};
use super::stream::{Outbox, Outgoing};
use super::transport::{Arrival, Purpose, Transport, TransportError};
use crate::counters::Counters;

/// Times that a stream is opened anew when the greeting gets no answer: the
/// other end's queue of new streams may have been full.
const TRIES: usize = 3;
/// Frames for one peer that may wait until its first stream stands.
const QUEUED: usize = 1024;

/// Which stream carries a class of chunks.
pub(crate) fn purpose(class: Class) -> Purpose {
    match class {
        Class::Demand | Class::ReadAhead => Purpose::Demand,
        Class::Prefetch | Class::Background => Purpose::Bulk,
    }
}

/// One standing stream; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Link {
    id: u64,
    purpose: Purpose,
    outbox: Outbox,
    /// Grants shown on it, by manifest, and when each expires.
    shown: BTreeMap<Digest, u64>,
    _stop: DropGuard,
}

impl Link {
    /// Sends a frame behind the grants that it needs and that the other end has not seen on this stream.
    fn send(&mut self, outgoing: Outgoing, grants: &[Arc<OwnGrant>]) -> bool {
        for own in grants {
            let (manifest, expires_at) = (own.grant.manifest, own.grant.expires_at);
            if self.shown.insert(manifest, expires_at) != Some(expires_at) {
                let head = own.frame.clone();
                self.outbox.send(Outgoing {
                    head,
                    ..Outgoing::default()
                });
            }
        }
        self.outbox.send(outgoing)
    }
}

#[derive(Debug, Default)]
struct Peer {
    links: Vec<Link>,
    queued: Vec<(Purpose, Outgoing, Vec<Arc<OwnGrant>>)>,
    connecting: bool,
}

/// All streams, by peer. Owned by the driver; the carrier works for it.
#[derive(Debug)]
pub(crate) struct Links {
    peers: BTreeMap<PeerId, Peer>,
    carrier: Carrier,
}

impl Links {
    pub(crate) fn new(carrier: Carrier) -> Self {
        Self {
            peers: BTreeMap::new(),
            carrier,
        }
    }

    /// Peers with a standing stream.
    pub(crate) fn count(&self) -> usize {
        let standing = self.peers.values().filter(|peer| !peer.links.is_empty());
        standing.count()
    }

    /// Takes a stream in and sends what waited for it.
    pub(crate) fn up(&mut self, id: PeerId, link: Link) {
        let peer = self.peers.entry(id).or_default();
        peer.connecting = false;
        peer.links.push(link);
        for (purpose, outgoing, grants) in std::mem::take(&mut peer.queued) {
            self.send_under(&id, purpose, outgoing, &grants);
        }
    }

    /// Forgets a peer if this was one of its streams; `true` if so.
    pub(crate) fn down(&mut self, peer: &PeerId, id: u64) -> bool {
        let known = self
            .peers
            .get(peer)
            .is_some_and(|peer| peer.links.iter().any(|link| link.id == id));
        if known {
            self.peers.remove(peer);
        }
        known
    }

    /// Forgets a peer that could not be dialled, unless it dialled us meanwhile; `true` if forgotten.
    pub(crate) fn unreachable(&mut self, id: &PeerId) -> bool {
        let Some(peer) = self.peers.get_mut(id) else {
            return false;
        };
        peer.connecting = false;
        if peer.links.is_empty() {
            self.peers.remove(id);
            return true;
        }
        false
    }

    /// Closes all streams and connections with a peer.
    pub(crate) fn disconnect(&mut self, peer: &PeerId) {
        self.peers.remove(peer);
        let Some(libp2p_peer) = libp2p_peer(peer) else {
            return;
        };
        let transport = self.carrier.transport.clone();
        self.carrier.tasks.spawn(async move {
            transport.disconnect(libp2p_peer).await;
        });
    }

    /// Sends what these grants allow to a member, dialling it first if there is no stream.
    pub(crate) fn send_to(
        &mut self,
        member: &Arc<Member>,
        purpose: Purpose,
        outgoing: Outgoing,
        grants: Vec<Arc<OwnGrant>>,
    ) {
        let peer = self.peers.entry(member.peer).or_default();
        if !peer.links.is_empty() {
            self.send_under(&member.peer, purpose, outgoing, &grants);
            return;
        }
        if peer.queued.len() < QUEUED {
            peer.queued.push((purpose, outgoing, grants));
        }
        if !peer.connecting {
            peer.connecting = true;
            let carrier = self.carrier.clone();
            let member = Arc::clone(member);
            let dialling = async move { carrier.dial(&member).await };
            self.carrier.tasks.spawn(dialling);
        }
    }

    /// Sends to a peer that has a stream; to one that has none there is nothing to say any more.
    pub(crate) fn send(&mut self, id: &PeerId, purpose: Purpose, outgoing: Outgoing) {
        self.send_under(id, purpose, outgoing, &[]);
    }

    fn send_under(
        &mut self,
        id: &PeerId,
        purpose: Purpose,
        outgoing: Outgoing,
        grants: &[Arc<OwnGrant>],
    ) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        // The newest stream is the likeliest to live; the other purpose's will do
        // while this one's is being opened.
        let of_purpose = peer.links.iter().rposition(|link| link.purpose == purpose);
        let place = of_purpose.unwrap_or(peer.links.len().saturating_sub(1));
        let Some(link) = peer.links.get_mut(place) else {
            return;
        };
        if !link.send(outgoing, grants) {
            // The stream has ended, or its peer does not read: the carrier
            // reports its end once the guard is dropped.
            tracing::debug!(peer = %id, "a peer takes no more frames");
            let id = *id;
            let link_id = link.id;
            let events = self.carrier.events.clone();
            self.carrier.tasks.spawn(async move {
                let _ = events
                    .send(Event::LinkDown {
                        peer: id,
                        id: link_id,
                    })
                    .await;
            });
        }
    }

    /// The queue in which a chunk of this class is sent to a peer.
    pub(crate) fn outbox(&self, id: &PeerId, purpose: Purpose) -> Option<Outbox> {
        let peer = self.peers.get(id)?;
        let of_purpose = peer.links.iter().rfind(|link| link.purpose == purpose);
        of_purpose
            .or(peer.links.last())
            .map(|link| link.outbox.clone())
    }
}

/// Opens streams, accepts them, and carries them.
#[derive(Clone, Debug)]
pub(crate) struct Carrier {
    pub(crate) transport: Transport,
    /// `None` on a node without a tracker: it trusts nobody and nobody trusts it.
    pub(crate) membership: Option<Membership>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    /// Bytes of chunks that may wait in memory to be looked at.
    pub(crate) room: Arc<Semaphore>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) ids: Arc<AtomicU64>,
}

impl Carrier {
    async fn dial(self, member: &Member) {
        let addresses: Vec<Multiaddr> = member
            .addresses
            .iter()
            .filter_map(|address| address.parse().ok())
            .collect();
        for purpose in [Purpose::Demand, Purpose::Bulk] {
            match self.open(&member.peer, &addresses, purpose).await {
                Ok(greeted) => self.carry(purpose, greeted),
                Err(error) => {
                    tracing::debug!(peer = %member.peer, error = &error as &dyn std::error::Error, "a peer is out of reach");
                    let peer = member.peer;
                    // A driver that has stopped asks for no peers.
                    let _ = self.events.send(Event::Unreachable { peer }).await;
                    return;
                }
            }
        }
    }

    async fn open(
        &self,
        peer: &PeerId,
        addresses: &[Multiaddr],
        purpose: Purpose,
    ) -> Result<Greeted, DialError> {
        let mut membership = self.membership.clone().ok_or(DialError::Alone)?;
        let there = libp2p_peer(peer).ok_or(DialError::NoPeer)?;
        let mut failure = DialError::NoPeer;
        for _ in 0..TRIES {
            let opening = self.transport.open(there, addresses, purpose);
            let stream = opening.await.map_err(DialError::Transport)?;
            match greet(stream, peer, &mut membership).await {
                Ok(greeted) => return Ok(greeted),
                Err(error) => {
                    let last = error.is_refusal();
                    failure = DialError::Hello(error);
                    if last {
                        break;
                    }
                }
            }
        }
        Err(failure)
    }

    /// Hears out whoever opened a stream to us, and carries it if it is a member.
    pub(crate) fn accept(&self, arrival: Arrival) {
        let carrier = self.clone();
        self.tasks.spawn(async move {
            let (Some(mut membership), Some(peer)) =
                (carrier.membership.clone(), wire_peer(arrival.peer))
            else {
                return;
            };
            match welcome(arrival.stream, &peer, &mut membership).await {
                Ok(greeted) => carrier.carry(arrival.purpose, greeted),
                Err(error) => {
                    if error.is_refusal() {
                        carrier.counters.refused_peers.increment();
                    }
                    tracing::info!(peer = %arrival.peer, error = &error as &dyn std::error::Error, "a peer is not let in");
                    if error.is_refusal() {
                        carrier.transport.disconnect(arrival.peer).await;
                    }
                }
            }
        });
    }

    fn carry(&self, purpose: Purpose, greeted: Greeted) {
        let Greeted {
            member,
            reader,
            writer,
        } = greeted;
        let peer = member.peer;
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let stop = self.stop.child_token();
        let (outbox, writing) = writer.queued();
        let link = Link {
            id,
            purpose,
            outbox,
            shown: BTreeMap::new(),
            _stop: stop.clone().drop_guard(),
        };
        let (events, room) = (self.events.clone(), Arc::clone(&self.room));
        let judge = GrantJudge {
            authority: self.membership.as_ref().map(|ours| ours.authority.clone()),
            counters: Arc::clone(&self.counters),
        };
        self.tasks.spawn(async move {
            if events.send(Event::LinkUp { member, link }).await.is_err() {
                return;
            }
            let ended = tokio::select! {
                () = stop.cancelled() => None,
                result = receive(peer, reader, &events, &room, &judge) => result.err(),
                result = writing => result.err().map(ReceiveError::Stream),
            };
            if let Some(error) = ended {
                tracing::debug!(%peer, error = &error as &dyn std::error::Error, "a stream ended");
            }
            let _ = events.send(Event::LinkDown { peer, id }).await;
        });
    }
}

#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("this node has no tracker, so no peers")]
    Alone,
    #[error("the peer id is not one of libp2p's")]
    NoPeer,
    #[error("open a stream")]
    Transport(#[source] TransportError),
    #[error("greet the peer")]
    Hello(#[source] HelloError),
}
