//! The numbers that the tracker's decisions hang on.

use std::time::Duration;

use tranship_format::wire::{MAX_MEMBERS, STRIPE_CHUNKS};

/// Numbers of a tracker.
#[derive(Clone, Debug)]
pub struct TrackerOptions {
    /// Chunks in a stripe; all of a swarm must agree. 64.
    pub stripe_chunks: u32,
    /// A lease ends after so long without progress; doubled at each hand-over up to 16-fold. 500 ms.
    pub lease: Duration,
    /// Most stripes that are read of registries at once, under leases of this tracker. 512.
    pub origin_reads: usize,
    /// Time between heartbeats. 5 s.
    pub heartbeat: Duration,
    /// A member is dead after so many heartbeats missed. 3.
    pub missed_heartbeats: u32,
    /// For so long after a restart nobody is sent to the registry for a stripe that is not known
    /// yet, because a holder may still tell of it. Zero for a tracker that never ran before. 1 s.
    pub grace: Duration,
    /// Children of a node within a stripe. 2.
    pub fan_out: usize,
    /// The same if all are in its rack. 3.
    pub rack_fan_out: usize,
    /// The same for the seed, of a stripe that it has; of one that it reads it sends each chunk once. 4.
    pub seed_fan_out: usize,
    /// Load, of 1,000, from which on the seed is a peer like others. 500.
    pub seed_load_permille: u16,
    /// Two peers are kept apart for so long after one accused the other. 10 min.
    pub apart: Duration,
    /// The same after one could not reach the other. 30 s.
    pub apart_dead: Duration,
    /// An accusation of wrong chunks counts for so long. 1 h.
    pub accusation: Duration,
    /// A slow member is nobody's parent for so long. 60 s.
    pub slow: Duration,
    /// Most members. 20,000.
    pub members: usize,
    /// Most blobs. 16,384; the one unused longest goes.
    pub blobs: usize,
    /// Most chunks in a blob. 4,194,304, which is 1 TiB.
    pub blob_chunks: u32,
    /// Most members registered in a stripe; later ones are routed but nobody is routed to them. 4,096.
    pub stripe_members: usize,
    /// Most entries in all stripes together, some fifty bytes each; beyond it as above. 4,194,304.
    pub registrations: usize,
    /// Members told in OPENED. 256.
    pub opened_members: usize,
}

impl Default for TrackerOptions {
    fn default() -> Self {
        Self {
            stripe_chunks: STRIPE_CHUNKS,
            lease: Duration::from_millis(500),
            origin_reads: 512,
            heartbeat: Duration::from_secs(5),
            missed_heartbeats: 3,
            grace: Duration::from_secs(1),
            fan_out: 2,
            rack_fan_out: 3,
            seed_fan_out: 4,
            seed_load_permille: 500,
            apart: Duration::from_mins(10),
            apart_dead: Duration::from_secs(30),
            accusation: Duration::from_hours(1),
            slow: Duration::from_mins(1),
            members: 20_000,
            blobs: 16_384,
            blob_chunks: 1 << 22,
            stripe_members: 4_096,
            registrations: 1 << 22,
            opened_members: MAX_MEMBERS,
        }
    }
}
