//! A batch in one transaction of few statements: each costs a hop to the database's thread, so
//! rows go in by the many.

use std::collections::{BTreeMap, BTreeSet};

use posthorn_domain::id::{DeliveryId, Sequence, SubscriptionId};
use posthorn_domain::time::Timestamp;
use posthorn_migration::names::on_sqlite;
use sea_orm::sqlx::{self, Connection as _, SqliteConnection};
use uuid::Uuid;

use super::super::sqlite::{chunks, named};
use super::super::stats::{Counts, Writer};
use super::super::{Error, columns};
use super::{Answer, Intake, Known, known_key, numbered};

pub(super) async fn accept(
    connection: &mut SqliteConnection,
    batch: &[Intake],
    backlog_max: i64,
    now: Timestamp,
) -> Result<Vec<Answer>, Error> {
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
    let known = known(&mut tx, batch).await?;
    let mut lanes = lanes(&mut tx, batch).await?;
    let mut answers = Vec::with_capacity(batch.len());
    let mut fresh = Vec::with_capacity(batch.len());
    for (place, intake) in (0..).zip(batch) {
        if let Some((known, same_bytes)) = known.get(&place) {
            answers.push(known_key(*known, *same_bytes));
            continue;
        }
        let lane = lanes.get_mut(&intake.subscription_id);
        let numbered =
            numbered(lane.as_ref().map(|lane| (lane.next, lane.next <= lane.finished + backlog_max)));
        if let (Some(lane), Answer::Stored(sequence)) = (lane, numbered) {
            fresh.push((intake, sequence.0));
            lane.next += 1;
        }
        answers.push(numbered);
    }
    insert_events(&mut tx, &fresh).await?;
    insert_deliveries(&mut tx, &fresh, now).await?;
    move_on(&mut tx, &lanes).await?;
    let accepted = u64::try_from(fresh.len()).unwrap_or(u64::MAX);
    Counts { accepted, ..Counts::default() }.add_on(&mut tx, now, Writer::Intake).await?;
    tx.commit().await.map_err(Error::of_commit)?;
    Ok(answers)
}

/// The deliveries that bear the same idempotency keys, by the event's place in the batch, and whether
/// their bytes are the same; by `webhook_deliveries_idempotent`.
async fn known(
    connection: &mut SqliteConnection,
    batch: &[Intake],
) -> Result<BTreeMap<i64, (Known, bool)>, Error> {
    let keyed: Vec<_> = (0_i64..)
        .zip(batch)
        .filter_map(|(place, intake)| Some((place, intake, intake.idempotency_key.as_deref()?)))
        .collect();
    let mut known = BTreeMap::new();
    for (rows, chunk) in chunks(&keyed) {
        let sql = named(&format!(
            "SELECT k.column1, d.id, d.sequence, d.status < 3, e.payload FROM ({}) AS k \
             CROSS JOIN webhook_deliveries d ON d.subscription_id = k.column2 AND d.idempotency_key = k.column3 \
             CROSS JOIN events e ON e.id = d.event_id",
            rows.values("(?, ?, ?)")
        ));
        let mut query = sqlx::query_as(&sql);
        for (place, intake, key) in chunk {
            query = query.bind(place).bind(intake.subscription_id.0).bind(key);
        }
        let found: Vec<(i64, Uuid, i64, bool, Vec<u8>)> = query.fetch_all(&mut *connection).await?;
        known.extend(found.into_iter().map(|(place, id, sequence, unfinished, payload)| {
            let intake = usize::try_from(place).ok().and_then(|place| batch.get(place));
            let known = Known { id: DeliveryId(id), sequence: Sequence(sequence), unfinished };
            (place, (known, intake.is_some_and(|intake| intake.payload == payload)))
        }));
    }
    Ok(known)
}

/// Where a lane stands.
struct Lane {
    next: i64,
    /// At least so many of its deliveries are finished.
    finished: i64,
}

/// The lanes of a batch, those that are there.
async fn lanes(
    connection: &mut SqliteConnection,
    batch: &[Intake],
) -> Result<BTreeMap<SubscriptionId, Lane>, Error> {
    let ids: BTreeSet<_> = batch.iter().map(|intake| intake.subscription_id).collect();
    let ids: Vec<_> = ids.into_iter().collect();
    let mut lanes = BTreeMap::new();
    for (rows, chunk) in chunks(&ids) {
        let list = rows.list("?");
        let sql = named(&format!(
            "SELECT subscription_id, next_sequence, finished FROM lanes WHERE subscription_id IN ({list})"
        ));
        let mut query = sqlx::query_as(&sql);
        for id in chunk {
            query = query.bind(id.0);
        }
        let found: Vec<(Uuid, i64, i64)> = query.fetch_all(&mut *connection).await?;
        let lane = |(id, next, finished)| (SubscriptionId(id), Lane { next, finished });
        lanes.extend(found.into_iter().map(lane));
    }
    Ok(lanes)
}

/// Writes where the lanes stand now.
async fn move_on(
    connection: &mut SqliteConnection,
    lanes: &BTreeMap<SubscriptionId, Lane>,
) -> Result<(), Error> {
    let lanes: Vec<_> = lanes.iter().collect();
    for (rows, chunk) in chunks(&lanes) {
        let sql = named(&format!(
            "UPDATE lanes SET next_sequence = moved.column2 FROM ({}) AS moved \
             WHERE subscription_id = moved.column1",
            rows.values("(?, ?)")
        ));
        let mut query = sqlx::query(&sql);
        for (id, lane) in chunk {
            query = query.bind(id.0).bind(lane.next);
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

async fn insert_events(connection: &mut SqliteConnection, fresh: &[(&Intake, i64)]) -> Result<(), Error> {
    for (rows, chunk) in chunks(fresh) {
        let sql = named(&format!(
            "INSERT INTO events (id, content_type, payload, hops, forwarded_headers, reference_count) {}",
            rows.values("(?, ?, ?, ?, ?, 1)")
        ));
        let mut query = sqlx::query(&sql);
        for (intake, _) in chunk {
            query = query
                .bind(intake.event_id.0)
                .bind(&intake.content_type)
                .bind(intake.payload.as_ref())
                .bind(intake.hops.stored())
                .bind(columns::to_headers(&intake.forwarded)?);
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
        let sql = named(&format!(
            "INSERT INTO webhook_deliveries (id, subscription_id, event_id, sequence, ordering_key, \
             idempotency_key, created_at_ms, status, attempt_count, retry_base) {}",
            rows.values("(?, ?, ?, ?, ?, ?, ?, 0, 0, 0)")
        ));
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
            sqlx::query_scalar(&on_sqlite("SELECT sequence FROM webhook_deliveries WHERE id = $1"))
                .bind(id.0)
                .fetch_optional(&mut *connection)
                .await?;
        found.extend(sequence.map(|sequence| (*id, Sequence(sequence))));
    }
    Ok(found)
}
