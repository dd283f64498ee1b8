//! Deleting a subscription: gone at once for everybody, its unfinished deliveries ended in slices behind.
//!
//! What is left after the first few stands in `deletions`, and reads as ended from the commit on
//! (`lane_wide.rs`): no lane loads it, and a late outcome adds its attempt and nothing else.

use posthorn_domain::audit::{Action, Stamp, Subject};
use posthorn_domain::id::SubscriptionId;
use posthorn_domain::time::Timestamp;
use sea_orm::{ActiveModelTrait as _, ConnectionTrait as _, DbBackend, IntoActiveModel as _, Statement};

use super::super::database::Transaction;
use super::super::lane_wide::DELETED;
use super::super::notices::{self, Notice};
use super::super::stats::{Counts, Writer};
use super::super::{Error, Store, audit, tx, vault};
use super::live;

/// Deliveries that are ended with the deletion itself: most subscriptions have no more.
const AT_ONCE: i64 = 100;
/// Deliveries of one slice: some milliseconds of work.
const SLICE: i64 = 500;

/// An outcome that is being recorded holds its delivery, and with others that it waits for: those are left for later,
/// so that neither waits for the other.
const END_ON_POSTGRES: &str = "
WITH slice AS MATERIALIZED (
    SELECT id FROM webhook_deliveries WHERE subscription_id = $1 AND status < 3 AND sequence > $2
    ORDER BY sequence LIMIT $3 FOR UPDATE SKIP LOCKED
)
UPDATE webhook_deliveries SET status = 4, completed_at_ms = $4, next_attempt_at_ms = NULL, error = $5
WHERE id = ANY (ARRAY(SELECT id FROM slice)) RETURNING sequence";

const END_ON_SQLITE: &str = "
UPDATE webhook_deliveries SET status = 4, completed_at_ms = $4, next_attempt_at_ms = NULL, error = $5
WHERE id IN (SELECT id FROM webhook_deliveries WHERE subscription_id = $1 AND status < 3 AND sequence > $2
             ORDER BY sequence LIMIT $3) RETURNING sequence";

/// Whatever the planner knows of the tables: see `connect.rs`.
const BY_INDEX: &str =
    "SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off";

/// A subscription of which deliveries are still to be ended.
#[derive(Clone, Copy, Debug)]
struct Deletion {
    id: SubscriptionId,
    deleted_at: Timestamp,
    /// Those up to this number are ended, but for some that were held.
    ended_to: i64,
}

/// What came of one slice.
struct Slice {
    ended: u64,
    /// Where the next one begins; none where nothing is left.
    go_on_after: Option<i64>,
}

impl Store {
    /// Deletes a subscription; false where it is not there. From then on its unfinished deliveries are `failed` for
    /// whoever reads them; they and the others stay readable until retention removes them. Its secrets go at once.
    pub async fn delete_subscription(&self, id: SubscriptionId, stamp: Stamp) -> Result<bool, Error> {
        let now = stamp.at;
        tx::run(self, move |tx| {
            Box::pin(async move {
                let Some(mut row) = tx::locking(tx, live(id)).one(tx).await? else { return Ok(false) };
                for secret in vault::secrets(&mut row) {
                    secret.text.erase();
                }
                row.previous_signing_until_ms = None;
                row.sealed_by = None;
                row.deleted_at_ms = Some(now.as_millis());
                row.version = row.version.saturating_add(1);
                row.into_active_model().reset_all().update(tx).await?;
                // The lane first: no event is accepted once it is gone.
                tx::execute(tx, "DELETE FROM lanes WHERE subscription_id = $1", [id.0.into()]).await?;
                tx::execute(tx, "DELETE FROM lane_health WHERE subscription_id = $1", [id.0.into()]).await?;
                let deletion = Deletion { id, deleted_at: now, ended_to: 0 };
                let slice = deletion.end(tx, AT_ONCE).await?;
                if let Some(ended_to) = slice.go_on_after {
                    let note = "INSERT INTO deletions (subscription_id, deleted_at_ms, ended_to) VALUES ($1, $2, $3)";
                    tx::execute(tx, note, [id.0.into(), now.as_millis().into(), ended_to.into()]).await?;
                }
                slice.count(tx, now).await?;
                let subject = Subject::Subscription(id);
                audit::note(tx, stamp, Action::SubscriptionDeleted, &subject, &[]).await?;
                notices::tell(tx, &Notice::Deleted(id)).await?;
                Ok(true)
            })
        })
        .await
    }

    /// Ends the next slice of what deleted subscriptions had still to send; returns how many deliveries, none where
    /// nothing is left. By `webhook_deliveries_unfinished`, from where the slice before ended.
    pub async fn end_deleted(&self, now: Timestamp) -> Result<Option<u64>, Error> {
        let ask =
            "SELECT subscription_id, deleted_at_ms, ended_to FROM deletions ORDER BY subscription_id LIMIT 1";
        let ask = Statement::from_string(self.orm.get_database_backend(), ask);
        let Some(row) = self.orm.query_one(ask).await? else { return Ok(None) };
        let deletion = Deletion {
            id: SubscriptionId(row.try_get_by_index(0)?),
            deleted_at: Timestamp::from_millis(row.try_get_by_index(1)?),
            ended_to: row.try_get_by_index(2)?,
        };
        let id = deletion.id.0;
        let ended = tx::run_patiently(self, move |tx| {
            Box::pin(async move {
                let slice = deletion.end(tx, SLICE).await?;
                match slice.go_on_after {
                    Some(ended_to) => {
                        let note = "UPDATE deletions SET ended_to = $2 WHERE subscription_id = $1";
                        tx::execute(tx, note, [id.into(), ended_to.into()]).await?;
                    }
                    None => {
                        tx::execute(tx, "DELETE FROM deletions WHERE subscription_id = $1", [id.into()])
                            .await?;
                    }
                }
                slice.count(tx, now).await?;
                Ok(slice.ended)
            })
        });
        ended.await.map(Some)
    }
}

impl Deletion {
    /// Ends up to `limit` deliveries, the earliest first.
    async fn end(self, tx: &Transaction, limit: i64) -> Result<Slice, Error> {
        let backend = tx.get_database_backend();
        let end = if backend == DbBackend::Postgres { END_ON_POSTGRES } else { END_ON_SQLITE };
        if backend == DbBackend::Postgres {
            tx.execute_unprepared(BY_INDEX).await?;
        }
        let values = [
            self.id.0.into(),
            self.ended_to.into(),
            limit.into(),
            self.deleted_at.as_millis().into(),
            DELETED.into(),
        ];
        let rows = tx.query_all(Statement::from_sql_and_values(backend, end, values)).await?;
        let mut last = self.ended_to;
        for row in &rows {
            last = last.max(row.try_get_by_index(0)?);
        }
        let ended = u64::try_from(rows.len()).unwrap_or(u64::MAX);
        if i64::try_from(rows.len()).is_ok_and(|rows| rows >= limit) {
            return Ok(Slice { ended, go_on_after: Some(last) });
        }
        let left = "SELECT 1 FROM webhook_deliveries WHERE subscription_id = $1 AND status < 3 LIMIT 1";
        let left = tx.query_one(Statement::from_sql_and_values(backend, left, [self.id.0.into()])).await?;
        // What is left was held by others: from the first once more.
        Ok(Slice { ended, go_on_after: left.map(|_| 0) })
    }
}

impl Slice {
    async fn count(&self, tx: &Transaction, now: Timestamp) -> Result<(), Error> {
        Counts { failed: self.ended, ..Counts::default() }.add(tx, now, Writer::Control).await
    }
}
