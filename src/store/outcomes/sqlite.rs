//! A batch in one transaction, the log's rows by the many.

use std::collections::HashSet;

use posthorn_domain::delivery::DeliveryStatus;
use posthorn_domain::id::DeliveryId;
use posthorn_domain::time::Timestamp;
use posthorn_migration::names::on_sqlite;
use sea_orm::sqlx::{self, Connection as _, SqliteConnection};
use uuid::Uuid;

use super::super::columns::count_to_column;
use super::super::lane_wide::NOT_DELETED;
use super::super::sqlite::{chunks, named};
use super::super::stats::{Counts, Writer};
use super::super::subscriptions::circuit_code;
use super::super::{Error, LaneHealth};
use super::{Outcome, STANDING, Started, number};

pub(super) async fn record(
    connection: &mut SqliteConnection,
    started: &[Started],
    outcomes: &[Outcome],
    now: Timestamp,
) -> Result<(), Error> {
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
    mark(&mut tx, started).await?;
    let ended = end(&mut tx, outcomes, now).await?;
    let mut counts = Counts::default();
    let mut logged = Vec::with_capacity(outcomes.len());
    for outcome in outcomes {
        let changed = ended.contains(&outcome.attempt.delivery_id);
        if changed {
            match outcome.status {
                DeliveryStatus::Success => counts.succeeded += 1,
                DeliveryStatus::Failed => counts.failed += 1,
                DeliveryStatus::Pending | DeliveryStatus::Processing | DeliveryStatus::FailedAttempt => {}
            }
        }
        if changed || count(&mut tx, outcome).await? {
            logged.push(outcome);
        }
    }
    log(&mut tx, &logged).await?;
    for outcome in &logged {
        follow_up(&mut tx, outcome, now).await?;
    }
    counts.add_on(&mut tx, now, Writer::Outcomes).await?;
    tx.commit().await.map_err(Error::of_commit)?;
    Ok(())
}

async fn mark(connection: &mut SqliteConnection, started: &[Started]) -> Result<(), Error> {
    for (rows, chunk) in chunks(started) {
        let sql = named(&format!(
            "UPDATE webhook_deliveries SET status = 1, next_attempt_at_ms = NULL FROM ({}) AS s \
             WHERE id = s.column1 AND attempt_count = s.column2 - 1 AND +status < 3",
            rows.values("(?, ?)")
        ));
        let mut query = sqlx::query(&sql);
        for started in chunk {
            query = query.bind(started.delivery_id.0).bind(number(started.number));
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

/// Changes the deliveries that nobody ended and whose subscription is there, by primary key; those that it changed. One where the same
/// was written before is not among them.
async fn end(
    connection: &mut SqliteConnection,
    outcomes: &[Outcome],
    now: Timestamp,
) -> Result<HashSet<DeliveryId>, Error> {
    let mut changed = HashSet::with_capacity(outcomes.len());
    for (rows, chunk) in chunks(outcomes) {
        let sql = named(&format!(
            "UPDATE webhook_deliveries SET attempt_count = o.column2, status = o.column3, \
             next_attempt_at_ms = o.column4, completed_at_ms = o.column5, error = o.column6, \
             planned_version = o.column7, retry_base = o.column8 FROM ({}) AS o \
             WHERE id = o.column1 AND attempt_count = o.column2 - 1 AND +status < 3 AND {NOT_DELETED} RETURNING id",
            rows.values("(?, ?, ?, ?, ?, ?, ?, ?)")
        ));
        let mut query = sqlx::query_scalar(&sql);
        for outcome in chunk {
            query = query
                .bind(outcome.attempt.delivery_id.0)
                .bind(number(outcome.attempt.number))
                .bind(outcome.status.code())
                .bind(outcome.next_attempt_at.map(Timestamp::as_millis))
                .bind(outcome.completed_at(now))
                .bind(outcome.error())
                .bind(outcome.planned_version())
                .bind(count_to_column(outcome.retry_base));
        }
        let ids: Vec<Uuid> = query.fetch_all(&mut *connection).await?;
        changed.extend(ids.into_iter().map(DeliveryId));
    }
    Ok(changed)
}

/// Counts the attempt of a delivery that somebody ended, and nothing else; false where it was counted
/// before.
async fn count(connection: &mut SqliteConnection, outcome: &Outcome) -> Result<bool, Error> {
    let attempt = &outcome.attempt;
    let counted = sqlx::query(&on_sqlite(
        "UPDATE webhook_deliveries SET attempt_count = $2 WHERE id = $1 AND attempt_count = $2 - 1",
    ))
    .bind(attempt.delivery_id.0)
    .bind(number(attempt.number))
    .execute(connection)
    .await?;
    Ok(counted.rows_affected() > 0)
}

async fn log(connection: &mut SqliteConnection, outcomes: &[&Outcome]) -> Result<(), Error> {
    for (rows, chunk) in chunks(outcomes) {
        let sql = named(&format!(
            "INSERT INTO delivery_attempts (id, delivery_id, subscription_id, attempt_number, outcome, \
             status_code, response_body, error_message, duration_ms, attempted_at_ms) {}",
            rows.values("(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
        ));
        let mut query = sqlx::query(&sql);
        for outcome in chunk {
            let attempt = &outcome.attempt;
            query = query
                .bind(attempt.id.0)
                .bind(attempt.delivery_id.0)
                .bind(attempt.subscription_id.0)
                .bind(number(attempt.number))
                .bind(attempt.outcome.code())
                .bind(attempt.status_code.and_then(|code| i16::try_from(code).ok()))
                .bind(attempt.response_body.as_deref())
                .bind(attempt.error_message.as_deref())
                .bind(i64::try_from(attempt.duration.as_millis()).unwrap_or(i64::MAX))
                .bind(attempt.attempted_at.as_millis());
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

async fn follow_up(
    connection: &mut SqliteConnection,
    outcome: &Outcome,
    now: Timestamp,
) -> Result<(), Error> {
    let id = outcome.attempt.subscription_id.0;
    if let Some(LaneHealth { circuit, failures, cool_down, probe_at, failing_since }) = outcome.health {
        sqlx::query(&on_sqlite(
            "UPDATE lane_health SET circuit = $2, failures = $3, cool_down_ms = $4, probe_at_ms = $5, \
             failing_since_ms = $6 WHERE subscription_id = $1 AND endpoint_version = $7",
        ))
        .bind(id)
        .bind(circuit_code(circuit))
        .bind(i32::try_from(failures).unwrap_or(i32::MAX))
        .bind(cool_down.map(|d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX)))
        .bind(probe_at.map(Timestamp::as_millis))
        .bind(failing_since.map(Timestamp::as_millis))
        .bind(outcome.endpoint_version)
        .execute(&mut *connection)
        .await?;
    }
    if let Some((status, reason)) = outcome.standing {
        sqlx::query(&on_sqlite(STANDING))
            .bind(id)
            .bind(status.code())
            .bind(reason.code())
            .bind(now.as_millis())
            .bind(outcome.endpoint_version)
            .execute(connection)
            .await?;
    }
    Ok(())
}
