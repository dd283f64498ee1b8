//! What a database holds that has been in use for a while: finished deliveries of the subscriptions
//! that are about to be loaded, with their events and attempts.
//!
//! Written by SQL, since the service would need a quarter of an hour for five million. Ids are UUIDs
//! of version 7 (RFC 9562, section 5.7) from the last minutes, in order of time, as the service's are.

use std::borrow::Cow;
use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use posthorn_migration::names::on_sqlite;
use sea_orm::{ConnectionTrait as _, Database as SeaOrm, DatabaseConnection, DbBackend, Statement};

/// Rows of one transaction: SQLite's log must not grow with all of them.
const SLICE: usize = 50_000;

/// All were accepted within this time, the subscriptions in turns.
const SPAN_MS: u64 = 30 * 60 * 1000;

/// The lanes in some order, so that a number leads to one; dropped with the connection.
const LANES: &str = "CREATE TEMPORARY TABLE bench_lanes AS SELECT subscription_id AS id, \
     row_number() OVER (ORDER BY subscription_id) - 1 AS place, next_sequence FROM lanes; \
     CREATE INDEX bench_lanes_by_place ON bench_lanes (place)";

/// Lets each lane go on behind its history.
const MOVE_ON: &str = "UPDATE lanes SET next_sequence = h.last + 1, finished = h.last FROM \
     (SELECT subscription_id AS id, max(sequence) AS last FROM webhook_deliveries GROUP BY subscription_id) AS h \
     WHERE subscription_id = h.id";

/// What writes the deliveries of these numbers, of so many in all.
fn inserts(
    backend: DbBackend,
    numbers: Range<u64>,
    deliveries: u64,
    begin_ms: u64,
    subscriptions: usize,
    payload_bytes: usize,
) -> [String; 3] {
    let (first, last) = (numbers.start, numbers.end - 1);
    let at = format!("({begin_ms} + n * {SPAN_MS} / {deliveries})");
    let letters = payload_bytes - 2;
    // By the letter of the variant, so that the three kinds of ids differ.
    let id = |variant: char| match backend {
        DbBackend::Postgres => {
            format!("(lpad(to_hex({at}), 12, '0') || '7000{variant}' || lpad(to_hex(n), 15, '0'))::uuid")
        }
        _ => format!("unhex(printf('%012x7000{variant}%015x', {at}, n))"),
    };
    let (event, delivery, attempt) = (id('8'), id('9'), id('a'));
    let (n, payload, empty) = match backend {
        DbBackend::Postgres => (
            format!("generate_series({first}::bigint, {last}::bigint) AS n"),
            format!("convert_to('\"' || repeat('h', {letters}) || '\"', 'UTF8')"),
            "''",
        ),
        _ => (
            format!(
                "(WITH RECURSIVE s(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM s WHERE n < {last}) \
                 SELECT n FROM s)"
            ),
            format!("CAST('\"' || printf('%.{letters}c', 'h') || '\"' AS BLOB)"),
            "x''",
        ),
    };
    let lane = format!("JOIN bench_lanes l ON l.place = n % {subscriptions}");
    [
        format!(
            "INSERT INTO events (id, content_type, payload, reference_count) \
             SELECT {event}, 'application/json', {payload}, 1 FROM {n}"
        ),
        format!(
            "INSERT INTO webhook_deliveries (id, subscription_id, event_id, sequence, status, attempt_count, \
             retry_base, created_at_ms, completed_at_ms) \
             SELECT {delivery}, l.id, {event}, l.next_sequence + n / {subscriptions}, 3, 1, 0, {at}, {at} \
             FROM {n} {lane}"
        ),
        format!(
            "INSERT INTO delivery_attempts (id, delivery_id, subscription_id, attempt_number, outcome, \
             status_code, response_body, duration_ms, attempted_at_ms) \
             SELECT {attempt}, {delivery}, l.id, 1, 0, 200, {empty}, 1, {at} FROM {n} {lane}"
        ),
    ]
}

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
    // Where the program's tables are, and where those of releases up to 0.1 were.
    options.max_connections(1).sqlx_logging(false).set_schema_search_path("posthorn,public");
    let connection = SeaOrm::connect(options).await.context("connecting for the history")?;
    let backend = connection.get_database_backend();
    let prefixed = has_prefix(&connection).await?;
    connection.execute_unprepared(&named(LANES, prefixed)).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let begin = u64::try_from(now)? - SPAN_MS;
    for first in (0..deliveries).step_by(SLICE) {
        let last = deliveries.min(first + u64::try_from(SLICE)?);
        for insert in inserts(backend, first..last, deliveries, begin, subscriptions, payload_bytes) {
            connection.execute_unprepared(&named(&insert, prefixed)).await.context("writing the history")?;
        }
    }
    connection.execute_unprepared(&named(MOVE_ON, prefixed)).await?;
    connection.close().await?;
    Ok(())
}

fn named(sql: &str, prefixed: bool) -> Cow<'_, str> {
    if prefixed { on_sqlite(sql) } else { Cow::Borrowed(sql) }
}

/// Whether it is an SQLite file of this release: those up to 0.1 gave their tables no prefix.
async fn has_prefix(connection: &DatabaseConnection) -> anyhow::Result<bool> {
    if connection.get_database_backend() != DbBackend::Sqlite {
        return Ok(false);
    }
    let ask = "SELECT 1 FROM sqlite_master WHERE name = 'posthorn_lanes'";
    Ok(connection.query_one(Statement::from_string(DbBackend::Sqlite, ask)).await?.is_some())
}
