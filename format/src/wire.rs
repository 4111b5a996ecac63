//! Messages between nodes: what a peer says to a peer, and an agent to the tracker.
//!
//! Pure codecs with explicit tags and widths, little-endian, so that the bytes are the same in
//! every build and a decoder can be fuzzed alone. `docs/protocol.md` is normative; this module
//! says the same in types. Nothing here decides anything: who may send what, and what follows from
//! it, is the business of `tranship-swarm` and of the connections that carry the frames.
//!
//! Every decoder is total: any bytes give a message or a [`WireError`], never a panic, and never an
//! allocation that the bytes received do not justify. Every list and text has a bound, named here;
//! an encoder keeps to it by cutting what is beyond, so that what we send is always decodable.

pub mod certificate;
mod error;
mod fields;
pub mod frame;
pub mod grant;
pub mod member;
pub mod peer;
pub mod proof;
#[cfg(test)]
mod tests;
pub mod tracker;

pub use certificate::Certificate;
pub use error::WireError;
pub use frame::{Frame, FrameDecoder, HEADER_LEN, Header, MAX_BODY_LEN};
pub use grant::Grant;
pub use member::{Member, PeerId, Role};
pub use peer::{Class, Hello, HelloAck, PeerMessage, Want};
pub use proof::{MAX_LENT_BLOB_LEN, MAX_LENT_LEN, SignedProof};
pub use tracker::{
    BlobInfo, ErrorCode, Fault, Goodput, ImageSource, Join, JoinProof, LeaseState, Open,
    ProofState, Prove, PullProof, Route, StripeRoute, StripeRun, StripeState, TrackerReply,
    TrackerRequest,
};

use crate::Digest;

/// Oldest version of the protocol that this build speaks.
pub const VERSION_MIN: u16 = 1;
/// Newest version of the protocol that this build speaks.
pub const VERSION_MAX: u16 = 1;
/// Chunks in a stripe, the unit in which the tracker decides (the last stripe of a blob may have fewer).
pub const STRIPE_CHUNKS: u32 = 64;

/// Most bytes in a [`PeerId`].
pub const MAX_PEER_ID_LEN: usize = 64;
/// Most addresses in a [`Member`].
pub const MAX_ADDRESSES: usize = 4;
/// Most bytes in one address.
pub const MAX_ADDRESS_LEN: usize = 256;
/// Most bytes in a zone or rack.
pub const MAX_LABEL_LEN: usize = 64;
/// Most bytes in a signature.
pub const MAX_SIGNATURE_LEN: usize = 512;
/// Most bytes in a join token.
pub const MAX_TOKEN_LEN: usize = 512;
/// Most bytes in a proof of pull.
pub const MAX_PROOF_LEN: usize = 16_384;
/// Most bytes in a registry host or a repository.
pub const MAX_NAME_LEN: usize = 255;
/// Most alternatives in BUSY, and most parents in a route.
pub const MAX_PARENTS: usize = 4;
/// Most blobs in one OPEN or grant.
pub const MAX_BLOBS: usize = 256;
/// Most stripes in one LOOKUP, and routes in one ROUTES.
pub const MAX_STRIPES: usize = 64;
/// Most members in one OPENED.
pub const MAX_MEMBERS: usize = 256;
/// Most runs in one ANNOUNCE.
pub const MAX_RUNS: usize = 16_384;
/// Most goodput reports in one HEARTBEAT.
pub const MAX_GOODPUTS: usize = 64;
/// Most bans in one `HEARTBEAT_ACK`.
pub const MAX_BANS: usize = 1_024;
/// Most bytes in the text of an ERROR.
pub const MAX_TEXT_LEN: usize = 512;

/// The versions of the protocol that one side speaks, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// Oldest.
    pub min: u16,
    /// Newest.
    pub max: u16,
}

impl Versions {
    /// The versions of this build.
    pub const OURS: Self = Self {
        min: VERSION_MIN,
        max: VERSION_MAX,
    };

    /// The newest version that both sides speak, if there is one.
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

/// A chunk on the wire: the blob it is in, and its number in that blob's chunk table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId {
    /// The blob.
    pub blob: Digest,
    /// Number of the chunk in the blob's table, from 0. Unchecked until a table has it.
    pub number: u32,
}
