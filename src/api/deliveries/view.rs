//! What clients see of a delivery and its attempts.

use poem_openapi::Object;
use posthorn_domain::delivery;
use serde::Serialize;
use uuid::Uuid;

use crate::api::words::{AttemptOutcome, DeliveryState, Time, WaitingReason};
use crate::service::Explained;

/// One event on its way to one subscription.
#[derive(Serialize, Object)]
pub(in crate::api) struct Delivery {
    /// Receivers see it as `webhook-id`.
    id: Uuid,
    /// Whose endpoint it goes to.
    subscription_id: Uuid,
    /// Where it stands.
    status: DeliveryState,
    /// Its number within the subscription: grows by one with every accepted event.
    #[oai(validator(minimum(value = "1")))]
    sequence: i64,
    /// Deliveries with the same key keep their order, where the subscription's ordering is `key`.
    ordering_key: Option<String>,
    /// Requests made for it so far.
    attempt_count: u32,
    /// When it is tried again; set in `failed_attempt`.
    next_attempt_at: Option<Time>,
    /// Why it is not being sent right now; null when finished.
    waiting_for: Option<WaitingFor>,
    /// Why it ended `failed`: the last attempt's error, `skipped`, `subscription deleted`.
    error: Option<String>,
    /// When it was accepted.
    created_at: Time,
    /// When it ended; set in `success` and `failed`.
    completed_at: Option<Time>,
}

/// Why an unfinished delivery is not being sent right now.
#[derive(Serialize, Object)]
pub(in crate::api) struct WaitingFor {
    /// What it waits for.
    reason: WaitingReason,
    /// Not before this time, where it is known.
    until: Option<Time>,
    /// The number of the delivery it waits for, where it is one.
    #[oai(validator(minimum(value = "1")))]
    sequence: Option<i64>,
}

/// One page of a subscription's deliveries, the newest first.
#[derive(Serialize, Object)]
pub(in crate::api) struct DeliveryPage {
    /// At most `limit` of them; may be fewer, even none, though more follow.
    pub(super) items: Vec<Delivery>,
    /// Leads to the next page; null on the last one.
    pub(super) next_cursor: Option<String>,
}

/// The new delivery of an event that is sent once more.
#[derive(Serialize, Object)]
pub(in crate::api) struct ReplayedDelivery {
    /// The new delivery.
    pub(super) delivery_id: Uuid,
}

/// One HTTP request made for a delivery, with its outcome.
#[derive(Serialize, Object)]
pub(in crate::api) struct DeliveryAttempt {
    /// The attempt itself.
    id: Uuid,
    /// The delivery it was made for.
    delivery_id: Uuid,
    /// That delivery's subscription.
    subscription_id: Uuid,
    /// 1, 2, …
    #[oai(validator(minimum(value = "1")))]
    attempt_number: u32,
    /// What it meant for the delivery.
    outcome: AttemptOutcome,
    /// The status code of the endpoint's answer, where one came.
    #[oai(validator(minimum(value = "100"), maximum(value = "999")))]
    status_code: Option<u16>,
    /// The first 4 KiB of the answer's body; what is not UTF-8 is shown as U+FFFD.
    response_body: Option<String>,
    /// Why it failed.
    error_message: Option<String>,
    /// From the start of the attempt to its end, in milliseconds.
    duration_ms: u64,
    /// When it began.
    attempted_at: Time,
}

impl From<Explained> for Delivery {
    fn from((delivery, waiting_for): Explained) -> Self {
        Self {
            id: delivery.id.0,
            subscription_id: delivery.subscription_id.0,
            status: DeliveryState(delivery.status),
            sequence: delivery.sequence.0,
            ordering_key: delivery.ordering_key.map(|key| key.to_string()),
            attempt_count: delivery.attempt_count,
            next_attempt_at: delivery.next_attempt_at.map(Time),
            waiting_for: waiting_for.map(WaitingFor::from),
            error: delivery.error,
            created_at: Time(delivery.created_at),
            completed_at: delivery.completed_at.map(Time),
        }
    }
}

impl From<delivery::WaitingFor> for WaitingFor {
    fn from(waiting: delivery::WaitingFor) -> Self {
        Self {
            reason: WaitingReason(waiting.reason),
            until: waiting.until.map(Time),
            sequence: waiting.sequence.map(|sequence| sequence.0),
        }
    }
}

impl From<delivery::Attempt> for DeliveryAttempt {
    fn from(attempt: delivery::Attempt) -> Self {
        let body = attempt.response_body;
        Self {
            id: attempt.id.0,
            delivery_id: attempt.delivery_id.0,
            subscription_id: attempt.subscription_id.0,
            attempt_number: attempt.number.get(),
            outcome: AttemptOutcome(attempt.outcome),
            status_code: attempt.status_code,
            response_body: body.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
            error_message: attempt.error_message,
            duration_ms: u64::try_from(attempt.duration.as_millis()).unwrap_or(u64::MAX),
            attempted_at: Time(attempt.attempted_at),
        }
    }
}
