//! What a node wants done: all that decisions do to the outside.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::{ChunkId, Class, Fault, LeaseState, Member, PeerId, StripeRun, Want};

/// From where a chunk came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From a peer (or the seed).
    Peer(PeerId),
    /// From the registry.
    Registry,
}

/// Why a chunk will not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailReason {
    /// Its reader's time is over.
    TimedOut,
    /// No peer has it and the registry fails.
    RegistryFailed,
    /// No peer has it and the registry says that it has not, or that we may not.
    Refused,
    /// What the registry has is not the chunk.
    WrongAtRegistry,
    /// The blob is not open, or has no such chunk.
    Unknown,
    /// Too much is wanted at once.
    Overloaded,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Action {
    /// OPEN these blobs at the tracker, with the images they belong to; give back [`Input::Members`](super::Input::Members).
    OpenBlobs {
        /// They.
        blobs: Vec<Digest>,
    },
    /// LOOKUP; give back [`Input::Routes`](super::Input::Routes) or [`Input::LookupFailed`](super::Input::LookupFailed).
    Lookup {
        /// The blob.
        blob: Digest,
        /// The stripes, at most 64.
        stripes: Vec<u32>,
    },
    /// PROGRESS; give back [`Input::ProgressAck`](super::Input::ProgressAck).
    Progress {
        /// The lease.
        lease: u64,
        /// As the message says.
        done_len: u64,
        /// As the message says.
        state: LeaseState,
    },
    /// ANNOUNCE.
    Announce {
        /// The blob.
        blob: Digest,
        /// As the message says.
        runs: Vec<StripeRun>,
    },
    /// REPORT.
    Report {
        /// What is wrong.
        fault: Fault,
        /// With whom.
        peer: PeerId,
        /// With which chunk.
        chunk: ChunkId,
    },

    /// GRANT, and nothing behind it: a member is to know that this node uses a blob, too.
    Introduce {
        /// The member.
        to: Arc<Member>,
        /// The blob.
        blob: Digest,
    },
    /// Send a WANT, connecting first if need be; [`Input::PeerGone`](super::Input::PeerGone) if that fails.
    SendWant {
        /// To whom.
        to: Arc<Member>,
        /// Our request.
        request: u32,
        /// What.
        want: Want,
    },
    /// Send a CANCEL.
    SendCancel {
        /// To whom.
        peer: PeerId,
        /// Our request.
        request: u32,
    },
    /// Close all connections with a peer and take none from it until it is allowed again: it lied.
    Disconnect {
        /// Who.
        peer: PeerId,
    },

    /// Read chunks from the registry with one range request, and give them as they become whole.
    ReadRegistry {
        /// Names the read.
        read: u64,
        /// The blob.
        blob: Digest,
        /// Numbers of the chunks, all wanted, at most 4 MiB together (or one chunk).
        chunks: Range<u32>,
        /// The most urgent of them.
        class: Class,
    },

    /// Tell the local readers of a chunk that it is here.
    Complete {
        /// The chunk.
        chunk: ChunkId,
        /// From where.
        from: Origin,
    },
    /// Tell the local readers of a chunk that it does not come.
    Fail {
        /// The chunk.
        chunk: ChunkId,
        /// Why.
        why: FailReason,
    },

    /// Send a chunk that the store has (or that just arrived); give back [`Input::Sent`](super::Input::Sent) or
    /// [`Input::SendFailed`](super::Input::SendFailed).
    SendData {
        /// To whom.
        peer: PeerId,
        /// Its request.
        request: u32,
        /// The chunk.
        chunk: ChunkId,
        /// How urgent it is to the peer: which connection carries it.
        class: Class,
    },
    /// Send a WAIT.
    SendWait {
        /// To whom.
        peer: PeerId,
        /// Its request.
        request: u32,
        /// As the message says.
        idle: Duration,
        /// As the message says.
        hops: u8,
    },
    /// Send a BUSY.
    SendBusy {
        /// To whom.
        peer: PeerId,
        /// Its request.
        request: u32,
        /// As the message says.
        retry: Duration,
        /// As the message says.
        alternatives: Vec<Arc<Member>>,
    },
    /// Send a MISS.
    SendMiss {
        /// To whom.
        peer: PeerId,
        /// Its request.
        request: u32,
    },
}
