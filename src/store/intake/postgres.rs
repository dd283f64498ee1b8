//! A batch in one statement, which is its own transaction: one round trip, one commit.

use std::collections::{BTreeMap, BTreeSet};

use posthorn_domain::id::{DeliveryId, Sequence};
use posthorn_domain::time::Timestamp;
use sea_orm::sqlx::{self, PgConnection, Row as _};
use uuid::Uuid;

use super::super::Error;
use super::super::stats::{Writer, minute};
use super::{Answer, Intake, known_key, numbered};

/// `known` finds used keys by `webhook_deliveries_idempotent`; `locked` locks the lanes in id order,
/// as everything does that locks several; `numbered` numbers what is left, and `fresh` is what of it
/// the backlog has room for: the first of each lane, so that the numbers stay gapless.
const ACCEPT: &str = "
WITH input AS MATERIALIZED (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::bytea[], $6::text[], $7::text[])
        WITH ORDINALITY AS t (delivery_id, event_id, subscription_id, content_type, payload, ordering_key,
                              idempotency_key, position)
), known AS MATERIALIZED (
    SELECT i.position, d.id, e.payload = i.payload AS same_bytes
    FROM input i
    JOIN webhook_deliveries d
        ON d.subscription_id = i.subscription_id AND d.idempotency_key = i.idempotency_key
    JOIN events e ON e.id = d.event_id
    WHERE i.idempotency_key IS NOT NULL
), locked AS MATERIALIZED (
    SELECT subscription_id, next_sequence, finished FROM lanes
    WHERE subscription_id = ANY ($8::uuid[]) ORDER BY subscription_id FOR UPDATE
), numbered AS MATERIALIZED (
    SELECT i.*, l.finished + $12 AS last, l.next_sequence - 1
        + row_number() OVER (PARTITION BY i.subscription_id ORDER BY i.position) AS sequence
    FROM input i JOIN locked l ON l.subscription_id = i.subscription_id
    WHERE NOT EXISTS (SELECT FROM known k WHERE k.position = i.position)
), fresh AS MATERIALIZED (
    SELECT * FROM numbered WHERE sequence <= last
), moved AS (
    UPDATE lanes l SET next_sequence = f.next_sequence
    FROM (SELECT subscription_id, max(sequence) + 1 AS next_sequence FROM fresh GROUP BY subscription_id) f
    WHERE l.subscription_id = f.subscription_id
), new_events AS (
    INSERT INTO events (id, content_type, payload, reference_count)
    SELECT event_id, content_type, payload, 1 FROM fresh
), new_deliveries AS (
    INSERT INTO webhook_deliveries (id, subscription_id, event_id, sequence, status, ordering_key,
                                    idempotency_key, attempt_count, retry_base, created_at_ms)
    SELECT delivery_id, subscription_id, event_id, sequence, 0, ordering_key, idempotency_key, 0, 0, $9
    FROM fresh
), counted AS (
    INSERT INTO stats_minutes (minute, writer, accepted, succeeded, failed)
    SELECT $10, $11, count(*), 0, 0 FROM fresh HAVING count(*) > 0
    ON CONFLICT (minute, writer) DO UPDATE SET accepted = stats_minutes.accepted + excluded.accepted
)
SELECT n.sequence, n.sequence <= n.last, k.id, k.same_bytes
FROM input i LEFT JOIN numbered n ON n.position = i.position LEFT JOIN known k ON k.position = i.position
ORDER BY i.position";

pub(super) async fn accept(
    connection: &mut PgConnection,
    batch: &[Intake],
    backlog_max: i64,
    now: Timestamp,
) -> Result<Vec<Answer>, Error> {
    let lanes: BTreeSet<Uuid> = batch.iter().map(|intake| intake.subscription_id.0).collect();
    let rows = sqlx::query(ACCEPT)
        .bind(batch.iter().map(|intake| intake.delivery_id.0).collect::<Vec<_>>())
        .bind(batch.iter().map(|intake| intake.event_id.0).collect::<Vec<_>>())
        .bind(batch.iter().map(|intake| intake.subscription_id.0).collect::<Vec<_>>())
        .bind(batch.iter().map(|intake| intake.content_type.as_str()).collect::<Vec<_>>())
        .bind(batch.iter().map(|intake| intake.payload.as_ref()).collect::<Vec<&[u8]>>())
        .bind(batch.iter().map(|intake| intake.ordering_key.as_ref().map(|key| &*key.0)).collect::<Vec<_>>())
        .bind(batch.iter().map(|intake| intake.idempotency_key.as_deref()).collect::<Vec<_>>())
        .bind(lanes.into_iter().collect::<Vec<_>>())
        .bind(now.as_millis())
        .bind(minute(now))
        .bind(Writer::Intake.code())
        .bind(backlog_max)
        .fetch_all(connection)
        .await
        .map_err(lost_answer)?;
    rows.iter()
        .map(|row| {
            let (sequence, room): (Option<i64>, Option<bool>) = (row.try_get(0)?, row.try_get(1)?);
            let (id, same): (Option<Uuid>, Option<bool>) = (row.try_get(2)?, row.try_get(3)?);
            Ok(match id.zip(same) {
                Some((id, same)) => known_key(DeliveryId(id), same),
                None => numbered(sequence.zip(room)),
            })
        })
        .collect()
}

/// A statement that is its own commit: where the connection broke, it may have been done.
fn lost_answer(error: sqlx::Error) -> Error {
    match error {
        sqlx::Error::Database(_) => error.into(),
        other => Error::OutcomeUnknown(other.to_string()),
    }
}

pub(super) async fn stored(
    connection: &mut PgConnection,
    ids: &[DeliveryId],
) -> Result<BTreeMap<DeliveryId, Sequence>, Error> {
    let rows: Vec<(Uuid, i64)> =
        sqlx::query_as("SELECT id, sequence FROM webhook_deliveries WHERE id = ANY ($1::uuid[])")
            .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
            .fetch_all(connection)
            .await?;
    Ok(rows.into_iter().map(|(id, sequence)| (DeliveryId(id), Sequence(sequence))).collect())
}
