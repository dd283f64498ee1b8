//! One at a time: one process on an SQLite file, since two would each send everything, and on PostgreSQL one
//! that changes the schema.

use std::fs::{File, TryLockError};
use std::time::Duration;

use sea_orm::sqlx::{self, Connection as _, Executor as _, PgConnection};

use super::{Error, Pool, Store, files};

/// PostgreSQL's name of the lock: "posthorn" in ASCII.
const LOCK_KEY: i64 = 0x706f_7374_686f_726e;
/// A process that is being killed holds its file a moment longer.
const FILE_PATIENCE: Duration = Duration::from_secs(5);
/// Others may be changing the schema, one after the other.
const SCHEMA_PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

/// Released when dropped and when the process dies.
#[derive(Debug)]
pub struct InstanceLock {
    _kept: Kept,
}

#[derive(Debug)]
enum Kept {
    /// A transaction with an advisory lock, which a pooler between leaves alone; it ends with its connection.
    Schema { _connection: Box<PgConnection> },
    /// A lock on a file beside the database.
    File { _file: File },
}

impl Store {
    /// Takes the SQLite file for this process, to be kept as long as it runs; or PostgreSQL's schema, to be
    /// kept while it is changed. Waits a little where another holds it.
    pub async fn lock_instance(&self) -> Result<InstanceLock, Error> {
        let (patience, what) = match &self.pool {
            Pool::Postgres { .. } => (SCHEMA_PATIENCE, "is changing the schema of this database"),
            Pool::Sqlite(_) => (FILE_PATIENCE, "is running on this database"),
        };
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            match self.try_lock_instance().await? {
                Some(kept) => return Ok(InstanceLock { _kept: kept }),
                None if tokio::time::Instant::now() >= deadline => {
                    return Err(Error::Unusable(format!("DATABASE_URL: another posthorn {what}")));
                }
                None => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn try_lock_instance(&self) -> Result<Option<Kept>, Error> {
        match &self.pool {
            Pool::Postgres { direct_url, .. } => {
                let mut connection = PgConnection::connect(direct_url).await?;
                connection.execute("BEGIN").await?;
                let taken: bool = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)")
                    .bind(LOCK_KEY)
                    .fetch_one(&mut connection)
                    .await?;
                Ok(taken.then(|| Kept::Schema { _connection: Box::new(connection) }))
            }
            Pool::Sqlite(pool) => {
                let unusable = |error: std::io::Error| Error::Unusable(format!("DATABASE_URL: {error}"));
                let file = files::open_lock(pool.connect_options().get_filename()).map_err(unusable)?;
                match file.try_lock() {
                    Ok(()) => Ok(Some(Kept::File { _file: file })),
                    Err(TryLockError::WouldBlock) => Ok(None),
                    Err(TryLockError::Error(error)) => Err(unusable(error)),
                }
            }
        }
    }
}
