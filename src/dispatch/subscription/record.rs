//! From what a lane decided to what is written down.

use std::time::Instant;

use posthorn_domain::circuit::Circuit;
use posthorn_domain::cluster::Epoch;
use posthorn_domain::delivery::{Attempt, AttemptOutcome, DeliveryStatus};
use posthorn_domain::id::{AttemptId, SubscriptionId};
use posthorn_domain::lane::{Health, Record, Standing};
use posthorn_domain::subscription::SubscriptionStatus;
use posthorn_domain::time::Timestamp;
use uuid::Uuid;

use super::super::attempt::Attempted;
use crate::clock::Clock;
use crate::store::outcomes::Outcome;
use crate::store::{CircuitState, LaneHealth};

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
            id: AttemptId(Uuid::now_v7()),
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
