//! What goes over the HTTP API besides the status, as types.
//!
//! Digests and peer ids are text here, as in the status: a program that only shows them needs no other crate.

use serde::{Deserialize, Serialize};
use tranship_source::Trace;

/// `GET /v1/images/{manifest}`: one image, and how far it has spread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageDetail {
    /// Registry host; empty for an image that no registry has.
    pub registry: String,
    /// Repository.
    pub repository: String,
    /// Digest of the manifest.
    pub manifest: String,
    /// Times that a member opened it.
    pub open_count: u64,
    /// What the seed was ordered to do with it.
    pub seeding: Option<SeedJob>,
    /// Its blobs, as far as members named them under this image.
    pub blobs: Vec<BlobDetail>,
}

/// One blob of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlobDetail {
    /// The blob.
    pub digest: String,
    /// Its bytes.
    pub len: u64,
    /// Its chunks.
    pub chunk_count: u32,
    /// Its stripes.
    pub stripe_count: u32,
    /// Members that have it open.
    pub member_count: u64,
    /// Bytes read of the registry under leases, by the word of those who held them.
    pub origin_len: u64,
    /// The stripes that somebody has or gets, in order.
    pub stripes: Vec<StripeDetail>,
}

/// One stripe of a blob.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StripeDetail {
    /// Its number in the blob, from 0.
    pub number: u32,
    /// Members that have it whole.
    pub holder_count: u64,
    /// Members that have some of it or get it.
    pub in_flight_count: u64,
    /// Peer id of who may read the registry for it now.
    pub lease_holder: Option<String>,
}

/// `POST /v1/seed`: let the seed fetch an image, or what a start reads of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedRequest {
    /// The image by digest: `HOST/REPO@sha256:…`.
    pub reference: String,
    /// What to fetch of it, the first first; all of it without a trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
}

/// How an image fares that the seed was ordered to fetch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SeedJob {
    /// Registry host.
    pub registry: String,
    /// Repository.
    pub repository: String,
    /// Digest of the manifest.
    pub manifest: String,
    /// What becomes of it.
    pub state: SeedState,
    /// Whether only what a trace names is to be fetched.
    pub by_trace: bool,
    /// Bytes of what is to be fetched that the seed has.
    pub present_len: u64,
    /// Bytes of what is to be fetched.
    pub total_len: u64,
    /// Chunks that no source gave.
    pub failed_count: u64,
    /// Why the first of them did not come; empty if none failed.
    pub failure: String,
}

/// What becomes of an order to the seed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SeedState {
    /// It waits for its turn or is being fetched.
    #[default]
    Fetching,
    /// The seed has all of it.
    Complete,
    /// The seed's store has no more room; it keeps what it has.
    Full,
    /// Some chunks did not come.
    Incomplete,
    /// The operator took the order back.
    Stopped,
}

/// `POST /v1/bans`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanRequest {
    /// Peer id, as the list of members has it.
    pub peer_id: String,
}

/// `GET /v1/bans`: who is banned, the latest last; and the answer to a change of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanList {
    /// Their peer ids.
    pub peer_ids: Vec<String>,
}

/// The body of every answer that is not a success.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// What did not work, and why.
    pub error: String,
    /// What to do about it; may be empty.
    #[serde(default)]
    pub hint: String,
}
