//! Second requests for a chunk whose first is open, held to the budget that the protocol gives: one in ten requests, and
//! as many as may be saved up, unless the peer that was asked first fell silent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tranship_format::wire::PeerId;
use tranship_swarm::node::{Counters, NodeOptions};

/// What each hedge costs, where each request earns one.
const COST: u32 = 10;
/// Repetitions of WAIT that a peer must have missed to be silent.
const MISSED_WAITS: u32 = 5;

/// One node's.
#[derive(Debug)]
pub(super) struct Hedging {
    silence: Duration,
    most_saved: u32,
    saved: u32,
    heard_at: BTreeMap<PeerId, Duration>,
    hedges: u64,
    /// Of these, where the peer asked first had fallen silent.
    after_silence: u64,
}

impl Hedging {
    pub(super) fn new(options: &NodeOptions) -> Self {
        let most_saved = options.hedge_burst * COST;
        Self {
            silence: options.wait_repeat * MISSED_WAITS,
            most_saved,
            saved: most_saved,
            heard_at: BTreeMap::new(),
            hedges: 0,
            after_silence: 0,
        }
    }

    pub(super) fn hears(&mut self, now: Duration, peer: PeerId) {
        self.heard_at.insert(peer, now);
    }

    /// A peer is asked for a chunk that these were asked for already.
    pub(super) fn asks(&mut self, now: Duration, peer: PeerId, asked: &BTreeSet<PeerId>) {
        let firsts: Vec<&PeerId> = asked.iter().filter(|other| **other != peer).collect();
        if !firsts.is_empty() {
            assert!(firsts.len() < 2, "three peers are asked for one chunk");
            self.hedges += 1;
            let heard_at = |peer: &PeerId| self.heard_at.get(peer).copied().unwrap_or_default();
            if firsts
                .iter()
                .all(|peer| heard_at(peer) + self.silence <= now)
            {
                self.after_silence += 1;
            } else {
                assert!(self.saved >= COST, "a hedge is beyond the budget");
                self.saved -= COST;
            }
        }
        self.saved = (self.saved + 1).min(self.most_saved);
    }

    /// At the end: each second request was counted for what it was.
    pub(super) fn close(&self, counters: &Counters) {
        assert_eq!(
            self.hedges, counters.hedges,
            "second requests are not all counted"
        );
        assert!(
            counters.silent <= self.after_silence,
            "a peer that spoke was taken for silent"
        );
    }
}
