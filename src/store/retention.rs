//! Removing what is old: finished deliveries with their attempts and events, in small slices.
//!
//! A slice locks only finished deliveries and their events, which neither ingest nor dispatch
//! waits for.

use posthorn_domain::id::SubscriptionId;
use posthorn_domain::time::Timestamp;
use sea_orm::{ConnectionTrait, DbBackend, Statement, Value};
use uuid::Uuid;

use super::database::Transaction;
use super::sqlite::chunks;
use super::stats::{Counts, Writer};
use super::{Error, Store, tx};

/// Deliveries of one slice: some milliseconds of work.
const SLICE: i64 = 500;

/// Attempts of one slice, but for those of its first delivery: one may have a hundred, each with 4 KiB.
const ATTEMPTS_MAX: i64 = 2 * SLICE;

/// What the deliveries of a subscription end with that stays disabled for too long.
const DISABLED: &str = "subscription disabled";

impl Store {
    /// Removes one slice of deliveries that ended before `until`; returns how many. By
    /// `webhook_deliveries_finished` and primary keys.
    pub async fn remove_finished(&self, until: Timestamp) -> Result<u64, Error> {
        tx::run_patiently(self, move |tx| {
            Box::pin(async move {
                let find = "SELECT id, event_id, attempt_count FROM webhook_deliveries WHERE completed_at_ms < $1 \
                            ORDER BY completed_at_ms LIMIT $2";
                let rows = query(tx, find, vec![until.as_millis().into(), SLICE.into()]).await?;
                let mut ids = Vec::with_capacity(rows.len());
                let mut events = Vec::with_capacity(rows.len());
                let mut attempts: i64 = 0;
                for row in &rows {
                    attempts += i64::from(row.try_get_by_index::<i32>(2)?);
                    if attempts > ATTEMPTS_MAX && !ids.is_empty() {
                        break;
                    }
                    ids.push(row.try_get_by_index::<Uuid>(0)?);
                    events.push(row.try_get_by_index::<Uuid>(1)?);
                }
                if ids.is_empty() {
                    return Ok(0);
                }
                // In one order for all who lock several events.
                events.sort_unstable();
                run_on(tx, "DELETE FROM delivery_attempts WHERE delivery_id", &ids).await?;
                run_on(tx, "DELETE FROM webhook_deliveries WHERE id", &ids).await?;
                for piece in events.chunk_by(|a, b| a == b) {
                    if let [event, _, ..] = piece {
                        let more = i64::try_from(piece.len() - 1).unwrap_or(i64::MAX);
                        let sql = "UPDATE events SET reference_count = reference_count - $2 WHERE id = $1";
                        tx::execute(tx, sql, [(*event).into(), more.into()]).await?;
                    }
                }
                events.dedup();
                // Most have but one delivery: those are never written again, payload and all, only to go.
                run_on(tx, "DELETE FROM events WHERE reference_count <= 1 AND id", &events).await?;
                run_on(tx, "UPDATE events SET reference_count = reference_count - 1 WHERE id", &events)
                    .await?;
                Ok(u64::try_from(ids.len()).unwrap_or(u64::MAX))
            })
        })
        .await
    }

    /// Ends one slice of what a subscription holds that has been disabled since before `until`, the first in id order
    /// from `from` on; returns which and how many deliveries, none where nothing is left to end. By
    /// `subscriptions_by_status` and `webhook_deliveries_unfinished`.
    pub async fn fail_disabled(
        &self,
        until: Timestamp,
        now: Timestamp,
        from: Option<SubscriptionId>,
    ) -> Result<Option<(SubscriptionId, u64)>, Error> {
        // Looked for before anybody is kept from writing: there may be many that hold nothing.
        let find = "SELECT s.id FROM subscriptions s WHERE s.status = 2 AND s.deleted_at_ms IS NULL \
                    AND s.id >= $2 AND s.updated_at_ms < $1 AND EXISTS (SELECT 1 FROM webhook_deliveries d \
                    WHERE d.subscription_id = s.id AND d.status < 3) ORDER BY s.id LIMIT 1";
        let from = from.map_or(Uuid::nil(), |id| id.0);
        let rows = query(&self.patient, find, vec![until.as_millis().into(), from.into()]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let id = SubscriptionId(row.try_get_by_index(0)?);
        let ended = tx::run_patiently(self, move |tx| {
            Box::pin(async move {
                let end = "UPDATE webhook_deliveries SET status = 4, completed_at_ms = $2, \
                           next_attempt_at_ms = NULL, error = $3 WHERE id IN (SELECT d.id FROM webhook_deliveries d \
                           WHERE d.subscription_id = $4 AND d.status < 3 ORDER BY d.sequence LIMIT $5) \
                           AND EXISTS (SELECT 1 FROM subscriptions s WHERE s.id = $4 AND s.status = 2 \
                           AND s.deleted_at_ms IS NULL AND s.updated_at_ms < $1)";
                let values = [
                    until.as_millis().into(),
                    now.as_millis().into(),
                    DISABLED.into(),
                    id.0.into(),
                    SLICE.into(),
                ];
                let ended = tx::execute(tx, end, values).await?;
                let counts = Counts { failed: ended, ..Counts::default() };
                counts.add(tx, now, Writer::Control).await?;
                Ok(ended)
            })
        });
        Ok(Some((id, ended.await?)))
    }

    /// Removes one slice of deleted subscriptions of which no delivery is left; returns how many. Looks at those
    /// that were deleted first: their deliveries are the first to go, too.
    pub async fn remove_deleted_subscriptions(&self) -> Result<u64, Error> {
        tx::run_patiently(self, move |tx| {
            Box::pin(async move {
                let remove = "DELETE FROM subscriptions WHERE id IN (SELECT s.id FROM (SELECT id FROM subscriptions \
                              WHERE deleted_at_ms IS NOT NULL ORDER BY deleted_at_ms LIMIT $1) AS s \
                              WHERE NOT EXISTS (SELECT 1 FROM webhook_deliveries d WHERE d.subscription_id = s.id))";
                tx::execute(tx, remove, [SLICE.into()]).await
            })
        })
        .await
    }
}

async fn query(
    connection: &impl ConnectionTrait,
    sql: &str,
    values: Vec<Value>,
) -> Result<Vec<sea_orm::QueryResult>, Error> {
    let backend = connection.get_database_backend();
    Ok(connection.query_all(Statement::from_sql_and_values(backend, sql, values)).await?)
}

/// Runs `head` on these ids. Of few texts, whatever their number: each text stays prepared, and a list of
/// five hundred weighs some 100 KiB on each connection.
async fn run_on(tx: &Transaction, head: &str, ids: &[Uuid]) -> Result<(), Error> {
    let backend = tx.get_database_backend();
    if backend == DbBackend::Postgres {
        let list = ids.iter().map(Uuid::to_string).collect::<Vec<_>>().join(",");
        let sql = format!("{head} = ANY (CAST($1::text AS uuid[]))");
        tx.execute(Statement::from_sql_and_values(backend, sql, [format!("{{{list}}}").into()])).await?;
        return Ok(());
    }
    for (rows, chunk) in chunks(ids) {
        let sql = format!("{head} IN ({})", rows.list("?"));
        let values = chunk.iter().map(|id| (*id).into());
        tx.execute(Statement::from_sql_and_values(backend, sql, values)).await?;
    }
    Ok(())
}
