//! The swarm as this node takes part in it.
//!
//! [`SwarmNet`] is a node: its key, its sockets, the tasks that carry frames, and
//! the one task that drives the decisions of `tranship_swarm`. It starts without
//! the network and lives without it: a tracker that is away is tried again in the
//! background, and until then chunks come from the registry.

use std::sync::Arc;
use std::time::Duration;

use libp2p::multiaddr::Protocol;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tranship_format::Digest;
use tranship_format::wire::Member;
use tranship_store::BlobStore;

use crate::counters::Counters;
use crate::fetch::{BlobOrigin, Fetcher};
use certificate::Authority;
use event::Event;
use transport::Transport;

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
mod grants;
mod hear;
mod hello;
pub mod identity;
mod images;
pub mod lent;
mod links;
mod options;
mod receive;
mod rights;
mod serve;
mod session;
mod sessions;
mod start;
pub mod stream;
#[cfg(test)]
mod tests;
pub mod tls;
mod tracker_stream;
pub mod transport;
mod waiters;

/// Each half of stopping may take so long.
const STOP: Duration = Duration::from_secs(3);
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
    /// Its trackers' addresses.
    pub trackers: Vec<String>,
    /// Whether one of them has taken it in and is connected.
    pub joined: bool,
    /// How many of them have.
    pub joined_count: u64,
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
    authority: Option<Authority>,
    tasks: TaskTracker,
    driver: TaskTracker,
    /// Ends the driver, which then says good-bye.
    farewell: CancellationToken,
    /// Ends everything.
    stop: DropGuard,
}

impl SwarmNet {
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

    /// Says good-bye to its trackers, within a few seconds. What is wanted from now on does not come.
    pub async fn leave(&self) {
        self.farewell.cancel();
        self.driver.close();
        if tokio::time::timeout(STOP, self.driver.wait())
            .await
            .is_err()
        {
            tracing::warn!("a tracker may not have heard that this node leaves");
        }
    }

    /// The same, and stops.
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

/// Sixteen bytes that nobody can guess; `None` if the system has no randomness.
pub fn random_bytes() -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    let random = rustls::crypto::ring::default_provider().secure_random;
    random.fill(&mut bytes).ok().map(|()| bytes)
}
