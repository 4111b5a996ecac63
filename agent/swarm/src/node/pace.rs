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
    /// How long peers took over what they had.
    latencies: VecDeque<Duration>,
    /// How long it took from the question to the chunk, with all that the peer waited for itself.
    journeys: VecDeque<Duration>,
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
            journeys: VecDeque::new(),
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

    /// A peer took so long over a chunk that it had.
    pub(super) fn note(&mut self, latency: Duration) {
        remember(&mut self.latencies, latency);
    }

    /// A chunk came so long after it was asked for.
    pub(super) fn note_journey(&mut self, took: Duration) {
        remember(&mut self.journeys, took);
    }

    /// How long to wait for a chunk of which nothing is heard, where `least` is enough as long as chunks come fast: twice as long as they
    /// come after now, at most four times `least`. Links that are slow, or shared by many, make lines in which nothing moves for long.
    pub(super) fn patience(&self, least: Duration) -> Duration {
        let usual = median(&self.journeys).unwrap_or_default();
        (usual * 2).clamp(least, least * 4)
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
        median(&self.latencies)
    }
}

fn remember(samples: &mut VecDeque<Duration>, sample: Duration) {
    samples.push_back(sample);
    if samples.len() > SAMPLES {
        samples.pop_front();
    }
}

/// The median, where there are enough for it to mean anything.
fn median(samples: &VecDeque<Duration>) -> Option<Duration> {
    if samples.len() < ENOUGH {
        return None;
    }
    let mut sorted: Vec<Duration> = samples.iter().copied().collect();
    let middle = sorted.len() / 2;
    let (_, median, _) = sorted.select_nth_unstable(middle);
    Some(*median)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_grows_with_the_time_that_chunks_take_and_not_without_end() {
        // On links of 25 Mbit/s nodes gave up chunks that stood in a line, and read the registry twice over.
        let (least, ms) = (Duration::from_millis(500), Duration::from_millis);
        let mut pace = Pace::new(ms(50), ms(250), 8);
        pace.note_journey(ms(60_000));
        assert_eq!(pace.patience(least), least, "one says nothing");
        for (took, patience) in [(100, 500), (400, 800), (60_000, 2_000), (1, 500)] {
            for _ in 0..SAMPLES {
                pace.note_journey(ms(took));
            }
            assert_eq!(pace.patience(least), ms(patience));
        }
    }
}
