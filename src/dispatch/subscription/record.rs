//! From what a lane decided to what is written down.

use std::time::Instant;

use posthorn_domain::circuit::{Circuit, CircuitState};
use posthorn_domain::cluster::Epoch;
use posthorn_domain::delivery::{Attempt, AttemptOutcome, DeliveryStatus};
use posthorn_domain::id::{AttemptId, SubscriptionId};
use posthorn_domain::lane::{Health, Record, Standing};
use posthorn_domain::subscription::SubscriptionStatus;
use posthorn_domain::time::Timestamp;
use uuid::Uuid;

use super::super::attempt::Attempted;
use crate::clock::Clock;
use crate::store::LaneHealth;
use crate::store::outcomes::Outcome;

/// What is written down of an attempt that began at `began`, decided by the subscription's `version`.
pub(super) fn outcome(
    clock: Clock,
    subscription_id: SubscriptionId,
    version: i64,
    (endpoint_version, epoch): (i64, Epoch),
    record: &Record,
    reply: Attempted,
    began: Timestamp,
) -> Outcome {
    let status = match record.outcome {
        AttemptOutcome::Success => DeliveryStatus::Success,
        AttemptOutcome::FailedAttempt => DeliveryStatus::FailedAttempt,
        AttemptOutcome::Failed => DeliveryStatus::Failed,
    };
    Outcome {
        attempt: Attempt {
            id: attempt_id(began),
            delivery_id: record.ticket.id,
            subscription_id,
            number: record.attempt,
            outcome: record.outcome,
            status_code: reply.status_code,
            response_body: reply.body,
            error_message: reply.error,
            duration: reply.duration,
            attempted_at: began,
        },
        status,
        next_attempt_at: record.due.map(|due| clock.timestamp(due)),
        health: record.health.map(|health| stored_health(clock, health)),
        standing: record.standing.map(|standing| match standing {
            Standing::Paused(reason) => (SubscriptionStatus::Paused, reason),
            Standing::Disabled(reason) => (SubscriptionStatus::Disabled, reason),
        }),
        planned_version: version,
        retry_base: record.retry_base,
        endpoint_version,
        epoch,
    }
}

/// Of the time at which the attempt began, so that the log in the order of ids is in the order of that time.
fn attempt_id(began: Timestamp) -> AttemptId {
    let millis = u64::try_from(began.as_millis()).unwrap_or(0);
    let nanos = u32::try_from(millis % 1000 * 1_000_000).unwrap_or(0);
    AttemptId(Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, millis / 1000, nanos)))
}

fn stored_health(clock: Clock, health: Health) -> LaneHealth {
    let failing_since = health.failing_since.map(|since| clock.now().minus(since.elapsed()));
    let (circuit, cool_down, probe_at) = match health.circuit {
        Circuit::Closed { .. } => (CircuitState::Closed, None, None),
        Circuit::Open { until, cool_down, .. } => (CircuitState::Open, Some(cool_down), Some(until)),
        Circuit::HalfOpen { cool_down, .. } => {
            (CircuitState::HalfOpen, Some(cool_down), Some(Instant::now()))
        }
    };
    LaneHealth {
        circuit,
        failures: health.circuit.failures(),
        cool_down,
        probe_at: probe_at.map(|at| clock.timestamp(at)),
        failing_since,
    }
}
