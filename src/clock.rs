//! The wall clock, made once and handed to whoever writes times down.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use posthorn_domain::time::Timestamp;

/// Tells the time; cheap to copy.
#[derive(Clone, Copy, Debug)]
pub struct Clock(());

impl Clock {
    /// The system's clock.
    #[must_use]
    pub const fn system() -> Self {
        Self(())
    }

    /// The time now.
    #[must_use]
    pub fn now(self) -> Timestamp {
        DateTime::<Utc>::from(std::time::SystemTime::now()).into()
    }

    /// What the wall clock will say at `instant`; what has passed counts as now.
    #[must_use]
    pub fn timestamp(self, instant: Instant) -> Timestamp {
        self.now().plus(instant.saturating_duration_since(Instant::now()))
    }

    /// When the wall clock will say `time`, at most `longest` from now; what has passed counts as
    /// now. The bound keeps a clock that was set back from holding a delivery for ever.
    #[must_use]
    pub fn instant(self, time: Timestamp, longest: Duration) -> Instant {
        Instant::now() + time.since(self.now()).min(longest)
    }
}
