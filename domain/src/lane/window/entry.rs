//! One delivery of a window: what it is doing, and the line that it stands in.

use std::time::Instant;

use crate::delivery::OrderingKey;
use crate::id::{AttemptNumber, Sequence};
use crate::subscription::Ordering;

use super::super::{Queued, Ticket};

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) queued: Queued,
    pub(super) phase: Phase,
    /// Somebody ended it while it was in flight.
    pub(super) ended: bool,
}

/// What a delivery is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::lane) enum Phase {
    Idle,
    InFlight(Flight),
    Recording(Next),
}

/// What is special about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::lane) struct Flight {
    /// It decides over the circuit.
    pub(in crate::lane) probe: bool,
    /// It went to a target that is no longer the subscription's.
    pub(in crate::lane) stale: bool,
}

/// What follows when an outcome is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::lane) enum Next {
    Done,
    Due(Instant),
}

/// A delivery whose request is in flight.
pub(in crate::lane) struct Flying {
    pub(in crate::lane) ticket: Ticket,
    pub(in crate::lane) attempt: AttemptNumber,
    /// Retries used up before this attempt ended.
    pub(in crate::lane) retries: u32,
    pub(in crate::lane) retry_base: u32,
    pub(in crate::lane) flight: Flight,
    pub(in crate::lane) ended: bool,
}

/// Deliveries that wait for each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Line {
    Whole,
    Key(OrderingKey),
    Alone(Sequence),
}

impl Line {
    /// The line of a delivery.
    pub(super) fn of(ordering: Ordering, queued: &Queued) -> Self {
        match (ordering, &queued.key) {
            (Ordering::Strict, _) => Self::Whole,
            (Ordering::Key, Some(key)) => Self::Key(key.clone()),
            (Ordering::Key, None) | (Ordering::None, _) => Self::Alone(queued.ticket.sequence),
        }
    }
}
