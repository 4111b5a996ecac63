//! What happened to chunks on this node, counted.
//!
//! A plain struct of atomics that the composer makes and hands in: nothing here
//! is global, so a process with several nodes, as in the tests, counts each alone.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

/// Where a chunk came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Another agent.
    Peer,
    /// The seed beside the tracker.
    Seed,
    /// The registry.
    Registry,
    /// An image layout on this machine, which stands in for a registry.
    Local,
    /// This node's store: nothing was fetched.
    Store,
}

/// Bytes and chunks that came, or went, one way. All numbers only grow.
#[derive(Debug, Default)]
pub struct Flow {
    len: AtomicU64,
    count: AtomicU64,
}

impl Flow {
    pub(crate) fn add(&self, len: u64) {
        self.len.fetch_add(len, Relaxed);
        self.count.fetch_add(1, Relaxed);
    }

    fn snapshot(&self) -> FlowSnapshot {
        FlowSnapshot {
            len: self.len.load(Relaxed),
            count: self.count.load(Relaxed),
        }
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub(crate) fn increment(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub(crate) fn add(&self, by: u64) {
        self.0.fetch_add(by, Relaxed);
    }

    /// Takes over a total that is counted elsewhere.
    pub(crate) fn set(&self, total: u64) {
        self.0.store(total, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The counters of one node.
#[derive(Debug, Default)]
pub struct Counters {
    pub(crate) peer: Flow,
    pub(crate) seed: Flow,
    pub(crate) registry: Flow,
    pub(crate) local: Flow,
    pub(crate) store: Flow,
    pub(crate) served: Flow,
    pub(crate) refused: Flow,
    pub(crate) unstored: Count,
    pub(crate) registry_requests: Count,
    pub(crate) registry_bytes: Count,
    pub(crate) origin_overrides: Count,
    pub(crate) requests: Count,
    pub(crate) hedges: Count,
    pub(crate) waits: Count,
    pub(crate) busy: Count,
    pub(crate) misses: Count,
    pub(crate) failures: Count,
    pub(crate) refused_peers: Count,
    pub(crate) refused_grants: Count,
    pub(crate) tracker_requests: Count,
    pub(crate) tracker_connects: Count,
}

impl Counters {
    pub(crate) fn came(&self, source: Source, len: u64) {
        match source {
            Source::Peer => self.peer.add(len),
            Source::Seed => self.seed.add(len),
            Source::Registry => self.registry.add(len),
            Source::Local => self.local.add(len),
            Source::Store => self.store.add(len),
        }
    }

    /// Counts what was read of the registry past the fetcher: a request, its bytes, and the chunks that were kept of them.
    pub fn read_beside(&self, received_len: u64, chunk_lens: &[u64]) {
        self.registry_requests.increment();
        self.registry_bytes.add(received_len);
        for len in chunk_lens {
            self.came(Source::Registry, *len);
        }
    }

    /// The numbers now. Each is exact; together they are of one moment only when nothing moves.
    pub fn snapshot(&self) -> CountersSnapshot {
        CountersSnapshot {
            peer: self.peer.snapshot(),
            seed: self.seed.snapshot(),
            registry: self.registry.snapshot(),
            local: self.local.snapshot(),
            store: self.store.snapshot(),
            served: self.served.snapshot(),
            refused: self.refused.snapshot(),
            unstored_count: self.unstored.get(),
            registry_request_count: self.registry_requests.get(),
            registry_len: self.registry_bytes.get(),
            origin_override_count: self.origin_overrides.get(),
            request_count: self.requests.get(),
            hedge_count: self.hedges.get(),
            wait_count: self.waits.get(),
            busy_count: self.busy.get(),
            miss_count: self.misses.get(),
            failure_count: self.failures.get(),
            refused_peer_count: self.refused_peers.get(),
            refused_grant_count: self.refused_grants.get(),
            tracker_request_count: self.tracker_requests.get(),
            tracker_connect_count: self.tracker_connects.get(),
        }
    }
}

/// Bytes and chunks that came, or went, one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowSnapshot {
    /// Bytes.
    pub len: u64,
    /// Chunks.
    pub count: u64,
}

/// The counters of one node at one moment; see the fields for what each counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountersSnapshot {
    /// Verified chunks fetched from agents.
    pub peer: FlowSnapshot,
    /// Verified chunks fetched from the seed.
    pub seed: FlowSnapshot,
    /// Verified chunks fetched from the registry.
    pub registry: FlowSnapshot,
    /// Verified chunks read from an image layout on this machine.
    pub local: FlowSnapshot,
    /// Chunks that were asked for and found in the store.
    pub store: FlowSnapshot,
    /// Chunks given to others.
    pub served: FlowSnapshot,
    /// Chunks that came from anywhere and were not what was asked for: thrown away, fetched elsewhere.
    pub refused: FlowSnapshot,
    /// Verified chunks that the store could not keep (full disk): handed on without it.
    pub unstored_count: u64,
    /// Range requests to the registry or layout, whatever came of them.
    pub registry_request_count: u64,
    /// Bytes that the registry or layout sent, wanted or not, right or wrong.
    pub registry_len: u64,
    /// Registry reads without a lease, because a reader had waited too long.
    pub origin_override_count: u64,
    /// Chunks asked of peers and the seed, hedges included.
    pub request_count: u64,
    /// Second requests for a chunk that was late.
    pub hedge_count: u64,
    /// WAIT answers received.
    pub wait_count: u64,
    /// BUSY answers received.
    pub busy_count: u64,
    /// MISS answers received.
    pub miss_count: u64,
    /// Chunks that no source gave, so that whoever asked got an error.
    pub failure_count: u64,
    /// Streams refused because the other end proved no membership.
    pub refused_peer_count: u64,
    /// Grants shown by peers that were not believed.
    pub refused_grant_count: u64,
    /// Requests made to the tracker.
    pub tracker_request_count: u64,
    /// Times that the tracker took this node in, reconnections included.
    pub tracker_connect_count: u64,
}

impl CountersSnapshot {
    /// Bytes of verified chunks that were fetched from anywhere outside the store.
    pub fn fetched_len(&self) -> u64 {
        let flows = [&self.peer, &self.seed, &self.registry, &self.local];
        flows
            .iter()
            .fold(0, |sum, flow| sum.saturating_add(flow.len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_has_its_own_count() {
        let counters = Counters::default();
        counters.came(Source::Peer, 5);
        counters.came(Source::Peer, 6);
        counters.came(Source::Registry, 7);
        counters.came(Source::Store, 8);
        let now = counters.snapshot();
        assert_eq!((now.peer.len, now.peer.count), (11, 2));
        assert_eq!((now.registry.len, now.store.len), (7, 8));
        assert_eq!(now.fetched_len(), 18);
    }
}
