//! Whether an endpoint may be called, judged by how its last attempts ended.
//!
//! The table is that of the classic circuit breaker (M. Nygard, "Release It!", ch. 5): failures in
//! a row open it, after a cool-down one probe goes out, and the probe decides.

use std::time::{Duration, Instant};

/// When a circuit opens and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitPolicy {
    /// Failed attempts in a row that open it; at least 1.
    pub failure_threshold: u32,
    /// The first cool-down; doubles with each failed probe.
    pub cool_down: Duration,
    /// The longest cool-down.
    pub cool_down_max: Duration,
}

/// Whether the endpoint may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// Yes; so many attempts failed since the last success.
    Closed {
        /// Failed attempts in a row.
        failures: u32,
    },
    /// Not before `until`, and then by one probe alone.
    Open {
        /// When the probe may go.
        until: Instant,
        /// How long this opening lasts.
        cool_down: Duration,
        /// Failed attempts in a row.
        failures: u32,
    },
    /// A probe is in flight.
    HalfOpen {
        /// How long the opening before it lasted.
        cool_down: Duration,
        /// Failed attempts in a row.
        failures: u32,
    },
}

impl Circuit {
    /// A circuit that nothing is known of.
    pub const NEW: Self = Self::Closed { failures: 0 };

    /// The circuit after one attempt ended at `now`. In [`HalfOpen`](Self::HalfOpen) that attempt
    /// is the probe; the outcomes of others are not told here.
    #[must_use]
    pub fn after(self, ok: bool, now: Instant, policy: &CircuitPolicy) -> Self {
        let open = |cool_down: Duration, failures| Self::Open { until: now + cool_down, cool_down, failures };
        match self {
            // In flight when the circuit opened, so it tells nothing new.
            Self::Open { .. } => self,
            Self::Closed { .. } | Self::HalfOpen { .. } if ok => Self::NEW,
            Self::Closed { failures } if failures.saturating_add(1) < policy.failure_threshold => {
                Self::Closed { failures: failures.saturating_add(1) }
            }
            Self::Closed { failures } => {
                open(policy.cool_down.min(policy.cool_down_max), failures.saturating_add(1))
            }
            Self::HalfOpen { cool_down, failures } => {
                let longer = cool_down.saturating_mul(2).min(policy.cool_down_max);
                open(longer, failures.saturating_add(1))
            }
        }
    }

    /// The circuit whose probe, if there was one, ended with the process that sent it: the next one
    /// may go `now`.
    #[must_use]
    pub const fn without_probe(self, now: Instant) -> Self {
        match self {
            Self::HalfOpen { cool_down, failures } => Self::Open { until: now, cool_down, failures },
            Self::Closed { .. } | Self::Open { .. } => self,
        }
    }

    /// Failed attempts in a row.
    #[must_use]
    pub const fn failures(self) -> u32 {
        match self {
            Self::Closed { failures } | Self::Open { failures, .. } | Self::HalfOpen { failures, .. } => {
                failures
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: CircuitPolicy = CircuitPolicy {
        failure_threshold: 2,
        cool_down: Duration::from_secs(30),
        cool_down_max: Duration::from_secs(50),
    };

    #[test]
    fn circuit_follows_outcomes() {
        let now = Instant::now();
        let secs = Duration::from_secs;
        let closed = |failures| Circuit::Closed { failures };
        let open = |s, failures| Circuit::Open { until: now + secs(s), cool_down: secs(s), failures };
        let half_open = |s, failures| Circuit::HalfOpen { cool_down: secs(s), failures };
        for (case, before, ok, after) in [
            ("below the threshold", closed(0), false, closed(1)),
            ("threshold opens", closed(1), false, open(30, 2)),
            ("one success forgets", closed(1), true, closed(0)),
            ("probe closes", half_open(30, 2), true, closed(0)),
            ("failed probe doubles", half_open(10, 2), false, open(20, 3)),
            ("doubling stops at max", half_open(30, 2), false, open(50, 3)),
            ("late success is ignored", open(30, 2), true, open(30, 2)),
            ("late failure is ignored", open(30, 2), false, open(30, 2)),
        ] {
            assert_eq!(before.after(ok, now, &POLICY), after, "{case}");
        }
    }
}
