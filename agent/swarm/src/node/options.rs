//! The numbers that a node's decisions hang on, and what they were chosen by.

use std::time::Duration;

use tranship_format::wire::{Member, STRIPE_CHUNKS};

/// Numbers of a node. [`NodeOptions::new`] gives those that were measured and simulated.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Who we are.
    pub me: Member,
    /// Seed of the node's random choices.
    pub seed: u64,
    /// Chunks in a stripe; all of a swarm must agree. 64.
    pub stripe_chunks: u32,
    /// Bytes asked of one peer and not yet come, for demand. 4 MiB.
    pub peer_credit_len: u64,
    /// The same for all other classes. 2 MiB.
    pub peer_bulk_credit_len: u64,
    /// Bytes asked of all sources and not yet come. 64 MiB; other classes than demand use three quarters.
    pub credit_len: u64,
    /// Longest range read of the registry. 4 MiB.
    pub registry_run_len: u64,
    /// Registry reads in flight for other classes than demand. 4.
    pub registry_reads: usize,
    /// Registry reads in flight for all classes: a lease holder reads for everybody who demands a
    /// chunk of its stripes, each of which costs the registry's latency. 32.
    pub registry_demand_reads: usize,
    /// Stripes in which other classes than demand may be under way at once: of a stripe a start
    /// may read a few chunks only. 16.
    pub bulk_stripes: usize,
    /// A demand read of peers that say nothing goes to the registry after this, or, as with the next two, up to four times as long
    /// where chunks take long to come. 500 ms.
    pub demand_patience: Duration,
    /// The same when they say WAIT, but that nothing moves: behind them is whoever reads the registry, and
    /// the tracker gives his lease to another sooner. 1 s.
    pub waiting_patience: Duration,
    /// Any other read looks for another source after this. 2 s.
    pub bulk_patience: Duration,
    /// A registry read that gives nothing for this long no longer counts as alive. 500 ms.
    pub registry_patience: Duration,
    /// The tracker is given so long for an answer: it may have ten thousand others to answer first. 500 ms.
    pub lookup_patience: Duration,
    /// A request is hedged no sooner than this. 5 ms.
    pub hedge_min: Duration,
    /// A silent request is hedged no later than this: a chunk takes 20 ms at 100 Mbit/s, some may be before it,
    /// and words wait in full queues too, where a hedge makes them fuller. 250 ms.
    pub hedge_max: Duration,
    /// Hedges saved up at most; each request earns a tenth of one. 10.
    pub hedge_burst: u32,
    /// WAIT is repeated this often. 100 ms.
    pub wait_repeat: Duration,
    /// Chunks being sent at once; demand may add half as many again. The fewer, the sooner each is
    /// there; but some may wait for a receiver whose own link is full. 4.
    pub upload_slots: usize,
    /// The same on a link that takes each of them in a moment. 4.
    pub upload_slots_most: usize,
    /// Chunks queued for sending; beyond it WANT is answered BUSY. 16.
    pub upload_queue: usize,
    /// Peers that wait for one chunk on its way; beyond it they are told BUSY and of each other. 8.
    pub waiters_per_chunk: usize,
    /// Requests of peers that wait for chunks on their way, in all. 1,024.
    pub waiters: usize,
    /// Chunks wanted at once; beyond it they fail as overloaded. 262,144.
    pub wants: usize,
    /// A peer that sent something wrong is asked for nothing for this long, and one that the tracker banned is not
    /// spoken to. 10 min.
    pub ban: Duration,
    /// A peer that was slow or could not be reached is avoided for this long. 10 s.
    pub avoid: Duration,
    /// Changes to what is held are announced no oftener than this. 100 ms.
    pub announce_every: Duration,
    /// Progress of a lease is told no oftener than this. 100 ms.
    pub progress_every: Duration,
    /// Times the registry may fail for a chunk before the chunk fails. 4.
    pub registry_tries: u32,
    /// Pause after the first failure of the registry, doubled each time up to 32-fold. 200 ms.
    pub registry_backoff: Duration,
}

impl NodeOptions {
    /// The defaults for a node.
    pub fn new(me: Member, seed: u64) -> Self {
        Self {
            me,
            seed,
            stripe_chunks: STRIPE_CHUNKS,
            peer_credit_len: 4 << 20,
            peer_bulk_credit_len: 2 << 20,
            credit_len: 64 << 20,
            registry_run_len: 4 << 20,
            registry_reads: 4,
            registry_demand_reads: 32,
            bulk_stripes: 16,
            demand_patience: Duration::from_millis(500),
            waiting_patience: Duration::from_secs(1),
            bulk_patience: Duration::from_secs(2),
            registry_patience: Duration::from_millis(500),
            lookup_patience: Duration::from_millis(500),
            hedge_min: Duration::from_millis(5),
            hedge_max: Duration::from_millis(250),
            hedge_burst: 10,
            wait_repeat: Duration::from_millis(100),
            upload_slots: 4,
            upload_slots_most: 4,
            upload_queue: 16,
            waiters_per_chunk: 8,
            waiters: 1_024,
            wants: 262_144,
            ban: Duration::from_mins(10),
            avoid: Duration::from_secs(10),
            announce_every: Duration::from_millis(100),
            progress_every: Duration::from_millis(100),
            registry_tries: 4,
            registry_backoff: Duration::from_millis(200),
        }
    }
}
