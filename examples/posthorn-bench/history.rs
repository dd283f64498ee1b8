//! What a database holds that has been in use for a while: finished deliveries of the subscriptions
//! that are about to be loaded, with their events and attempts.
//!
//! Written by SQL, since the service would need a quarter of an hour for five million. Ids are UUIDs
//! of version 7 (RFC 9562, section 5.7) from the last minutes, in order of time, as the service's are.

use anyhow::Context as _;
use sea_orm::{ConnectionTrait as _, Database as SeaOrm, DbBackend, Statement};

/// Rows of one transaction: SQLite's log must not grow with all of them.
const SLICE: u64 = 50_000;

/// Finished deliveries of a subscription come in turns; all were accepted within this time.
const SPAN_MS: u64 = 30 * 60 * 1000;

/// The lanes in some order, so that a number leads to one; dropped with the connection.
const LANES: &str = "CREATE TEMPORARY TABLE bench_lanes AS SELECT subscription_id AS id, \
     row_number() OVER (ORDER BY subscription_id) - 1 AS place, next_sequence FROM lanes";

const POSTGRES: [&str; 3] = [
    "INSERT INTO events (id, content_type, payload, reference_count)
     SELECT (lpad(to_hex($3 + n * $4 / $5), 12, '0') || '70008' || lpad(to_hex(n), 15, '0'))::uuid,
            'application/json', convert_to('\"' || repeat('h', $7::int - 2) || '\"', 'UTF8'), 1
     FROM generate_series($1::bigint, $2::bigint) n WHERE $6::bigint > 0",
    "INSERT INTO webhook_deliveries (id, subscription_id, event_id, sequence, status, attempt_count, retry_base,
                                     created_at_ms, completed_at_ms)
     SELECT (lpad(to_hex($3 + n * $4 / $5), 12, '0') || '70009' || lpad(to_hex(n), 15, '0'))::uuid, l.id,
            (lpad(to_hex($3 + n * $4 / $5), 12, '0') || '70008' || lpad(to_hex(n), 15, '0'))::uuid,
            l.next_sequence + n / $6, 3, 1, 0, $3 + n * $4 / $5, $3 + n * $4 / $5 + $7::bigint % 2
     FROM generate_series($1::bigint, $2::bigint) n JOIN bench_lanes l ON l.place = n % $6",
    "INSERT INTO delivery_attempts (id, delivery_id, subscription_id, attempt_number, outcome, status_code,
                                    response_body, duration_ms, attempted_at_ms)
     SELECT (lpad(to_hex($3 + n * $4 / $5), 12, '0') || '7000a' || lpad(to_hex(n), 15, '0'))::uuid,
            (lpad(to_hex($3 + n * $4 / $5), 12, '0') || '70009' || lpad(to_hex(n), 15, '0'))::uuid, l.id, 1, 0, 200,
            '', 1, $3 + n * $4 / $5 + $7::bigint % 2
     FROM generate_series($1::bigint, $2::bigint) n JOIN bench_lanes l ON l.place = n % $6",
];

const SQLITE: [&str; 3] = [
    "INSERT INTO events (id, content_type, payload, reference_count)
     WITH RECURSIVE s(n) AS (SELECT $1 UNION ALL SELECT n + 1 FROM s WHERE n < $2)
     SELECT unhex(printf('%012x70008%015x', $3 + n * $4 / $5, n)), 'application/json',
            CAST('\"' || printf('%.' || ($7 - 2) || 'c', 'h') || '\"' AS BLOB), 1 FROM s WHERE $6 > 0",
    "INSERT INTO webhook_deliveries (id, subscription_id, event_id, sequence, status, attempt_count, retry_base,
                                     created_at_ms, completed_at_ms)
     WITH RECURSIVE s(n) AS (SELECT $1 UNION ALL SELECT n + 1 FROM s WHERE n < $2)
     SELECT unhex(printf('%012x70009%015x', $3 + n * $4 / $5, n)), l.id,
            unhex(printf('%012x70008%015x', $3 + n * $4 / $5, n)),
            l.next_sequence + n / $6, 3, 1, 0, $3 + n * $4 / $5, $3 + n * $4 / $5 + $7 % 2
     FROM s JOIN bench_lanes l ON l.rowid = n % $6 + 1",
    "INSERT INTO delivery_attempts (id, delivery_id, subscription_id, attempt_number, outcome, status_code,
                                    response_body, duration_ms, attempted_at_ms)
     WITH RECURSIVE s(n) AS (SELECT $1 UNION ALL SELECT n + 1 FROM s WHERE n < $2)
     SELECT unhex(printf('%012x7000a%015x', $3 + n * $4 / $5, n)),
            unhex(printf('%012x70009%015x', $3 + n * $4 / $5, n)), l.id, 1, 0, 200, x'', 1,
            $3 + n * $4 / $5 + $7 % 2
     FROM s JOIN bench_lanes l ON l.rowid = n % $6 + 1",
];

/// Adds so many finished deliveries to the database at `url`, spread over its `subscriptions`.
///
/// Only before anything is accepted: the server must not hold a lane in memory.
pub(crate) async fn add(
    url: &str,
    deliveries: u64,
    subscriptions: usize,
    payload_bytes: usize,
) -> anyhow::Result<()> {
    if deliveries == 0 {
        return Ok(());
    }
    let mut options = sea_orm::ConnectOptions::new(url);
    options.max_connections(1).sqlx_logging(false);
    let connection = SeaOrm::connect(options).await.context("connecting for the history")?;
    let backend = connection.get_database_backend();
    let inserts = if backend == DbBackend::Postgres { POSTGRES } else { SQLITE };
    connection.execute_unprepared(LANES).await?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
    let begin = i64::try_from(now)? - i64::try_from(SPAN_MS)?;
    let mut first = 0;
    while first < deliveries {
        let last = (first + SLICE).min(deliveries) - 1;
        for insert in inserts {
            let values = [
                i64::try_from(first)?,
                i64::try_from(last)?,
                begin,
                i64::try_from(SPAN_MS)?,
                i64::try_from(deliveries)?,
                i64::try_from(subscriptions)?,
                i64::try_from(payload_bytes)?,
            ];
            let statement = Statement::from_sql_and_values(backend, insert, values.map(sea_orm::Value::from));
            connection.execute(statement).await.context("writing the history")?;
        }
        first = last + 1;
    }
    let move_on = "UPDATE lanes SET next_sequence = 1 + (SELECT max(sequence) FROM webhook_deliveries d \
         WHERE d.subscription_id = lanes.subscription_id), finished = (SELECT max(sequence) \
         FROM webhook_deliveries d WHERE d.subscription_id = lanes.subscription_id) WHERE EXISTS (SELECT 1 \
         FROM webhook_deliveries d WHERE d.subscription_id = lanes.subscription_id)";
    connection.execute_unprepared(move_on).await?;
    connection.close().await?;
    Ok(())
}
