//! How fast a client must take what it is sent, and send what is waited for.
//!
//! A time limit for each write or read alone is no bound: a byte now and then keeps it. So a transfer must keep to a
//! least rate, counted from its beginning, and may be behind it for a while.

use std::time::{Duration, Instant};

/// What is asked of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The least rate.
    pub bytes_per_second: u32,
    /// How far a transfer may be behind the least rate.
    pub grace: Duration,
    /// How long nothing at all may come or go.
    pub silence: Duration,
}

/// Bytes that go to or come from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    begun: Instant,
    progressed: Instant,
    bytes: u64,
}

impl Transfer {
    /// One that begins.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { begun: now, progressed: now, bytes: 0 }
    }

    /// So many bytes more went through.
    pub fn progress(&mut self, bytes: usize, now: Instant) {
        if bytes > 0 {
            self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
            self.progressed = now;
        }
    }

    /// It stood still for so long by our own doing.
    pub fn excuse(&mut self, waited: Duration) {
        self.begun += waited;
        self.progressed += waited;
    }

    /// Until when what went through keeps it to the least rate.
    #[must_use]
    pub fn on_pace_until(&self, pace: &Pace) -> Instant {
        // Beyond a day nobody asks.
        let seconds = (self.bytes / u64::from(pace.bytes_per_second.max(1))).min(86_400);
        self.begun + Duration::from_secs(seconds)
    }

    /// When it is given up, unless more goes through.
    #[must_use]
    pub fn deadline(&self, pace: &Pace) -> Instant {
        (self.on_pace_until(pace) + pace.grace).min(self.progressed + pace.silence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_keep_to_a_least_rate() {
        const PACE: Pace =
            Pace { bytes_per_second: 1000, grace: Duration::from_secs(30), silence: Duration::from_secs(20) };
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for (case, steps, given_up) in [
            ("nothing comes", &[][..], 20),
            ("a byte now and then", &[(10, 1), (20, 1), (29, 1)], 30),
            ("fast, then silent", &[(1, 60_000)], 21),
            ("above the rate, and on", &[(10, 20_000), (40, 20_000)], 60),
            ("below the rate, and on", &[(10, 5000), (25, 5000)], 40),
        ] {
            let mut transfer = Transfer::new(start);
            for &(second, bytes) in steps {
                transfer.progress(bytes, at(second));
            }
            assert_eq!(transfer.deadline(&PACE), at(given_up), "{case}");
        }
    }

    #[test]
    fn what_was_our_own_doing_does_not_count() {
        let pace =
            Pace { bytes_per_second: 1000, grace: Duration::from_secs(30), silence: Duration::from_secs(20) };
        let start = Instant::now();
        let mut transfer = Transfer::new(start);
        transfer.excuse(Duration::from_secs(5));
        assert_eq!(transfer.deadline(&pace), start + Duration::from_secs(25));
    }
}
