//! The words between a lane and the shell around it: what the lane is built from, what it is told,
//! what it wants, and what holds it. They decide nothing.

use std::time::{Duration, Instant};

use crate::circuit::{Circuit, CircuitPolicy};
use crate::concurrency::InFlight;
use crate::delivery::{AttemptOutcome, OrderingKey};
use crate::id::{AttemptNumber, DeliveryId, EventId, Sequence};
use crate::limits::{LANE_FIRST_PAGE, LANE_KEY_DEPTH_MAX, LANE_WAITING_MAX, LANE_WINDOW};
use crate::places::Claim;
use crate::retry::{Jitter, RetryPolicy};
use crate::subscription::{Defaults, OnExhausted, Ordering, StatusReason, SubscriptionConfig};

/// The rules in force for one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Which deliveries wait for which.
    pub ordering: Ordering,
    /// How many deliveries may be in flight at once; one for `strict`.
    pub in_flight: InFlight,
    /// When a failed delivery is tried again.
    pub retry: RetryPolicy,
    /// What becomes of the lane when a delivery has used up its retries.
    pub on_exhausted: OnExhausted,
    /// When the circuit opens.
    pub circuit: CircuitPolicy,
    /// Failing this long without one success disables the subscription; none: never.
    pub disable_after: Option<Duration>,
}

impl Policy {
    /// The rules for a subscription configured so.
    #[must_use]
    pub fn of(config: &SubscriptionConfig, defaults: &Defaults) -> Self {
        Self {
            ordering: config.ordering,
            in_flight: config.in_flight(defaults),
            retry: config.retry_policy(defaults),
            on_exhausted: config.retry.on_exhausted.unwrap_or(OnExhausted::Continue),
            circuit: defaults.circuit,
            disable_after: defaults.disable_after,
        }
    }
}

/// What a request needs to know of its delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The delivery.
    pub id: DeliveryId,
    /// Whose payload it carries.
    pub event_id: EventId,
    /// The delivery that it repeats.
    pub replay_of: Option<DeliveryId>,
    /// Its number.
    pub sequence: Sequence,
}

/// An unfinished delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// The delivery.
    pub ticket: Ticket,
    /// See [`OrderingKey`].
    pub key: Option<OrderingKey>,
    /// Attempts in the log.
    pub attempt_count: u32,
    /// Attempts of these that count as retries no more.
    pub retry_base: u32,
    /// Not to be tried before.
    pub due: Option<Instant>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The endpoint took the delivery.
    Success,
    /// It did not.
    Failure {
        /// How long it asks to wait.
        retry_after: Option<Duration>,
        /// It says that there is nothing any more (410).
        gone: bool,
        /// It has too much to do: it let time run out, or answered 429 or 503.
        overloaded: bool,
        /// Its answer is one after which the subscription gives up.
        given_up: bool,
    },
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A delivery was accepted and committed.
    Accepted(Queued),
    /// Deliveries up to this number are accepted and committed, by whomever; said where no
    /// [`Accepted`](Self::Accepted) may have come for them.
    Stored {
        /// The highest number that a delivery has got.
        last: Sequence,
    },
    /// The answer to the [`Load`] under way: the unfinished deliveries asked for, in their order,
    /// read after it was asked.
    Loaded(Vec<Queued>),
    /// A request ended.
    Finished {
        /// Of which delivery.
        sequence: Sequence,
        /// How.
        verdict: Verdict,
        /// How long it took.
        took: Duration,
        /// A fresh draw; it moves the retry, and the probe where the circuit opens.
        jitter: Jitter,
    },
    /// A request that was about to go was not made after all; nothing is counted.
    Withdrawn {
        /// Of which delivery.
        sequence: Sequence,
    },
    /// The outcome of a request is committed.
    Recorded {
        /// Of which delivery.
        sequence: Sequence,
    },
    /// Somebody ended a delivery; that is committed.
    Skipped {
        /// Which.
        sequence: Sequence,
    },
    /// A person wants a delivery tried now.
    RetryNow {
        /// Which.
        sequence: Sequence,
    },
    /// The subscription was changed; that is committed.
    Changed(Change),
    /// The subscription was deleted: nothing starts any more.
    Closed,
    /// Time has passed, or a place in flight is free again.
    Tick,
}

/// What of a change concerns the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The rules from now on.
    pub policy: Policy,
    /// Whether anything may be sent.
    pub active: bool,
    /// The circuit starts anew and waiting retries are due now: another target, or enabled again.
    pub fresh_start: bool,
    /// Deliveries that failed get a fresh set of retries.
    pub retries_forgiven: bool,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this delivery, and say [`Event::Finished`] when the request ended.
    Start {
        /// Which delivery.
        ticket: Ticket,
        /// Which of its attempts this is.
        attempt: AttemptNumber,
    },
    /// Write this down, and say [`Event::Recorded`] when it is committed.
    Record(Record),
    /// Read deliveries from the store, and say [`Event::Loaded`].
    Load(Load),
}

/// What an attempt meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The delivery.
    pub ticket: Ticket,
    /// Which of its attempts.
    pub attempt: AttemptNumber,
    /// Attempts before it that count as retries no more.
    pub retry_base: u32,
    /// What it meant for the delivery.
    pub outcome: AttemptOutcome,
    /// When the delivery is due again; set exactly where it goes on.
    pub due: Option<Instant>,
    /// The lane's health, where it changed.
    pub health: Option<Health>,
    /// What becomes of the subscription, where anything does.
    pub standing: Option<Standing>,
}

/// What becomes of a subscription by its own doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is paused.
    Paused(StatusReason),
    /// It is disabled.
    Disabled(StatusReason),
}

/// What is remembered of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether it may be called.
    pub circuit: Circuit,
    /// The first failure since the last success.
    pub failing_since: Option<Instant>,
}

impl Health {
    /// Of an endpoint that nothing is known of.
    pub const NEW: Self = Self { circuit: Circuit::NEW, failing_since: None };
}

/// Which deliveries to read: the unfinished ones numbered above `after`, at most `limit`, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// Numbered above this.
    pub after: Sequence,
    /// Which of them.
    pub scope: Scope,
    /// At most so many.
    pub limit: usize,
}

/// Which of a lane's deliveries to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All, but for those with one of these keys.
    Without(Vec<OrderingKey>),
    /// Those with this key, up to this number.
    Key(OrderingKey, Sequence),
}

/// Why the gate lets nothing through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// No place in flight is free; a [`Event::Tick`] comes when one is.
    Capacity,
    /// So many wait for a place that this lane is to wait outside of memory. Nothing is told.
    Crowd,
    /// This node may hold its slots no longer; to be looked at again then.
    Lease(Instant),
    /// The subscription's rate allows the next request at this time.
    Rate(Instant),
    /// The tenant's rate allows the next request at this time.
    TenantRate(Instant),
}

/// Asked before each start; a yes is used at once.
pub trait Gate {
    /// Takes a place in flight for such a claim and a turn at the pace allowed, both or neither.
    fn admit(&mut self, claim: Claim, now: Instant) -> Result<(), Hold>;
}

/// Why a delivery is not being sent though its own time and turn have come, as far as only its lane
/// knows. It holds for what is far beyond the window, too: that waits for the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It is being sent.
    InFlight,
    /// The circuit is open until then; none: its probe is in flight.
    Circuit(Option<Instant>),
    /// As many of the lane's are in flight as may be.
    Limit,
    /// The gate lets nothing through.
    Gate(Hold),
}

/// What a lane is built from, as it was committed. What is committed later has to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outset {
    /// The rules.
    pub policy: Policy,
    /// Whether anything may be sent.
    pub active: bool,
    /// What is remembered of the endpoint.
    pub health: Health,
    /// The highest number that a delivery has got, finished or not.
    pub last: Sequence,
}

/// How many deliveries a lane holds. A type of its own, so that tests reach the bounds with few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Deliveries ready to go, or behind one of their line; at least 2.
    pub window: usize,
    /// How much of that is filled from the store before any has started; at least 1.
    pub first_page: usize,
    /// Deliveries that wait for a retry, beside the window.
    pub waiting: usize,
    /// Deliveries of one key in the window.
    pub key_depth: usize,
}

impl Sizes {
    /// What `limits` says.
    pub const DEFAULT: Self = Self {
        window: LANE_WINDOW,
        first_page: LANE_FIRST_PAGE,
        waiting: LANE_WAITING_MAX,
        key_depth: LANE_KEY_DEPTH_MAX,
    };
}
