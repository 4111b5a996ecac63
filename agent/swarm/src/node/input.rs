//! What a node is told: all that reaches decisions from the outside.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::{ChunkId, Class, Member, PeerId, StripeRoute, Want};

/// How a chunk's bytes turned out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Verified, and in the store.
    Kept,
    /// Verified, but the store has no room: it can be given on now and not later.
    Passed,
    /// Not the chunk.
    Wrong,
}

/// Why a read of the registry ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegistryFailure {
    /// What the registry asked us to wait (429, 503), if it did.
    pub retry_after: Option<Duration>,
    /// Whether asking again is pointless: not found, denied.
    pub permanent: bool,
}

/// What a peer may have, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// The registry whose word it is.
    pub registry: Arc<str>,
    /// The image.
    pub manifest: Digest,
    /// Its blobs.
    pub blobs: BTreeSet<Digest>,
    /// When it ends, on the clock of `now`.
    pub until: Duration,
}

/// What another tracker means for a blob's routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrackerChange {
    /// Another one is told besides: all holds.
    StandIn,
    /// Another one is asked: leases and parents hold as they were given, what was asked is asked again.
    Asked,
    /// The one that is asked forgot all: nothing holds.
    Forgot,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// This node uses a blob from now on. Telling it again replaces what is held.
    OpenBlob {
        /// The blob.
        blob: Digest,
        /// Registries of the images that it is used for: whose word counts when a peer wants it.
        registries: Vec<Arc<str>>,
        /// Stored bytes of each of its chunks, in order.
        chunk_lens: Arc<[u32]>,
        /// Which chunks the store has: bit `n % 8` of byte `n / 8` is chunk `n`.
        present: Vec<u8>,
    },
    /// It no longer does; what is in flight for it is dropped.
    CloseBlob {
        /// The blob.
        blob: Digest,
    },
    /// A local reader wants a chunk that the store does not have. Repeating it raises the class.
    Wanted {
        /// The chunk.
        chunk: ChunkId,
        /// How urgent.
        class: Class,
        /// When the reader gives up, on the clock of `now`; `None` never.
        give_up_at: Option<Duration>,
    },
    /// No local reader wants it any more.
    Unwanted {
        /// The chunk.
        chunk: ChunkId,
    },
    /// The store dropped a chunk, for room or because it was corrupt.
    Evicted {
        /// The chunk.
        chunk: ChunkId,
    },

    /// The tracker took us in (JOINED).
    TrackerUp {
        /// Its epoch.
        epoch: u64,
        /// Its seed.
        seed: Option<Member>,
    },
    /// The tracker cannot be reached.
    TrackerDown,
    /// Of several trackers another one answers for these blobs now, or is told of them besides
    /// ([`Shards`](crate::shard::Shards)).
    TrackerChanged {
        /// They.
        blobs: Vec<Digest>,
        /// What of the one before holds.
        change: TrackerChange,
    },
    /// Members that use a blob (OPENED, once for each blob opened), and this node's right to it.
    Members {
        /// The blob.
        blob: Digest,
        /// They.
        members: Vec<Arc<Member>>,
        /// When the right ends, on the clock of `now`; `None` if the tracker gives none.
        until: Option<Duration>,
    },
    /// The tracker wants a proof before it says whether this node may have a blob, and the proof is being got.
    /// [`Input::Members`] follows, or the tracker goes.
    RightAwaited {
        /// The blob.
        blob: Digest,
    },
    /// Routes, asked for or not.
    Routes {
        /// The blob.
        blob: Digest,
        /// They.
        routes: Vec<StripeRoute>,
    },
    /// A LOOKUP was answered with an error.
    LookupFailed {
        /// The blob.
        blob: Digest,
        /// The stripes asked about.
        stripes: Vec<u32>,
    },
    /// `PROGRESS_ACK`.
    ProgressAck {
        /// The lease.
        lease: u64,
        /// How long it now runs without progress; `None` if it is lost.
        expires_in: Option<Duration>,
    },
    /// Peers that the tracker bans (`HEARTBEAT_ACK`).
    Bans {
        /// They.
        peers: Vec<PeerId>,
    },

    /// A connection with a peer is up: HELLO was exchanged and its certificate is good.
    PeerUp {
        /// Who, as its certificate says.
        member: Member,
    },
    /// A peer showed a grant that is good (GRANT).
    Granted {
        /// Who.
        peer: PeerId,
        /// What it may have.
        right: Right,
    },
    /// DATA came for a request of ours, and was verified or not.
    Data {
        /// From whom.
        peer: PeerId,
        /// Our request.
        request: u32,
        /// How it turned out.
        arrival: Arrival,
    },
    /// WAIT came.
    Wait {
        /// From whom.
        peer: PeerId,
        /// Our request.
        request: u32,
        /// As the message says.
        idle: Duration,
        /// As the message says.
        hops: u8,
    },
    /// BUSY came.
    Busy {
        /// From whom.
        peer: PeerId,
        /// Our request.
        request: u32,
        /// As the message says.
        retry: Duration,
        /// As the message says.
        alternatives: Vec<Member>,
    },
    /// MISS came.
    Miss {
        /// From whom.
        peer: PeerId,
        /// Our request.
        request: u32,
    },
    /// A peer cannot be reached, or its connection ended: its requests and ours are void.
    PeerGone {
        /// Who.
        peer: PeerId,
    },
    /// GOAWAY came: requests made are still answered, new ones go elsewhere.
    GoAway {
        /// From whom.
        peer: PeerId,
    },

    /// A peer wants a chunk of us.
    Want {
        /// Who.
        peer: PeerId,
        /// Its request.
        request: u32,
        /// What.
        want: Want,
    },
    /// A peer takes its request back.
    Cancel {
        /// Who.
        peer: PeerId,
        /// Its request.
        request: u32,
    },
    /// A [`Action::SendData`](super::Action::SendData) is done: the bytes are handed to the connection.
    Sent {
        /// To whom.
        peer: PeerId,
        /// Its request.
        request: u32,
    },
    /// A [`Action::SendData`](super::Action::SendData) could not be done: the store no longer has the chunk.
    SendFailed {
        /// To whom.
        peer: PeerId,
        /// Its request.
        request: u32,
    },

    /// Bytes of a registry read came in; a chunk need not be whole yet.
    RegistryProgress {
        /// The read.
        read: u64,
        /// How many more bytes.
        len: u64,
    },
    /// A chunk of a registry read is whole.
    RegistryChunk {
        /// The read.
        read: u64,
        /// Which chunk of its blob.
        number: u32,
        /// How it turned out.
        arrival: Arrival,
    },
    /// A registry read ended; chunks not given by then are not coming.
    RegistryEnd {
        /// The read.
        read: u64,
        /// Why early, if so.
        failure: Option<RegistryFailure>,
    },
}
