//! Why an unfinished delivery is not being sent right now: the operator's answer, from what the store
//! and its lane know.
//!
//! Several things may hold a delivery at once. Said is the one that ends last: a person's wish before order, order
//! before times, and of times the latest. So what is said is also what somebody would have to change.
//!
//! It is exact however deep in a backlog the delivery stands, and reads no more than its own row, its
//! subscription's and the row of the one before it: what lies beyond the lane's window waits for what
//! the window waits for.

use std::time::Instant;

use crate::delivery::{DeliveryStatus, WaitingFor, WaitingReason};
use crate::id::Sequence;
use crate::lane::{Held, Hold};
use crate::subscription::SubscriptionStatus;
use crate::time::Timestamp;

/// What is known of a delivery and of what it waits for.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Where the delivery stands.
    pub status: DeliveryStatus,
    /// When it is tried again.
    pub due: Option<Timestamp>,
    /// Whether its subscription is sent to.
    pub standing: SubscriptionStatus,
    /// The unfinished delivery that stands before it in its line.
    pub earlier: Option<Sequence>,
    /// The circuit as stored.
    pub circuit: StoredCircuit,
    /// What its lane says; none where it has none or is about to send.
    pub held: Option<Held>,
    /// Whether a node may send for its slot.
    pub has_owner: bool,
}

/// The circuit as stored: what holds a lane that nobody has in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredCircuit {
    /// It is closed.
    Closed,
    /// It is not; a probe may go then, where that is known.
    Open(Option<Timestamp>),
}

impl Facts {
    /// Whether it can matter what stands before the delivery, so that its line need be looked at.
    #[must_use]
    pub fn depend_on_its_line(&self) -> bool {
        !self.status.is_finished()
            && self.held != Some(Held::InFlight)
            && self.standing == SubscriptionStatus::Active
    }

    /// Why the delivery is not being sent at `now`; none where it is finished. `wall` tells the
    /// wall-clock time of the lane's instants.
    #[must_use]
    pub fn explain(&self, now: Timestamp, wall: impl Fn(Instant) -> Timestamp) -> Option<WaitingFor> {
        if self.status.is_finished() {
            return None;
        }
        let because = WaitingFor::reason;
        Some(match (self.held, self.standing) {
            (Some(Held::InFlight), _) => because(WaitingReason::InFlight),
            (_, SubscriptionStatus::Disabled) => because(WaitingReason::Disabled),
            (_, SubscriptionStatus::Paused) => because(WaitingReason::Paused),
            (_, SubscriptionStatus::Active) if self.earlier.is_some() => {
                WaitingFor { reason: WaitingReason::EarlierDelivery, until: None, sequence: self.earlier }
            }
            (held, SubscriptionStatus::Active) => {
                let of_the_lane = self.of_the_lane(held, now, wall);
                match self.due.filter(|due| *due > now) {
                    Some(due) if of_the_lane.until.is_none_or(|until| until < due) => {
                        WaitingFor::until(WaitingReason::Retry, due)
                    }
                    _ => of_the_lane,
                }
            }
        })
    }

    /// What holds the lane's next, and so all behind it. The lane knows better than the store: its
    /// outcomes are on their way there, and it may hold the probe whose time has come. Of one and the
    /// same circuit the store's time is said, as the subscription shows it.
    fn of_the_lane(
        &self,
        held: Option<Held>,
        now: Timestamp,
        wall: impl Fn(Instant) -> Timestamp,
    ) -> WaitingFor {
        let open = |until| WaitingFor { reason: WaitingReason::CircuitOpen, until, sequence: None };
        let stored = match self.circuit {
            StoredCircuit::Open(until) => until.filter(|until| *until > now),
            StoredCircuit::Closed => None,
        };
        match (held, self.circuit) {
            _ if !self.has_owner => WaitingFor::reason(WaitingReason::NoOwner),
            (Some(Held::Circuit(Some(until))), _) => open(stored.or_else(|| Some(wall(until)))),
            (Some(Held::Circuit(None)), _) => open(None),
            (Some(Held::Gate(Hold::Rate(at))), _) => WaitingFor::until(WaitingReason::RateLimit, wall(at)),
            (Some(Held::Gate(Hold::TenantRate(at))), _) => {
                WaitingFor::until(WaitingReason::TenantRateLimit, wall(at))
            }
            (None, StoredCircuit::Open(_)) => open(stored),
            (
                Some(
                    Held::Limit | Held::Gate(Hold::Capacity | Hold::Crowd | Hold::Lease(_)) | Held::InFlight,
                ),
                _,
            )
            | (None, StoredCircuit::Closed) => WaitingFor::reason(WaitingReason::Capacity),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);
    const LATER: Timestamp = Timestamp::from_millis(1_005_000);
    const MINUTE: Duration = Duration::from_mins(1);
    const PAST: Timestamp = Timestamp::from_millis(999_000);

    const FREE: Facts = Facts {
        status: DeliveryStatus::Pending,
        due: None,
        standing: SubscriptionStatus::Active,
        earlier: None,
        circuit: StoredCircuit::Closed,
        held: None,
        has_owner: true,
    };

    fn explained(facts: Facts) -> Option<WaitingFor> {
        let began = Instant::now();
        let wall = move |at: Instant| {
            let ahead = at.saturating_duration_since(began).as_millis();
            Timestamp::from_millis(1_000_000 + i64::try_from(ahead.next_multiple_of(1000)).unwrap())
        };
        facts.explain(NOW, wall)
    }

    #[test]
    fn each_reason_has_its_facts() {
        let at = Instant::now() + Duration::from_secs(5);
        let until = |reason| WaitingFor::until(reason, LATER);
        let because = WaitingFor::reason;
        let held = |held| Facts { held: Some(held), ..FREE };
        let open = |until| Facts { circuit: StoredCircuit::Open(until), ..FREE };
        for (case, facts, expected) in [
            ("nothing is known", FREE, because(WaitingReason::Capacity)),
            ("its request is in flight", held(Held::InFlight), because(WaitingReason::InFlight)),
            (
                "paused",
                Facts { standing: SubscriptionStatus::Paused, ..FREE },
                because(WaitingReason::Paused),
            ),
            (
                "disabled",
                Facts { standing: SubscriptionStatus::Disabled, ..FREE },
                because(WaitingReason::Disabled),
            ),
            ("a retry ahead", Facts { due: Some(LATER), ..FREE }, until(WaitingReason::Retry)),
            (
                "a retry whose time has come",
                Facts { due: Some(PAST), ..FREE },
                because(WaitingReason::Capacity),
            ),
            ("the lane's circuit", held(Held::Circuit(Some(at))), until(WaitingReason::CircuitOpen)),
            (
                "a circuit that just opened again",
                Facts { circuit: StoredCircuit::Open(Some(PAST)), ..held(Held::Circuit(Some(at))) },
                until(WaitingReason::CircuitOpen),
            ),
            (
                "a circuit that lane and store know",
                Facts { circuit: StoredCircuit::Open(Some(LATER)), ..held(Held::Circuit(Some(at + MINUTE))) },
                until(WaitingReason::CircuitOpen),
            ),
            ("a probe in flight", held(Held::Circuit(None)), because(WaitingReason::CircuitOpen)),
            ("the circuit of a lane at rest", open(Some(LATER)), until(WaitingReason::CircuitOpen)),
            ("a probe that is due", open(Some(PAST)), because(WaitingReason::CircuitOpen)),
            (
                "a probe that the rate holds",
                Facts { circuit: StoredCircuit::Open(Some(PAST)), ..held(Held::Gate(Hold::Rate(at))) },
                until(WaitingReason::RateLimit),
            ),
            ("its rate", held(Held::Gate(Hold::Rate(at))), until(WaitingReason::RateLimit)),
            ("its tenant's", held(Held::Gate(Hold::TenantRate(at))), until(WaitingReason::TenantRateLimit)),
            (
                "nobody to send it",
                Facts { has_owner: false, circuit: StoredCircuit::Open(Some(LATER)), ..FREE },
                because(WaitingReason::NoOwner),
            ),
            ("the node", held(Held::Gate(Hold::Capacity)), because(WaitingReason::Capacity)),
            ("many who wait", held(Held::Gate(Hold::Crowd)), because(WaitingReason::Capacity)),
            ("the lane's own limit", held(Held::Limit), because(WaitingReason::Capacity)),
        ] {
            assert_eq!(explained(facts), Some(expected), "{case}");
        }
        for status in [DeliveryStatus::Success, DeliveryStatus::Failed] {
            assert_eq!(explained(Facts { status, held: Some(Held::InFlight), ..FREE }), None);
        }
    }

    #[test]
    fn of_times_the_latest_is_said() {
        let at = |seconds: u32| Timestamp::from_millis(1_000_000 + 1000 * i64::from(seconds));
        let began = Instant::now();
        let ahead = |seconds: u32| began + Duration::from_secs(seconds.into());
        let retry = |seconds| Facts { due: Some(at(seconds)), ..FREE };
        for (facts, reason, seconds) in [
            (Facts { circuit: StoredCircuit::Open(Some(at(9))), ..retry(5) }, "circuit_open", 9),
            (Facts { circuit: StoredCircuit::Open(Some(at(5))), ..retry(9) }, "retry", 9),
            (Facts { held: Some(Held::Circuit(Some(ahead(9)))), ..retry(5) }, "circuit_open", 9),
            (Facts { held: Some(Held::Circuit(None)), ..retry(5) }, "retry", 5),
            (Facts { held: Some(Held::Gate(Hold::Rate(ahead(9)))), ..retry(5) }, "rate_limit", 9),
            (Facts { held: Some(Held::Gate(Hold::TenantRate(ahead(5)))), ..retry(9) }, "retry", 9),
            (Facts { held: Some(Held::Gate(Hold::Capacity)), ..retry(5) }, "retry", 5),
        ] {
            let said = explained(facts).unwrap();
            assert_eq!((said.reason.as_str(), said.until), (reason, Some(at(seconds))), "{facts:?}");
        }
    }

    /// Everything holds it; as each thing goes, the next is said.
    #[test]
    fn what_somebody_would_have_to_change_comes_first() {
        let at = Instant::now() + Duration::from_secs(5);
        let mut facts = Facts {
            status: DeliveryStatus::FailedAttempt,
            due: Some(LATER),
            standing: SubscriptionStatus::Paused,
            earlier: Some(Sequence(7)),
            circuit: StoredCircuit::Open(Some(LATER)),
            held: Some(Held::InFlight),
            has_owner: true,
        };
        let mut said = |change: fn(&mut Facts, Instant)| {
            change(&mut facts, at);
            let without = explained(Facts { earlier: None, ..facts });
            assert_eq!(explained(facts) != without, facts.depend_on_its_line() && facts.earlier.is_some());
            explained(facts).map(|waiting| waiting.reason.as_str())
        };
        assert_eq!(said(|_, _| ()), Some("in_flight"));
        assert_eq!(said(|facts, _| facts.held = None), Some("paused"));
        assert_eq!(said(|facts, _| facts.standing = SubscriptionStatus::Active), Some("earlier_delivery"));
        assert_eq!(said(|facts, _| facts.earlier = None), Some("circuit_open"));
        assert_eq!(said(|facts, _| facts.due = None), Some("circuit_open"));
        assert_eq!(said(|facts, at| facts.held = Some(Held::Gate(Hold::Rate(at)))), Some("rate_limit"));
        assert_eq!(said(|facts, _| facts.held = Some(Held::Limit)), Some("capacity"));
    }
}
