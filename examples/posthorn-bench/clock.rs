//! One monotonic clock for sender and receiver, which share a process.

use std::time::{Duration, Instant};

/// Counts from the start of the run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// Starts it.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the start; good for 584 years.
    pub(crate) fn nanos(self) -> u64 {
        nanos(self.0.elapsed())
    }

    /// Nanoseconds from the start to `instant`; zero where it lies before.
    pub(crate) fn nanos_at(self, instant: Instant) -> u64 {
        nanos(instant.saturating_duration_since(self.0))
    }
}

/// A duration as nanoseconds.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
