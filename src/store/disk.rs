//! What is done when the disk fails under SQLite. PostgreSQL looks after its own.
//!
//! After a sync that failed the system takes what was written for safe, though it may never reach the disk, and a
//! later sync succeeds without it. So nothing may be built on it: the process ends, and the next one reads what is
//! there and writes it once more, into another file.

use std::path::Path;

use sea_orm::sqlx::{self, SqlitePool};
use tracing::{error, warn};

use super::{Error, Pool, Store};

/// Files up to so many bytes are checked before the service starts: half a second.
const CHECKED_FIRST_MAX: i64 = 256 * 1024 * 1024;

/// Whether SQLite's log lies beside the file with something in it, which a process that ends by itself leaves empty.
pub(super) fn has_log(file: &Path) -> bool {
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    std::fs::metadata(Path::new(&log)).is_ok_and(|log| log.len() > 0)
}

async fn quick_check(pool: &SqlitePool) -> Result<(), Error> {
    let found: String = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(pool).await?;
    if found == "ok" {
        return Ok(());
    }
    Err(Error::Unusable(format!(
        "DATABASE_URL: the database file is damaged: restore a copy of it ({found})"
    )))
}

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

    /// Checks the file's structure, where the process before was killed: what it wrote last may have been cut off by the
    /// same that ended it. A large file is checked behind the service. An error where it is damaged; SQLite keeps no
    /// checksums, so a byte that changed inside of a row is not noticed.
    pub async fn check_file(&self) -> Result<(), Error> {
        let Pool::Sqlite(pool) = &self.pool else { return Ok(()) };
        if !self.was_killed {
            return Ok(());
        }
        let bytes: i64 =
            sqlx::query_scalar("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
                .fetch_one(pool)
                .await?;
        if bytes <= CHECKED_FIRST_MAX {
            return quick_check(pool).await;
        }
        let store = self.clone();
        tokio::spawn(async move {
            let Pool::Sqlite(pool) = &store.pool else { return };
            if let Err(error) = quick_check(pool).await {
                error!(%error, "a check of the database file");
                store.disk_failed.cancel();
            }
        });
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
