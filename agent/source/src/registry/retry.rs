//! Trying again: only what may be repeated, only for as long as was agreed, and not all at the same moment.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use super::error::RegistryFailure;
use crate::verdict::Verdict;

/// The longest pause between two tries that we choose ourselves.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The pauses between the tries of one request.
#[derive(Debug)]
pub(super) struct Retry {
    first_pause: Duration,
    pause: Duration,
    allowed: Duration,
    ends_at: Option<Instant>,
}

impl Retry {
    /// Tries for `allowed`, first again after about `first_pause`.
    pub(super) fn new(first_pause: Duration, allowed: Duration) -> Self {
        Self {
            first_pause,
            pause: first_pause,
            allowed,
            ends_at: Instant::now().checked_add(allowed),
        }
    }

    /// Something was achieved: time and pauses begin anew.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.first_pause, self.allowed);
    }

    /// Sleeps until the next try, or gives the failure back if there is no use in one or no time left.
    pub(super) async fn pause(&mut self, failure: RegistryFailure) -> Result<(), RegistryFailure> {
        let Some(asked_for) = worth_retrying(&failure) else {
            return Err(failure);
        };
        let pause = asked_for.max(jittered(self.pause));
        let next_at = Instant::now().checked_add(pause);
        let in_time = match (next_at, self.ends_at) {
            (Some(next_at), Some(ends_at)) => next_at < ends_at,
            (next_at, None) => next_at.is_some(),
            (None, Some(_)) => false,
        };
        if !in_time {
            return Err(failure);
        }
        tracing::debug!(?pause, error = %failure, "registry request failed, trying again");
        self.pause = self.pause.saturating_mul(2).min(PAUSE_MAX);
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// The pause that the other side asks for, if a second try can help at all.
fn worth_retrying(failure: &RegistryFailure) -> Option<Duration> {
    match failure {
        RegistryFailure::TooManyRequests { retry_after, .. }
        | RegistryFailure::Server { retry_after, .. } => Some(retry_after.unwrap_or_default()),
        RegistryFailure::Token(error) => worth_retrying(&error.failure),
        other => match other.verdict() {
            Verdict::TryAgain { .. } => Some(Duration::ZERO),
            Verdict::TryElsewhere | Verdict::Ban | Verdict::GiveUp => None,
        },
    }
}

/// Between half of `pause` and all of it, so that nodes that failed together do not come back together.
fn jittered(pause: Duration) -> Duration {
    // A fresh `RandomState` hashes differently each time: randomness enough for spreading.
    let random = RandomState::new().hash_one(()) >> 32;
    #[expect(
        clippy::cast_precision_loss,
        reason = "32 bits are exact in a 64-bit float"
    )]
    let share = random as f64 / f64::from(u32::MAX);
    pause.mul_f64(0.5 + share.min(1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::error::Detail;

    fn server(retry_after: Option<u64>) -> RegistryFailure {
        RegistryFailure::Server {
            status: 503,
            retry_after: retry_after.map(Duration::from_secs),
            detail: Detail::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_double_until_the_time_is_over() {
        let mut retry = Retry::new(Duration::from_secs(1), Duration::from_secs(20));
        let start = Instant::now();
        let mut pauses = Vec::new();
        loop {
            let before = Instant::now();
            if retry.pause(server(None)).await.is_err() {
                break;
            }
            pauses.push(before.elapsed());
        }
        assert!(start.elapsed() < Duration::from_secs(20));
        assert!(pauses.len() >= 4, "{pauses:?}");
        for (pause, limit) in pauses.iter().zip([1, 2, 4, 5, 5, 5, 5, 5, 5]) {
            let limit = Duration::from_secs(limit);
            // Timers have a grain of a millisecond.
            assert!(
                *pause >= limit / 2 && *pause <= limit + Duration::from_millis(2),
                "{pauses:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_was_asked_for_is_kept_or_ends_it() {
        let mut retry = Retry::new(Duration::from_millis(1), Duration::from_secs(10));
        let start = Instant::now();
        retry.pause(server(Some(3))).await.unwrap();
        assert!(start.elapsed() >= Duration::from_secs(3));
        assert!(retry.pause(server(Some(8))).await.is_err());
        retry.reset();
        retry.pause(server(Some(8))).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_get_better_is_not_tried_again() {
        let mut retry = Retry::new(Duration::from_secs(1), Duration::from_secs(10));
        let start = Instant::now();
        for failure in [
            RegistryFailure::NotFound(Detail::default()),
            RegistryFailure::Denied(Detail::default()),
            RegistryFailure::RangeIgnored,
            RegistryFailure::LongBody { limit: 1 },
        ] {
            assert!(retry.pause(failure).await.is_err());
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
