//! How long an answer usually takes, and how many requests may be made twice.
//!
//! A hedge that fires too early, or without a budget, melts a swarm that is merely busy.

use std::collections::VecDeque;
use std::time::Duration;

/// Latencies remembered.
const SAMPLES: usize = 64;
/// Latencies needed before their median means anything.
const ENOUGH: usize = 8;
/// A chunk that takes longer is late however slow all are.
const LONGEST: Duration = Duration::from_secs(2);
/// A hedge costs as much as ten requests earn.
const HEDGE_COST: u32 = 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Pace {
    latencies: VecDeque<Duration>,
    credit: u32,
    max_credit: u32,
    min: Duration,
    max: Duration,
}

impl Pace {
    pub(super) fn new(min: Duration, max: Duration, burst: u32) -> Self {
        let max_credit = burst.saturating_mul(HEDGE_COST);
        Self {
            latencies: VecDeque::new(),
            credit: max_credit,
            max_credit,
            min,
            max,
        }
    }

    /// A request was sent.
    pub(super) fn earn(&mut self) {
        self.credit = (self.credit + 1).min(self.max_credit);
    }

    pub(super) const fn may_hedge(&self) -> bool {
        self.credit >= HEDGE_COST
    }

    pub(super) fn spend_hedge(&mut self) {
        self.credit = self.credit.saturating_sub(HEDGE_COST);
    }

    /// An answer took so long.
    pub(super) fn note(&mut self, latency: Duration) {
        self.latencies.push_back(latency);
        if self.latencies.len() > SAMPLES {
            self.latencies.pop_front();
        }
    }

    /// How long a request may be silent before it is hedged: three times the usual, within bounds.
    pub(super) fn hedge_delay(&self) -> Duration {
        let usual = self.usual().unwrap_or(self.max);
        (usual * 3).clamp(self.min, self.max)
    }

    /// How long a peer may take over a chunk that it has: four times the usual.
    pub(super) fn slow_delay(&self) -> Duration {
        let usual = self.usual().unwrap_or(self.max);
        (usual * 4).clamp(self.max, LONGEST)
    }

    fn usual(&self) -> Option<Duration> {
        if self.latencies.len() < ENOUGH {
            return None;
        }
        let mut sorted: Vec<Duration> = self.latencies.iter().copied().collect();
        let middle = sorted.len() / 2;
        let (_, median, _) = sorted.select_nth_unstable(middle);
        Some(*median)
    }
}
