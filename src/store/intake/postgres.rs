//! A batch in one statement, which is its own transaction: one round trip, one commit.

use std::collections::BTreeMap;

use posthorn_domain::id::{DeliveryId, Sequence};
use posthorn_domain::time::Timestamp;
use sea_orm::sqlx::{self, PgConnection, Row as _};
use uuid::Uuid;

use super::super::stats::{Writer, minute};
use super::super::{Error, columns};
use super::{Answer, Intake, Known, known_key, numbered};

/// `judged` locks the lanes in id order, as everything does that locks several, and finds used keys by
/// `webhook_deliveries_idempotent`; an event without a lane is not in it. `numbered` numbers what is new, and
/// `fresh` is what of it the backlog has room for: the first of each lane, so that the numbers stay gapless.
///
/// `told` tells the nodes that dispatch what they did not accept, a hundred lanes at a time: a notice takes
/// less than 8,000 bytes.
///
/// No step joins two lists of the batch: with the plans that a hot session allows, that would take as many
/// comparisons as the batch has pairs.
const ACCEPT: &str = "
WITH judged AS MATERIALIZED (
    SELECT i.*, l.next_sequence, l.finished + $11 AS last, k.id AS known, k.same_bytes,
           k.sequence AS known_sequence, k.unfinished AS known_unfinished
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::bytea[], $6::text[], $7::text[], $12::bool[],
                $13::smallint[], $14::text[])
        WITH ORDINALITY AS i (delivery_id, event_id, subscription_id, content_type, payload, ordering_key,
                              idempotency_key, elsewhere, hops, forwarded_headers, position)
    JOIN lanes l ON l.subscription_id = i.subscription_id
    LEFT JOIN LATERAL (
        SELECT d.id, d.sequence, d.status < 3 AS unfinished, (SELECT e.payload FROM events e WHERE e.id = d.event_id) = i.payload AS same_bytes
        FROM webhook_deliveries d
        WHERE d.subscription_id = i.subscription_id AND d.idempotency_key = i.idempotency_key LIMIT 1
    ) k ON i.idempotency_key IS NOT NULL
    ORDER BY i.subscription_id, i.position FOR UPDATE OF l
), numbered AS MATERIALIZED (
    SELECT *, CASE WHEN known IS NULL THEN next_sequence - 1
        + row_number() OVER (PARTITION BY subscription_id, known IS NULL ORDER BY position) END AS sequence
    FROM judged
), fresh AS (
    SELECT * FROM numbered WHERE sequence <= last
), moved AS (
    UPDATE lanes l SET next_sequence = f.next_sequence
    FROM (SELECT subscription_id, max(sequence) + 1 AS next_sequence FROM fresh GROUP BY subscription_id) f
    WHERE l.subscription_id = f.subscription_id
), new_events AS (
    INSERT INTO events (id, content_type, payload, reference_count, hops, forwarded_headers)
    SELECT event_id, content_type, payload, 1, hops, forwarded_headers FROM fresh
), new_deliveries AS (
    INSERT INTO webhook_deliveries (id, subscription_id, event_id, sequence, status, ordering_key,
                                    idempotency_key, attempt_count, retry_base, created_at_ms)
    SELECT delivery_id, subscription_id, event_id, sequence, 0, ordering_key, idempotency_key, 0, 0, $8
    FROM fresh
), counted AS (
    INSERT INTO stats_minutes (minute, writer, accepted, succeeded, failed)
    SELECT $9, $10 + 3 * (pg_backend_pid() % 32), count(*), 0, 0 FROM fresh HAVING count(*) > 0
    ON CONFLICT (minute, writer) DO UPDATE SET accepted = stats_minutes.accepted + excluded.accepted
), last_ones AS (
    SELECT subscription_id, max(sequence) AS sequence, row_number() OVER () / 100 AS piece
    FROM fresh WHERE elsewhere GROUP BY subscription_id
), told AS (
    SELECT pg_notify('posthorn', 'accepted ' || string_agg(subscription_id || ' ' || sequence, ' '))
    FROM last_ones GROUP BY piece
)
SELECT position, sequence, sequence <= last, known, same_bytes, (SELECT count(*) FROM told), known_sequence,
    known_unfinished FROM numbered";

pub(super) async fn accept(
    connection: &mut PgConnection,
    batch: &[Intake],
    backlog_max: i64,
    now: Timestamp,
) -> Result<Vec<Answer>, Error> {
    let rows = sqlx::query(ACCEPT)
        .bind(batch.iter().map(|intake| intake.delivery_id.0).collect::<Vec<_>>())
        .bind(batch.iter().map(|intake| intake.event_id.0).collect::<Vec<_>>())
        .bind(batch.iter().map(|intake| intake.subscription_id.0).collect::<Vec<_>>())
        .bind(batch.iter().map(|intake| intake.content_type.as_str()).collect::<Vec<_>>())
        .bind(batch.iter().map(|intake| intake.payload.as_ref()).collect::<Vec<&[u8]>>())
        .bind(batch.iter().map(|intake| intake.ordering_key.as_ref().map(|key| &*key.0)).collect::<Vec<_>>())
        .bind(batch.iter().map(|intake| intake.idempotency_key.as_deref()).collect::<Vec<_>>())
        .bind(now.as_millis())
        .bind(minute(now))
        .bind(Writer::Intake.code())
        .bind(backlog_max)
        .bind(batch.iter().map(|intake| intake.elsewhere).collect::<Vec<_>>())
        .bind(batch.iter().map(|intake| intake.hops.stored()).collect::<Vec<_>>())
        .bind(
            batch
                .iter()
                .map(|intake| columns::to_headers(&intake.forwarded))
                .collect::<Result<Vec<_>, _>>()?,
        )
        .fetch_all(connection)
        .await
        // A statement that is its own commit.
        .map_err(Error::of_commit)?;
    let mut answers = vec![Answer::NoSubscription; batch.len()];
    for row in &rows {
        // Counted from 1.
        let position: i64 = row.try_get(0)?;
        let (sequence, room): (Option<i64>, Option<bool>) = (row.try_get(1)?, row.try_get(2)?);
        let (known, same): (Option<Uuid>, Option<bool>) = (row.try_get(3)?, row.try_get(4)?);
        let answer = usize::try_from(position - 1).ok().and_then(|place| answers.get_mut(place));
        let answer = answer.ok_or_else(|| Error::corrupt("position in a batch", position))?;
        *answer = match known.zip(same) {
            Some((id, same)) => {
                let known = Known {
                    id: DeliveryId(id),
                    sequence: Sequence(row.try_get(6)?),
                    unfinished: row.try_get(7)?,
                };
                known_key(known, same)
            }
            None => numbered(sequence.zip(room)),
        };
    }
    Ok(answers)
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
