//! One process at a time: two that dispatch from one database would each send everything.

use std::fs::{File, TryLockError};
use std::path::PathBuf;
use std::time::Duration;

use sea_orm::sqlx::{self, Connection as _, PgConnection};

use super::{Error, Pool, Store};

/// PostgreSQL's name of the lock: "posthorn" in ASCII.
const LOCK_KEY: i64 = 0x706f_7374_686f_726e;
/// A killed process's connection is noticed late by the server; its lock is waited for so long.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);

/// Held as long as this process may dispatch; released when dropped and when the process dies.
#[derive(Debug)]
pub enum InstanceLock {
    /// An advisory lock, which lives as long as its connection.
    Postgres(Box<PgConnection>),
    /// A lock on a file beside the database.
    Sqlite(File),
}

impl Store {
    /// Takes the database for this process; waits a little where another holds it.
    pub async fn lock_instance(&self) -> Result<InstanceLock, Error> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match self.try_lock_instance().await? {
                Some(lock) => return Ok(lock),
                None if tokio::time::Instant::now() >= deadline => {
                    return Err(Error::Unusable(
                        "DATABASE_URL: another posthorn is running on this database".to_owned(),
                    ));
                }
                None => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn try_lock_instance(&self) -> Result<Option<InstanceLock>, Error> {
        match &self.pool {
            Pool::Postgres { url, .. } => {
                let mut connection = PgConnection::connect(url).await?;
                let taken: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
                    .bind(LOCK_KEY)
                    .fetch_one(&mut connection)
                    .await?;
                Ok(taken.then(|| InstanceLock::Postgres(Box::new(connection))))
            }
            Pool::Sqlite(pool) => {
                let mut path = pool.connect_options().get_filename().as_os_str().to_owned();
                path.push(".lock");
                let unusable = |error: std::io::Error| Error::Unusable(format!("DATABASE_URL: {error}"));
                let file = File::create(PathBuf::from(path)).map_err(unusable)?;
                match file.try_lock() {
                    Ok(()) => Ok(Some(InstanceLock::Sqlite(file))),
                    Err(TryLockError::WouldBlock) => Ok(None),
                    Err(TryLockError::Error(error)) => Err(unusable(error)),
                }
            }
        }
    }
}

impl InstanceLock {
    /// Whether the lock is still held; a broken connection has lost it.
    pub async fn is_held(&mut self) -> bool {
        match self {
            Self::Postgres(connection) => connection.ping().await.is_ok(),
            Self::Sqlite(_) => true,
        }
    }
}
