//! When a failed delivery is tried again.

use std::time::Duration;

use crate::limits::RETRY_DELAY_MAX;

/// How often and how soon a delivery is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Retries after the first attempt.
    pub max_retries: u32,
    /// Before the first retry; doubles with each further one.
    pub delay: Duration,
    /// No retry waits longer than this, but for what the endpoint itself asks.
    pub delay_max: Duration,
}

/// A share from -1 to 1 of the jitter's width, drawn by whoever has randomness.
///
/// Kept as thousandths, so that equal draws compare equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Jitter(i16);

impl Jitter {
    /// The jitter's width: ±20 % (`api.md`, "What the receiver gets").
    pub const WIDTH_PERCENT: u32 = 20;
    /// How far [`lengthen`](Self::lengthen) puts off at most: enough to spread what was to come at
    /// one instant, and little against the wait itself.
    pub const LENGTHENED_PERCENT_MAX: u32 = 10;

    /// From thousandths of the width; what lies outside -1000 to 1000 counts as the nearer end.
    #[must_use]
    pub fn from_thousandths(thousandths: i16) -> Self {
        Self(thousandths.clamp(-1000, 1000))
    }

    /// `delay`, put off by at most [`LENGTHENED_PERCENT_MAX`](Self::LENGTHENED_PERCENT_MAX) and never
    /// brought forward: for what must not come early. The draw's size counts, not its sign, so that
    /// no draw moves more than another of the same size, and none moves nothing.
    #[must_use]
    pub fn lengthen(self, delay: Duration) -> Duration {
        let share = u32::from(self.0.unsigned_abs()) * Self::LENGTHENED_PERCENT_MAX;
        delay.saturating_add(delay.saturating_mul(share) / 100_000)
    }

    fn apply(self, delay: Duration) -> Duration {
        // At most 24 h in milliseconds times 1.2 million: far below the end of u128.
        let parts = 100_000_i64 + i64::from(self.0) * i64::from(Self::WIDTH_PERCENT);
        let scaled = delay.as_micros() * u128::try_from(parts).unwrap_or(0) / 100_000;
        Duration::from_micros(u64::try_from(scaled).unwrap_or(u64::MAX))
    }
}

impl RetryPolicy {
    /// How long to wait before retry `retry` (1, 2, …):
    /// `min(delay · 2^(retry-1), delay_max)` ± 20 %, or `retry_after` where that is longer,
    /// up to 24 h.
    #[must_use]
    pub fn delay_before(&self, retry: u32, jitter: Jitter, retry_after: Option<Duration>) -> Duration {
        let doublings = retry.saturating_sub(1).min(31);
        let backoff = self.delay.saturating_mul(1 << doublings).min(self.delay_max).min(RETRY_DELAY_MAX);
        let asked = retry_after.unwrap_or(Duration::ZERO).min(RETRY_DELAY_MAX);
        jitter.apply(backoff).max(asked)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: RetryPolicy =
        RetryPolicy { max_retries: 5, delay: Duration::from_secs(10), delay_max: Duration::from_mins(15) };

    #[test]
    fn delays_double_up_to_the_maximum() {
        for (retry, seconds) in [(0, 10), (1, 10), (2, 20), (3, 40), (7, 640), (8, 900), (99, 900)] {
            let delay = POLICY.delay_before(retry, Jitter::default(), None);
            assert_eq!(delay, Duration::from_secs(seconds), "retry {retry}");
        }
    }

    #[test]
    fn the_endpoint_may_ask_for_more_but_not_for_less() {
        let hour = Duration::from_hours(1);
        for (asked, expected) in [
            (Duration::ZERO, Duration::from_secs(10)),
            (Duration::from_secs(3), Duration::from_secs(10)),
            (hour, hour),
            (hour * 48, RETRY_DELAY_MAX),
        ] {
            assert_eq!(POLICY.delay_before(1, Jitter::default(), Some(asked)), expected, "{asked:?}");
        }
    }

    proptest! {
        #[test]
        fn jitter_stays_within_a_fifth(retry in 0_u32..200, thousandths in any::<i16>()) {
            let plain = POLICY.delay_before(retry, Jitter::default(), None);
            let delay = POLICY.delay_before(retry, Jitter::from_thousandths(thousandths), None);
            prop_assert!(delay >= plain.mul_f64(0.8) && delay <= plain.mul_f64(1.2));
        }
    }
}
