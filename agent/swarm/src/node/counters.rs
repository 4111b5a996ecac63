//! What a node counts of its own decisions; the composer turns it into metrics.

/// Totals since the node began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Chunks that came from peers.
    pub chunks_from_peers: u64,
    /// Chunks that came from the registry.
    pub chunks_from_registry: u64,
    /// Stored bytes that came from peers.
    pub bytes_from_peers: u64,
    /// Stored bytes that came from the registry.
    pub bytes_from_registry: u64,
    /// Chunks sent to peers.
    pub chunks_sent: u64,
    /// Stored bytes sent to peers.
    pub bytes_sent: u64,
    /// WANTs sent, hedges included.
    pub requests: u64,
    /// Second requests for a chunk, to another peer while the first was open.
    pub hedges: u64,
    /// Hedges because the peer asked first fell silent, which are not within the budget.
    pub silent: u64,
    /// Hedges that were answered first.
    pub hedge_wins: u64,
    /// Chunks refused because they were not what their hash says.
    pub wrong_chunks: u64,
    /// Chunks read from the registry without a lease because a demand read got nowhere.
    pub origin_overrides: u64,
    /// Chunks fetched only because a peer asked for them.
    pub relayed: u64,
    /// WAITs sent, repetitions included.
    pub waits_sent: u64,
    /// BUSYs sent.
    pub busy_sent: u64,
    /// MISSes sent.
    pub misses_sent: u64,
    /// BUSYs received.
    pub busy_received: u64,
    /// MISSes received.
    pub misses_received: u64,
    /// Stripes asked of the tracker.
    pub lookups: u64,
    /// Chunks that failed.
    pub failed: u64,
}
