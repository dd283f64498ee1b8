//! What is done when the disk fails under SQLite. PostgreSQL looks after its own.
//!
//! After a sync that failed the system takes what was written for safe, though it may never reach the disk, and a
//! later sync succeeds without it. So nothing may be built on it: the process ends, and the next one reads what is
//! there and writes it once more, into another file.

use sea_orm::sqlx;
use tracing::warn;

use super::{Error, Pool, Store};

impl Store {
    /// Waits until the disk fails. May be dropped.
    pub async fn disk_failed(&self) {
        self.disk_failed.cancelled().await;
    }

    /// Writes what an earlier process left in SQLite's log into the database file, and syncs that.
    pub async fn settle_log(&self) -> Result<(), Error> {
        let Pool::Sqlite(pool) = &self.pool else { return Ok(()) };
        let (busy, _, _): (i64, i64, i64) =
            sqlx::query_as("PRAGMA wal_checkpoint(FULL)").fetch_one(pool).await?;
        if busy != 0 {
            warn!("another program reads an old state of the database file: the log stays as it was left");
        }
        Ok(())
    }

    /// An error once the disk has failed. To be asked with the turn to write.
    pub(super) fn check_disk(&self) -> Result<(), Error> {
        if self.disk_failed.is_cancelled() {
            return Err(Error::Unavailable("the disk has failed".to_owned()));
        }
        Ok(())
    }

    /// Lets nobody write any more where `error` says that the disk has failed. To be called with the turn to write.
    pub(super) fn note_disk(&self, error: &Error) {
        if let Error::SyncFailed(_) = error {
            self.disk_failed.cancel();
        }
    }
}
