//! A batch in one transaction of few statements: each costs a hop to the database's thread, so
//! rows go in by the many.

use std::collections::BTreeMap;

use posthorn_domain::id::{DeliveryId, Sequence};
use posthorn_domain::time::Timestamp;
use sea_orm::sqlx::{self, Connection as _, SqliteConnection};
use uuid::Uuid;

use super::super::Error;
use super::super::sqlite::chunks;
use super::super::stats::{Counts, Writer};
use super::{Answer, Intake, known_key, numbered};

pub(super) async fn accept(
    connection: &mut SqliteConnection,
    batch: &[Intake],
    backlog_max: i64,
    now: Timestamp,
) -> Result<Vec<Answer>, Error> {
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
    let mut lanes = BTreeMap::new();
    let mut answers = Vec::with_capacity(batch.len());
    let mut fresh = Vec::with_capacity(batch.len());
    for intake in batch {
        if let Some((id, same_bytes)) = known(&mut tx, intake).await? {
            answers.push(known_key(id, same_bytes));
            continue;
        }
        let lane = match lanes.get(&intake.subscription_id) {
            Some(lane) => *lane,
            None => lane(&mut tx, intake).await?,
        };
        let numbered = numbered(lane.map(|Lane { next, finished }| (next, next <= finished + backlog_max)));
        let lane = match (lane, numbered) {
            (Some(lane), Answer::Stored(sequence)) => {
                fresh.push((intake, sequence.0));
                Some(Lane { next: lane.next + 1, ..lane })
            }
            (lane, _) => lane,
        };
        lanes.insert(intake.subscription_id, lane);
        answers.push(numbered);
    }
    insert_events(&mut tx, &fresh).await?;
    insert_deliveries(&mut tx, &fresh, now).await?;
    for (id, lane) in lanes {
        if let Some(Lane { next, .. }) = lane {
            sqlx::query("UPDATE lanes SET next_sequence = $2 WHERE subscription_id = $1")
                .bind(id.0)
                .bind(next)
                .execute(&mut *tx)
                .await?;
        }
    }
    let accepted = u64::try_from(fresh.len()).unwrap_or(u64::MAX);
    Counts { accepted, ..Counts::default() }.add_on(&mut tx, now, Writer::Intake).await?;
    tx.commit().await?;
    Ok(answers)
}

/// The delivery that bears the same idempotency key, and whether its bytes are the same; by
/// `webhook_deliveries_idempotent`.
async fn known(
    connection: &mut SqliteConnection,
    intake: &Intake,
) -> Result<Option<(DeliveryId, bool)>, Error> {
    let Some(key) = &intake.idempotency_key else { return Ok(None) };
    let found: Option<(Uuid, bool)> = sqlx::query_as(
        "SELECT d.id, e.payload = $3 FROM webhook_deliveries d JOIN events e ON e.id = d.event_id \
         WHERE d.subscription_id = $1 AND d.idempotency_key = $2",
    )
    .bind(intake.subscription_id.0)
    .bind(key)
    .bind(intake.payload.as_ref())
    .fetch_optional(connection)
    .await?;
    Ok(found.map(|(id, same)| (DeliveryId(id), same)))
}

/// Where a lane stands.
#[derive(Clone, Copy)]
struct Lane {
    next: i64,
    /// At least so many of its deliveries are finished.
    finished: i64,
}

async fn lane(connection: &mut SqliteConnection, intake: &Intake) -> Result<Option<Lane>, Error> {
    let found: Option<(i64, i64)> =
        sqlx::query_as("SELECT next_sequence, finished FROM lanes WHERE subscription_id = $1")
            .bind(intake.subscription_id.0)
            .fetch_optional(connection)
            .await?;
    Ok(found.map(|(next, finished)| Lane { next, finished }))
}

async fn insert_events(connection: &mut SqliteConnection, fresh: &[(&Intake, i64)]) -> Result<(), Error> {
    for (rows, chunk) in chunks(fresh) {
        let sql =
            rows.insert("INSERT INTO events (id, content_type, payload, reference_count)", "(?, ?, ?, 1)");
        let mut query = sqlx::query(&sql);
        for (intake, _) in chunk {
            query = query.bind(intake.event_id.0).bind(&intake.content_type).bind(intake.payload.as_ref());
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

async fn insert_deliveries(
    connection: &mut SqliteConnection,
    fresh: &[(&Intake, i64)],
    now: Timestamp,
) -> Result<(), Error> {
    for (rows, chunk) in chunks(fresh) {
        let sql = rows.insert(
            "INSERT INTO webhook_deliveries (id, subscription_id, event_id, sequence, ordering_key, \
             idempotency_key, created_at_ms, status, attempt_count, retry_base)",
            "(?, ?, ?, ?, ?, ?, ?, 0, 0, 0)",
        );
        let mut query = sqlx::query(&sql);
        for (intake, sequence) in chunk {
            query = query
                .bind(intake.delivery_id.0)
                .bind(intake.subscription_id.0)
                .bind(intake.event_id.0)
                .bind(*sequence)
                .bind(intake.ordering_key.as_ref().map(|key| &*key.0))
                .bind(intake.idempotency_key.as_deref())
                .bind(now.as_millis());
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

pub(super) async fn stored(
    connection: &mut SqliteConnection,
    ids: &[DeliveryId],
) -> Result<BTreeMap<DeliveryId, Sequence>, Error> {
    let mut found = BTreeMap::new();
    for id in ids {
        let sequence: Option<i64> =
            sqlx::query_scalar("SELECT sequence FROM webhook_deliveries WHERE id = $1")
                .bind(id.0)
                .fetch_optional(&mut *connection)
                .await?;
        found.extend(sequence.map(|sequence| (*id, Sequence(sequence))));
    }
    Ok(found)
}
