//! A batch in one statement; in a transaction of several only where there is more to say.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};

use posthorn_domain::cluster::{Epoch, Slot};
use posthorn_domain::time::Timestamp;
use sea_orm::sqlx::{self, Connection as _, PgConnection};

use super::super::columns::count_to_column;
use super::super::stats::{Writer, minute};
use super::super::subscriptions::circuit_code;
use super::super::{Error, LaneHealth, cluster};
use super::{Outcome, STANDING, Started, number};

/// `input` is what began under an epoch that its slot still has; the lock keeps it so until the commit.
/// `changed` finds each delivery by primary key and leaves one alone that somebody ended, or whose subscription was
/// deleted; `logged` and `counted` follow what it found. `deleted` is looked up for each entry alone: to hash the whole
/// of `deletions` costs an empty hash table for each statement, a tenth of what one with one outcome costs.
const RECORD: &str = "
WITH input AS MATERIALIZED (
    SELECT t.*, (SELECT true FROM deletions x WHERE x.subscription_id = t.subscription_id LIMIT 1) IS NOT NULL AS deleted
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::int[], $5::smallint[], $6::smallint[],
                         $7::bytea[], $8::text[], $9::bigint[], $10::bigint[], $11::smallint[], $12::bigint[],
                         $13::bigint[], $14::text[], $17::smallint[], $18::bigint[],
                         $19::bigint[], $20::int[])
        AS t (id, delivery_id, subscription_id, attempt_number, outcome, status_code, response_body,
              error_message, duration_ms, attempted_at_ms, status, next_attempt_at_ms, completed_at_ms, error,
              slot, epoch, planned_version, retry_base)
    JOIN slots s ON s.slot = t.slot AND s.epoch = t.epoch
    ORDER BY t.slot FOR SHARE OF s
), changed AS (
    UPDATE webhook_deliveries d SET
        attempt_count = i.attempt_number,
        retry_base = i.retry_base,
        planned_version = i.planned_version,
        status = CASE WHEN d.status < 3 AND NOT i.deleted THEN i.status ELSE d.status END,
        next_attempt_at_ms = CASE WHEN d.status < 3 AND NOT i.deleted THEN i.next_attempt_at_ms
                                  ELSE d.next_attempt_at_ms END,
        completed_at_ms = CASE WHEN d.status < 3 AND NOT i.deleted THEN i.completed_at_ms
                               ELSE d.completed_at_ms END,
        error = CASE WHEN d.status < 3 AND NOT i.deleted THEN i.error ELSE d.error END
    FROM input i
    WHERE d.id = i.delivery_id AND d.attempt_count = i.attempt_number - 1
    RETURNING d.status, d.completed_at_ms IS NOT DISTINCT FROM i.completed_at_ms AND d.status >= 3 AS ended,
              i.id, i.delivery_id, i.subscription_id, i.attempt_number, i.outcome, i.status_code,
              i.response_body, i.error_message, i.duration_ms, i.attempted_at_ms
), logged AS (
    INSERT INTO delivery_attempts (id, delivery_id, subscription_id, attempt_number, outcome, status_code,
                                   response_body, error_message, duration_ms, attempted_at_ms)
    SELECT id, delivery_id, subscription_id, attempt_number, outcome, status_code, response_body, error_message,
           duration_ms, attempted_at_ms
    FROM changed
), counted AS (
    INSERT INTO stats_minutes (minute, writer, accepted, succeeded, failed)
    SELECT $15, $16 + 3 * (pg_backend_pid() % 32), 0, count(*) FILTER (WHERE status = 3), count(*) FILTER (WHERE status = 4)
    FROM changed WHERE ended HAVING count(*) > 0
    ON CONFLICT (minute, writer) DO UPDATE SET succeeded = stats_minutes.succeeded + excluded.succeeded,
                                               failed = stats_minutes.failed + excluded.failed
)
SELECT count(*) FROM input";

/// The slots that have these epochs, locked until the commit; in the order of their numbers, as everything
/// locks that locks several.
const FENCE: &str = "
SELECT s.slot FROM unnest($1::smallint[], $2::bigint[]) AS t (slot, epoch)
JOIN slots s ON s.slot = t.slot AND s.epoch = t.epoch ORDER BY s.slot FOR SHARE OF s";

const MARK: &str = "
UPDATE webhook_deliveries d SET status = 1, next_attempt_at_ms = NULL
FROM unnest($1::uuid[], $2::int[]) AS i (id, attempt_number)
WHERE d.id = i.id AND d.attempt_count = i.attempt_number - 1 AND d.status < 3";

const HEALTH: &str = "
UPDATE lane_health h SET circuit = i.circuit, failures = i.failures, cool_down_ms = i.cool_down_ms,
                         probe_at_ms = i.probe_at_ms, failing_since_ms = i.failing_since_ms
FROM unnest($1::uuid[], $2::smallint[], $3::int[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
    AS i (subscription_id, circuit, failures, cool_down_ms, probe_at_ms, failing_since_ms, endpoint_version)
WHERE h.subscription_id = i.subscription_id AND h.endpoint_version = i.endpoint_version";

pub(super) async fn record(
    connection: &mut PgConnection,
    started: &[Started],
    outcomes: &[Outcome],
    now: Timestamp,
) -> Result<BTreeSet<Slot>, Error> {
    let alone = started.is_empty() && outcomes.iter().all(|o| o.health.is_none() && o.standing.is_none());
    if alone {
        let written = insert(connection, outcomes, now).await?;
        if written == outcomes.len() {
            return Ok(BTreeSet::new());
        }
        let asked = outcomes.iter().map(|outcome| (outcome.slot(), outcome.epoch)).collect();
        return Ok(fence(connection, &asked).await?.lost);
    }
    let mut tx = connection.begin().await?;
    let began = outcomes.iter().map(|outcome| (outcome.slot(), outcome.epoch));
    let asked = began.chain(started.iter().map(|started| (started.slot, started.epoch))).collect();
    let Fence { held, lost } = fence(&mut tx, &asked).await?;
    let started: Vec<_> = started.iter().filter(|s| held.contains(&(s.slot, s.epoch))).copied().collect();
    let outcomes: Vec<_> = outcomes.iter().filter(|o| held.contains(&(o.slot(), o.epoch))).collect();
    // The last word on each lane, in id order, as everything locks that locks several.
    let health: BTreeMap<_, _> = outcomes
        .iter()
        .filter_map(|outcome| {
            let health = outcome.health?;
            Some((outcome.attempt.subscription_id.0, (health, outcome.endpoint_version)))
        })
        .collect();
    mark(&mut tx, &started).await?;
    if !outcomes.is_empty() {
        insert(&mut tx, &outcomes, now).await?;
    }
    write_health(&mut tx, &health).await?;
    for outcome in outcomes {
        if let Some((status, reason)) = outcome.standing {
            sqlx::query(STANDING)
                .bind(outcome.attempt.subscription_id.0)
                .bind(status.code())
                .bind(reason.code())
                .bind(now.as_millis())
                .bind(outcome.endpoint_version)
                .execute(&mut *tx)
                .await?;
        }
    }
    tx.commit().await.map_err(|error| Error::OutcomeUnknown(error.to_string()))?;
    Ok(lost)
}

/// Which of some slots have the epochs that were asked for.
struct Fence {
    held: BTreeSet<(Slot, Epoch)>,
    lost: BTreeSet<Slot>,
}

async fn fence(connection: &mut PgConnection, asked: &BTreeSet<(Slot, Epoch)>) -> Result<Fence, Error> {
    let pairs: Vec<_> = asked.iter().copied().collect();
    let found: Vec<(i16,)> = sqlx::query_as(FENCE)
        .bind(cluster::numbers(&pairs))
        .bind(cluster::epochs(&pairs))
        .fetch_all(connection)
        .await?;
    let found: BTreeSet<i16> = found.into_iter().map(|(slot,)| slot).collect();
    // Of two epochs of one slot at most the later can be the slot's.
    let latest = |slot| pairs.iter().rfind(|(other, _)| *other == slot).copied();
    let held: BTreeSet<_> = asked
        .iter()
        .filter(|pair| found.contains(&pair.0.0.into()) && latest(pair.0) == Some(**pair))
        .copied()
        .collect();
    let lost = asked.iter().filter(|pair| !found.contains(&pair.0.0.into())).map(|(slot, _)| *slot).collect();
    Ok(Fence { held, lost })
}

/// Returns how many of them began under an epoch that their slot still has.
async fn insert<O: Borrow<Outcome>>(
    connection: &mut PgConnection,
    outcomes: &[O],
    now: Timestamp,
) -> Result<usize, Error> {
    let outcomes = || outcomes.iter().map(Borrow::borrow);
    let attempts = || outcomes().map(|outcome| &outcome.attempt);
    let written: i64 = sqlx::query_scalar(RECORD)
        .bind(attempts().map(|a| a.id.0).collect::<Vec<_>>())
        .bind(attempts().map(|a| a.delivery_id.0).collect::<Vec<_>>())
        .bind(attempts().map(|a| a.subscription_id.0).collect::<Vec<_>>())
        .bind(attempts().map(|a| number(a.number)).collect::<Vec<_>>())
        .bind(attempts().map(|a| a.outcome.code()).collect::<Vec<_>>())
        .bind(attempts().map(|a| a.status_code.and_then(|code| i16::try_from(code).ok())).collect::<Vec<_>>())
        .bind(attempts().map(|a| a.response_body.as_deref()).collect::<Vec<Option<&[u8]>>>())
        .bind(attempts().map(|a| a.error_message.as_deref()).collect::<Vec<_>>())
        .bind(
            attempts().map(|a| i64::try_from(a.duration.as_millis()).unwrap_or(i64::MAX)).collect::<Vec<_>>(),
        )
        .bind(attempts().map(|a| a.attempted_at.as_millis()).collect::<Vec<_>>())
        .bind(outcomes().map(|o| o.status.code()).collect::<Vec<_>>())
        .bind(outcomes().map(|o| o.next_attempt_at.map(Timestamp::as_millis)).collect::<Vec<_>>())
        .bind(outcomes().map(|o| o.completed_at(now)).collect::<Vec<_>>())
        .bind(outcomes().map(Outcome::error).collect::<Vec<_>>())
        .bind(minute(now))
        .bind(Writer::Outcomes.code())
        .bind(outcomes().map(|o| i16::from(o.slot().0)).collect::<Vec<_>>())
        .bind(outcomes().map(|o| o.epoch.0).collect::<Vec<_>>())
        .bind(outcomes().map(Outcome::planned_version).collect::<Vec<_>>())
        .bind(outcomes().map(|o| count_to_column(o.retry_base)).collect::<Vec<_>>())
        .fetch_one(connection)
        .await?;
    Ok(usize::try_from(written).unwrap_or(0))
}

async fn mark(connection: &mut PgConnection, started: &[Started]) -> Result<(), Error> {
    if started.is_empty() {
        return Ok(());
    }
    sqlx::query(MARK)
        .bind(started.iter().map(|started| started.delivery_id.0).collect::<Vec<_>>())
        .bind(started.iter().map(|started| number(started.number)).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

async fn write_health(
    connection: &mut PgConnection,
    health: &BTreeMap<uuid::Uuid, (LaneHealth, i64)>,
) -> Result<(), Error> {
    if health.is_empty() {
        return Ok(());
    }
    let count = |failures: u32| i32::try_from(failures).unwrap_or(i32::MAX);
    let cool_down = |h: &LaneHealth| h.cool_down.map(|d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
    sqlx::query(HEALTH)
        .bind(health.keys().copied().collect::<Vec<_>>())
        .bind(health.values().map(|(h, _)| circuit_code(h.circuit)).collect::<Vec<_>>())
        .bind(health.values().map(|(h, _)| count(h.failures)).collect::<Vec<_>>())
        .bind(health.values().map(|(h, _)| cool_down(h)).collect::<Vec<_>>())
        .bind(health.values().map(|(h, _)| h.probe_at.map(Timestamp::as_millis)).collect::<Vec<_>>())
        .bind(health.values().map(|(h, _)| h.failing_since.map(Timestamp::as_millis)).collect::<Vec<_>>())
        .bind(health.values().map(|(_, endpoint_version)| *endpoint_version).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}
