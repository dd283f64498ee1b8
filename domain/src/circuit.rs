//! Whether an endpoint may be called, judged by how its last attempts ended.
//!
//! The table is that of the classic circuit breaker (M. Nygard, "Release It!", ch. 5): failures in
//! a row open it, after a cool-down one probe goes out, and the probe decides.
//!
//! Circuits that opened together, because a host that many subscriptions share went away, must not
//! all probe in one instant when it comes back. So a probe goes up to a tenth of the cool-down later
//! than the cool-down says, and never earlier; the doubling works on the cool-down itself.

use std::time::{Duration, Instant};

use crate::retry::Jitter;
use crate::time::Timestamp;

/// Whether a circuit lets requests through, as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CircuitState {
    /// It does.
    Closed,
    /// Not before a certain time.
    Open,
    /// A probe is on its way.
    HalfOpen,
}

impl CircuitState {
    /// The word of the contract.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// A circuit as clients see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitView {
    /// Whether requests go through.
    pub state: CircuitState,
    /// Failed attempts in a row.
    pub consecutive_failures: u32,
    /// When the next probe may go.
    pub retry_at: Option<Timestamp>,
}

impl CircuitView {
    /// Whether requests go through at `now`: once its time has come, an open circuit lets a probe
    /// through.
    pub fn state_at(&self, now: Timestamp) -> CircuitState {
        match self.state {
            CircuitState::Open if self.retry_at.is_some_and(|at| at <= now) => CircuitState::HalfOpen,
            state => state,
        }
    }
}

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
        /// When the probe may go: at the end of the cool-down or, by the jitter, a little after.
        until: Instant,
        /// How long this opening lasts at least.
        cool_down: Duration,
        /// Failed attempts in a row.
        failures: u32,
    },
    /// A probe is in flight.
    HalfOpen {
        /// How long the opening before it lasted at least.
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
    pub fn after(self, ok: bool, now: Instant, policy: &CircuitPolicy, jitter: Jitter) -> Self {
        let open = |cool_down: Duration, failures| {
            let until = now + jitter.lengthen(cool_down);
            Self::Open { until, cool_down, failures }
        };
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

    /// The longest that an opening with this cool-down lasts, its jitter included.
    #[must_use]
    pub fn open_max(cool_down: Duration) -> Duration {
        Jitter::from_thousandths(1000).lengthen(cool_down)
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
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const POLICY: CircuitPolicy = CircuitPolicy {
        failure_threshold: 2,
        cool_down: Duration::from_secs(30),
        cool_down_max: Duration::from_secs(50),
    };

    const BREAKS_AT_ONCE: CircuitPolicy = CircuitPolicy { failure_threshold: 1, ..POLICY };

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
            assert_eq!(before.after(ok, now, &POLICY, Jitter::default()), after, "{case}");
        }
    }

    #[test]
    fn circuits_that_opened_together_probe_apart() {
        let now = Instant::now();
        let times = (-1000..=1000).map(|draw| {
            let opened = Circuit::NEW.after(false, now, &BREAKS_AT_ONCE, Jitter::from_thousandths(draw));
            let Circuit::Open { until, .. } = opened else { panic!("{opened:?}") };
            until
        });
        let times: BTreeSet<_> = times.collect();
        assert_eq!(times.len(), 1001, "each size of a draw has its own instant");
        assert_eq!(times.first(), Some(&(now + Duration::from_secs(30))));
        assert_eq!(times.last(), Some(&(now + Duration::from_secs(33))));
    }

    proptest! {
        /// However often the probe fails, it is put off by the cool-down and at most a tenth of it,
        /// and the cool-down doubles as if there were no jitter.
        #[test]
        fn a_probe_is_never_early_and_little_late(
            draws in prop::collection::vec(any::<i16>(), 1..8),
            (cool_down_ms, cool_down_max_ms) in (1_u64..100_000, 1_u64..1_000_000),
        ) {
            let (mut now, mut circuit) = (Instant::now(), Circuit::NEW);
            let (cool_down, cool_down_max) =
                (Duration::from_millis(cool_down_ms), Duration::from_millis(cool_down_max_ms));
            let policy = CircuitPolicy { failure_threshold: 1, cool_down, cool_down_max };
            let mut plain = cool_down.min(cool_down_max);
            for draw in draws {
                circuit = circuit.after(false, now, &policy, Jitter::from_thousandths(draw));
                let Circuit::Open { until, cool_down, failures } = circuit else {
                    panic!("{circuit:?}")
                };
                prop_assert_eq!(cool_down, plain);
                prop_assert!(until >= now + plain && until <= now + plain.mul_f64(1.1));
                prop_assert!(until <= now + Circuit::open_max(cool_down));
                plain = (plain * 2).min(cool_down_max);
                (now, circuit) = (until, Circuit::HalfOpen { cool_down, failures });
            }
        }
    }
}
