//! What the tracker shows of itself, as JSON, as metrics and as a page.

use serde::{Deserialize, Serialize};
use tranship_source::CountersSnapshot;

/// Everything at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the software.
    pub version: String,
    /// The tracker's peer id.
    pub peer_id: String,
    /// Where nodes reach it, as multiaddrs that end in its peer id.
    pub listen: Vec<String>,
    /// Changes when it forgets.
    pub epoch: u64,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Who is in.
    pub members: Vec<MemberStatus>,
    /// What they use.
    pub images: Vec<ImageStatus>,
    /// Blobs and how far they have spread.
    pub blobs: Vec<BlobStatus>,
    /// Leases to read the registry that are held now.
    pub lease_count: u64,
    /// Peers that were banned.
    pub ban_count: u64,
    /// Requests answered, since it started.
    pub request_count: u64,
    /// Attempts to join that were refused, since it started.
    pub refused_join_count: u64,
    /// Times that an image was opened by a member that may have it, since it started.
    pub granted_count: u64,
    /// Times that one was opened by a member that may not, or where the registry did not say.
    pub ungranted_count: u64,
    /// The seed, if there is one.
    pub seed: Option<SeedStatus>,
}

/// One member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberStatus {
    /// Its peer id.
    pub peer_id: String,
    /// `agent` or `seed`.
    pub role: String,
    /// Failure and cost domain, empty if unknown.
    pub zone: String,
    /// Group of near neighbours in the zone, empty if unknown.
    pub rack: String,
    /// How busy it said that it is, of 1,000.
    pub load_permille: u16,
    /// Nobody is sent to it for a while: three others found it far slower than the rest.
    pub is_slow: bool,
    /// Nobody is sent to it: two others had wrong chunks of it.
    pub is_shunned: bool,
    /// Blobs that it has open.
    pub blob_count: u64,
    /// Where it is dialled.
    pub addresses: Vec<String>,
    /// Whether its stream stands.
    pub connected: bool,
}

/// One image that was opened since the tracker started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageStatus {
    /// Registry host; empty for an image that no registry has.
    pub registry: String,
    /// Repository.
    pub repository: String,
    /// Digest of the manifest.
    pub manifest: String,
    /// Times that a member opened it.
    pub open_count: u64,
}

/// One blob that members use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlobStatus {
    /// The blob.
    pub digest: String,
    /// Members that have it open.
    pub member_count: u64,
    /// Stripes that somebody has or gets.
    pub stripe_count: u64,
    /// Stripes that somebody has whole.
    pub complete_count: u64,
    /// Stripes whose read of the registry is leased.
    pub leased_count: u64,
    /// Members registered in its stripes, summed.
    pub registration_count: u64,
    /// Bytes read of the registry under leases, by the word of those who held them.
    pub origin_len: u64,
}

/// The seed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SeedStatus {
    /// Bytes of chunks that it holds.
    pub stored_len: u64,
    /// Most that it may hold.
    pub quota_len: u64,
    /// Images that it took part in since it started.
    pub image_count: u64,
    /// Proofs that it made since the start.
    pub proof_count: u64,
    /// What happened to its chunks.
    pub counters: CountersSnapshot,
}
