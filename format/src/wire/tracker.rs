//! What agents say to the tracker and what it answers: the values in both directions.
//!
//! The tracker is asked about stripes, not chunks: one answer serves 64 chunks, and a thousand nodes
//! that start one image together do not bind the tracker.

mod plea;
mod reply;
mod request;

pub use plea::{Open, Prove};
pub use reply::{ProofState, TrackerReply};
pub use request::{Join, TrackerRequest};

use std::sync::Arc;

use super::fields::{Fields, put_bytes, put_digest, put_text, put_u32, put_u64};
use super::{Certificate, MAX_NAME_LEN, MAX_PROOF_LEN, Member, PeerId, WireError};
use crate::Digest;

/// Kinds of frames on a tracker stream.
pub mod kind {
    /// JOIN
    pub const JOIN: u8 = 0x41;
    /// OPEN
    pub const OPEN: u8 = 0x42;
    /// LOOKUP
    pub const LOOKUP: u8 = 0x43;
    /// PROGRESS
    pub const PROGRESS: u8 = 0x44;
    /// ANNOUNCE
    pub const ANNOUNCE: u8 = 0x45;
    /// HEARTBEAT
    pub const HEARTBEAT: u8 = 0x46;
    /// REPORT
    pub const REPORT: u8 = 0x47;
    /// LEAVE
    pub const LEAVE: u8 = 0x48;
    /// PROVE
    pub const PROVE: u8 = 0x49;
    /// JOINED
    pub const JOINED: u8 = 0x61;
    /// OPENED
    pub const OPENED: u8 = 0x62;
    /// ROUTES
    pub const ROUTES: u8 = 0x63;
    /// `PROGRESS_ACK`
    pub const PROGRESS_ACK: u8 = 0x64;
    /// `HEARTBEAT_ACK`
    pub const HEARTBEAT_ACK: u8 = 0x66;
    /// ACK
    pub const ACK: u8 = 0x67;
    /// PROOF
    pub const PROOF: u8 = 0x69;
    /// FAREWELL
    pub const FAREWELL: u8 = 0x6a;
    /// ERROR
    pub const ERROR: u8 = 0x6f;
}

/// Why the tracker should take somebody in.
#[derive(Clone, PartialEq, Eq)]
pub enum JoinProof {
    /// A join token, at most 512 bytes.
    Token(Vec<u8>),
    /// A certificate that this tracker signed and that has not expired.
    Certificate(Box<Certificate>),
}

/// Hides the token: it is a secret, and messages are logged.
impl std::fmt::Debug for JoinProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Token(_) => f.write_str("Token(..)"),
            Self::Certificate(certificate) => {
                f.debug_tuple("Certificate").field(certificate).finish()
            }
        }
    }
}

/// Why the tracker should believe that the sender may pull an image: what the registry itself would believe.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum PullProof {
    /// Nothing: the image is public, or a grant that still holds is shown.
    #[default]
    None,
    /// A token that the registry's token service gave for pulling, at most 16,384 bytes.
    Token(Vec<u8>),
    /// User name, colon and password, where the operator permits that; at most 16,384 bytes.
    Password(Vec<u8>),
}

/// Hides what is secret: messages are logged.
impl std::fmt::Debug for PullProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Token(_) => "Token(..)",
            Self::Password(_) => "Password(..)",
        })
    }
}

impl PullProof {
    fn put(&self, out: &mut Vec<u8>) {
        let (tag, secret): (u8, &[u8]) = match self {
            Self::None => (0, &[]),
            Self::Token(token) => (1, token),
            Self::Password(password) => (2, password),
        };
        out.push(tag);
        if tag != 0 {
            put_bytes(out, secret, MAX_PROOF_LEN);
        }
    }

    fn read(fields: &mut Fields<'_>) -> Result<Self, WireError> {
        match fields.u8("proof of pull")? {
            0 => Ok(Self::None),
            1 => Ok(Self::Token(
                fields.bytes(0, MAX_PROOF_LEN, "token")?.to_vec(),
            )),
            2 => Ok(Self::Password(
                fields.bytes(0, MAX_PROOF_LEN, "password")?.to_vec(),
            )),
            value => Err(WireError::UnknownTag {
                what: "proof of pull",
                value,
            }),
        }
    }
}

/// Where an image's blobs can be read, so that the seed can read them too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageSource {
    /// Registry host, with its port if not the default; at most 255 bytes.
    pub registry: String,
    /// Repository; at most 255 bytes.
    pub repository: String,
    /// Digest of the image's manifest.
    pub manifest: Digest,
}

impl ImageSource {
    fn put(&self, out: &mut Vec<u8>) {
        put_text(out, &self.registry, MAX_NAME_LEN);
        put_text(out, &self.repository, MAX_NAME_LEN);
        put_digest(out, &self.manifest);
    }

    fn read(fields: &mut Fields<'_>) -> Result<Self, WireError> {
        Ok(Self {
            registry: fields.text(MAX_NAME_LEN, "registry")?,
            repository: fields.text(MAX_NAME_LEN, "repository")?,
            manifest: fields.digest("manifest")?,
        })
    }
}

/// A blob as far as decisions need to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobInfo {
    /// Which blob.
    pub digest: Digest,
    /// Its bytes.
    pub len: u64,
    /// Chunks in its table.
    pub chunk_count: u32,
}

impl BlobInfo {
    fn put(&self, out: &mut Vec<u8>) {
        put_digest(out, &self.digest);
        put_u64(out, self.len);
        put_u32(out, self.chunk_count);
    }

    fn read(fields: &mut Fields<'_>) -> Result<Self, WireError> {
        Ok(Self {
            digest: fields.digest("blob")?,
            len: fields.u64("blob length")?,
            chunk_count: fields.u32("chunk count")?,
        })
    }
}

/// Where a stripe's chunks come from, for the one who asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// From the registry: the asker holds the lease.
    Origin {
        /// Names the lease in PROGRESS.
        lease: u64,
        /// The lease ends after so many milliseconds without progress.
        expires_ms: u32,
    },
    /// From these peers, best first; at most 4.
    Parents(Vec<Arc<Member>>),
    /// Undecided: ask again after so many milliseconds.
    Wait {
        /// How long.
        ms: u32,
    },
}

/// The route of one stripe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StripeRoute {
    /// Number of the stripe in its blob, from 0.
    pub stripe: u32,
    /// Its route.
    pub route: Route,
}

/// What a node has of a stripe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum StripeState {
    /// Nothing, and it wants nothing of it.
    None = 0,
    /// Some of its chunks, or it is getting them.
    InFlight = 1,
    /// All of its chunks.
    Complete = 2,
}

/// So many stripes in a row with one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StripeRun {
    /// Their state.
    pub state: StripeState,
    /// How many, at least 1.
    pub count: u32,
}

/// How the holder of a lease fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LeaseState {
    /// It is reading; without progress the lease expires.
    Reading = 1,
    /// It has read all that anyone asked it for; the lease rests with it until more is wanted.
    Resting = 2,
    /// It cannot or will not read; the lease is free.
    Released = 3,
    /// It is to read, and its link is busy with other reads that move.
    Queued = 4,
}

/// What is wrong with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Fault {
    /// It sent bytes that are not the chunk.
    WrongChunk = 1,
    /// It is far slower than others.
    Slow = 2,
    /// It cannot be reached, or does not answer.
    Dead = 3,
}

/// How fast a peer was, as measured by the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goodput {
    /// The peer.
    pub peer: PeerId,
    /// Bytes per second while it was sending.
    pub bytes_per_second: u64,
}

/// Why the tracker refuses a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ErrorCode {
    /// The request is against the protocol.
    Malformed = 1,
    /// No version in common.
    UnsupportedVersion = 2,
    /// The sender has not joined, or was forgotten: JOIN again.
    NotAMember = 3,
    /// The token or certificate does not admit.
    NotAdmitted = 4,
    /// The sender is banned.
    Banned = 5,
    /// The blob is not open: OPEN it first.
    UnknownBlob = 6,
    /// A limit of the tracker is reached; do without it for a while.
    Overloaded = 7,
    /// The tracker stops: it takes nobody in and answers no question any more.
    Stopping = 8,
}

impl ErrorCode {
    fn read(fields: &mut Fields<'_>) -> Result<Self, WireError> {
        match fields.u8("error code")? {
            1 => Ok(Self::Malformed),
            2 => Ok(Self::UnsupportedVersion),
            3 => Ok(Self::NotAMember),
            4 => Ok(Self::NotAdmitted),
            5 => Ok(Self::Banned),
            6 => Ok(Self::UnknownBlob),
            7 => Ok(Self::Overloaded),
            8 => Ok(Self::Stopping),
            value => Err(WireError::UnknownTag {
                what: "error code",
                value,
            }),
        }
    }
}

fn read_members(fields: &mut Fields<'_>, max: usize) -> Result<Vec<Arc<Member>>, WireError> {
    fields.list(max, "members", |fields| Member::read(fields).map(Arc::new))
}
