//! Who to ask for what, and when to give up: every decision of the swarm, as two pure machines.
//!
//! [`node::Node`] is an agent's (and the seed's) side, [`tracker::Tracker`] the tracker's. Both are
//! driven alike: `handle(now, input)` tells what happened, `poll(now)` gives what is to be done, one
//! action at a time until `None`, and `wake_at()` says when to poll though nothing happened. `now` is
//! any clock that starts at zero and never goes back. No sockets, clocks, threads or hash maps: the
//! same inputs give the same actions, so thousands of swarms can be lived through in a test, and a
//! seed repeats any of them. Beside them is [`read_ahead`]: which chunks a reader will come to next.
#![forbid(unsafe_code)]

pub mod node;
pub mod read_ahead;
pub mod shard;
pub mod tracker;

use tranship_format::Digest;
use tranship_format::wire::ChunkId;

/// A stripe: the chunks of one blob about which the tracker decides together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StripeId {
    /// The blob.
    pub blob: Digest,
    /// Number of the stripe in the blob, from 0.
    pub number: u32,
}

impl StripeId {
    /// The stripe that a chunk is in, with `stripe_chunks` chunks in each.
    pub const fn of(chunk: ChunkId, stripe_chunks: u32) -> Self {
        let number = match chunk.number.checked_div(stripe_chunks) {
            Some(number) => number,
            None => 0,
        };
        Self {
            blob: chunk.blob,
            number,
        }
    }
}
