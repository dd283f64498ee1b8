//! How long to wait before something that failed is tried again.

use std::time::Duration;

use tokio::time::sleep;

/// `first`, doubled `times` times, and never longer than `longest`.
pub(super) fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(longest)
}

/// Pauses that double up to the longest.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    pub(super) const fn new(first: Duration, longest: Duration) -> Self {
        Self { next: first, longest }
    }

    /// For what reads the store on behalf of a lane or an attempt.
    pub(super) const fn for_reads() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_secs(1))
    }

    /// How long the next pause is.
    pub(super) const fn next(&self) -> Duration {
        self.next
    }

    /// Pauses. May be dropped.
    pub(super) async fn pause(&mut self) {
        let now = self.next;
        self.next = doubled(now, 1, self.longest);
        sleep(now).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let ms = Duration::from_millis;
        for (times, expected) in [(0, 200), (1, 400), (2, 800), (3, 1000), (u32::MAX, 1000)] {
            assert_eq!(doubled(ms(200), times, ms(1000)), ms(expected), "{times}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_pause_is_waited_out() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(30));
        let began = tokio::time::Instant::now();
        for _ in 0..4 {
            backoff.pause().await;
        }
        assert_eq!(began.elapsed(), Duration::from_millis(10 + 20 + 30 + 30));
    }
}
