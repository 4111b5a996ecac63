//! Everything that the driver of a node can be told, from all sides.

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tranship_format::Digest;
use tranship_format::wire::{ChunkId, Grant, Member, PeerId, PeerMessage, Prove, PullProof};
use tranship_swarm::node::{Arrival, RegistryFailure};

use super::OpenImage;
use super::lent::Proved;
use super::links::Link;
use super::session::SessionEvent;

/// Bytes that were looked at: how they turned out, and the chunk if they are it.
#[derive(Debug)]
pub(crate) struct TakenIn {
    pub(crate) arrival: Arrival,
    pub(crate) bytes: Option<Bytes>,
}

/// What brought bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cause {
    /// A peer's DATA.
    Peer { peer: PeerId, request: u32 },
    /// A read at the origin.
    Origin { read: u64 },
}

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// The composer opens an image.
    Open {
        image: Box<OpenImage>,
        done: oneshot::Sender<()>,
    },
    /// The composer closes an image.
    Close { manifest: Digest },
    /// The composer wants a proof that the tracker lends.
    Prove {
        prove: Box<Prove>,
        reply: oneshot::Sender<Proved>,
    },
    /// A stream to or from a member stands.
    LinkUp { member: Member, link: Link },
    /// A stream ended.
    LinkDown { peer: PeerId, id: u64 },
    /// A peer cannot be dialled, or does not welcome us.
    Unreachable { peer: PeerId },
    /// A peer said something.
    Message {
        peer: PeerId,
        message: PeerMessage,
        /// Room in memory for the bytes of the message; given back when this is dropped.
        room: Option<OwnedSemaphorePermit>,
    },
    /// A peer showed a grant that is good.
    Granted { peer: PeerId, grant: Box<Grant> },
    /// A proof of pull for an image came, or cannot be had.
    PullProof { manifest: Digest, proof: PullProof },
    /// A tracker came, went or said something.
    Session {
        tracker: PeerId,
        event: SessionEvent,
    },
    /// Bytes were looked at.
    Taken {
        cause: Cause,
        chunk: ChunkId,
        taken: TakenIn,
    },
    /// Bytes of a read at the origin came in.
    OriginProgress { read: u64, len: u64 },
    /// A read at the origin ended.
    OriginEnd {
        read: u64,
        blob: Digest,
        failure: Option<OriginFailure>,
    },
    /// Chunks came to the store that no read asked for.
    Refilled { blob: Digest },
    /// A chunk was handed to a peer's connection, or could not be.
    Served {
        peer: PeerId,
        request: u32,
        done: bool,
    },
}

/// Why a read at the origin ended early.
#[derive(Debug)]
pub(crate) struct OriginFailure {
    pub(crate) failure: RegistryFailure,
    /// For people.
    pub(crate) text: String,
}
