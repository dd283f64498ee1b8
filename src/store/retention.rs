//! Removing what is old: finished deliveries with their attempts and events, in small slices.
//!
//! A slice locks only finished deliveries and their events, which neither ingest nor dispatch
//! waits for.

use posthorn_domain::time::Timestamp;
use sea_orm::{ConnectionTrait as _, DatabaseTransaction, DbBackend, Statement, Value};
use uuid::Uuid;

use super::sqlite::chunks;
use super::stats::{Counts, Writer};
use super::{Error, Store, tx};

/// Deliveries of one slice: some milliseconds of work.
const SLICE: i64 = 500;

/// What the deliveries of a subscription end with that stays disabled for too long.
const DISABLED: &str = "subscription disabled";

impl Store {
    /// Removes one slice of deliveries that ended before `until`; returns how many. By
    /// `webhook_deliveries_finished` and primary keys.
    pub async fn remove_finished(&self, until: Timestamp) -> Result<u64, Error> {
        tx::run(self, move |tx| {
            Box::pin(async move {
                let find = "SELECT id, event_id FROM webhook_deliveries WHERE completed_at_ms < $1 \
                            ORDER BY completed_at_ms LIMIT $2";
                let rows = query(tx, find, vec![until.as_millis().into(), SLICE.into()]).await?;
                let mut ids = Vec::with_capacity(rows.len());
                let mut events = Vec::with_capacity(rows.len());
                for row in &rows {
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

    /// Ends one slice of what subscriptions hold that have been disabled since before `until`;
    /// returns how many deliveries.
    pub async fn fail_disabled(&self, until: Timestamp, now: Timestamp) -> Result<u64, Error> {
        tx::run(self, move |tx| {
            Box::pin(async move {
                let end = "UPDATE webhook_deliveries SET status = 4, completed_at_ms = $2, \
                           next_attempt_at_ms = NULL, error = $3 WHERE id IN (SELECT d.id FROM subscriptions s \
                           JOIN webhook_deliveries d ON d.subscription_id = s.id AND d.status < 3 \
                           WHERE s.status = 2 AND s.deleted_at_ms IS NULL AND s.updated_at_ms < $1 LIMIT $4)";
                let values = [until.as_millis().into(), now.as_millis().into(), DISABLED.into(), SLICE.into()];
                let ended = tx::execute(tx, end, values).await?;
                let counts = Counts { failed: ended, ..Counts::default() };
                counts.add(tx, now, Writer::Control).await?;
                Ok(ended)
            })
        })
        .await
    }

    /// Removes one slice of deleted subscriptions of which no delivery is left; returns how many.
    pub async fn remove_deleted_subscriptions(&self) -> Result<u64, Error> {
        tx::run(self, move |tx| {
            Box::pin(async move {
                let remove = "DELETE FROM subscriptions WHERE id IN (SELECT s.id FROM subscriptions s \
                              WHERE s.deleted_at_ms IS NOT NULL AND NOT EXISTS (SELECT 1 FROM webhook_deliveries d \
                              WHERE d.subscription_id = s.id) ORDER BY s.deleted_at_ms LIMIT $1)";
                tx::execute(tx, remove, [SLICE.into()]).await
            })
        })
        .await
    }
}

async fn query(
    tx: &DatabaseTransaction,
    sql: &str,
    values: Vec<Value>,
) -> Result<Vec<sea_orm::QueryResult>, Error> {
    Ok(tx.query_all(Statement::from_sql_and_values(tx.get_database_backend(), sql, values)).await?)
}

/// Runs `head` on these ids. Of few texts, whatever their number: each text stays prepared, and a list of
/// five hundred weighs some 100 KiB on each connection.
async fn run_on(tx: &DatabaseTransaction, head: &str, ids: &[Uuid]) -> Result<(), Error> {
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
