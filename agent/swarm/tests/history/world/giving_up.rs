//! When a node may give a chunk up: after the registry failed for it as often as the options say, and not sooner. What a
//! registry answers that asks for a pause is no failure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tranship_format::Digest;
use tranship_format::wire::ChunkId;
use tranship_swarm::node::{FailReason, Input, NodeOptions};

/// One node's. A want that ended and began anew, for another peer, is not told apart from one that went on: then more
/// failures are counted here than there.
#[derive(Debug)]
pub(crate) struct GivingUp {
    tries: u32,
    reads: BTreeMap<u64, (Digest, BTreeSet<u32>)>,
    rests_until: BTreeMap<Digest, Duration>,
    failures: BTreeMap<ChunkId, u32>,
}

impl GivingUp {
    pub(super) fn new(options: &NodeOptions) -> Self {
        Self {
            tries: options.registry_tries,
            reads: BTreeMap::new(),
            rests_until: BTreeMap::new(),
            failures: BTreeMap::new(),
        }
    }

    /// The registry is asked for chunks.
    pub(super) fn read(&mut self, read: u64, blob: Digest, numbers: BTreeSet<u32>) {
        self.reads.insert(read, (blob, numbers));
    }

    pub(super) fn tell(&mut self, now: Duration, input: &Input) {
        match input {
            Input::RegistryChunk { read, number, .. } => {
                if let Some((_, left)) = self.reads.get_mut(read) {
                    left.remove(number);
                }
            }
            Input::RegistryEnd { read, failure } => {
                let Some((blob, left)) = self.reads.remove(read) else {
                    return;
                };
                let rests_until = self.rests_until.entry(blob).or_default();
                if let Some(pause) = failure.and_then(|failure| failure.retry_after) {
                    *rests_until = (*rests_until).max(now + pause);
                }
                if *rests_until <= now {
                    for number in left {
                        *self.failures.entry(ChunkId { blob, number }).or_default() += 1;
                    }
                }
            }
            _ => {}
        }
    }

    /// A chunk came: what failed before is forgotten.
    pub(super) fn comes(&mut self, chunk: ChunkId) {
        self.failures.remove(&chunk);
    }

    /// A chunk is given up.
    pub(super) fn gives_up(&mut self, chunk: ChunkId, why: FailReason) {
        let failures = self.failures.remove(&chunk).unwrap_or_default();
        assert_eq!(why, FailReason::RegistryFailed, "{chunk:?} is given up");
        assert!(
            failures >= self.tries,
            "{chunk:?} is given up after {failures} failures of the registry"
        );
    }
}
