//! A connection that one writer keeps, so that a batch does not pay for the pool's check.

use std::time::Duration;

use sea_orm::sqlx::pool::PoolConnection;
use sea_orm::sqlx::{Executor as _, Postgres, Sqlite};
use tokio::time::{Instant, timeout};

use super::{Error, Pool, Store};

/// How long a batch may take before its connection counts as dead.
const DEADLINE: Duration = Duration::from_secs(20);

/// PostgreSQL keeps the plans of a hot session until it learns more of the tables. One that was made when it knew
/// them to be all but empty reads all that there is by now, so none gets older than this.
const PLANS_KEPT: Duration = Duration::from_secs(1);

/// Room for the pages that batches change again and again: some of each index for each busy lane. With SQLite's
/// 2 MiB a batch for a thousand lanes read a hundred pages again that it had written before.
const SQLITE_CACHE: &str = "PRAGMA cache_size = -16384";

/// One writer's connection, taken when first needed and given up when it breaks. On SQLite it is the one that
/// comes with the turn to write.
#[derive(Debug)]
pub(super) struct Held {
    store: Store,
    connection: Option<PoolConnection<Postgres>>,
    planned_at: Instant,
}

/// A connection to either database.
#[derive(Debug)]
pub(super) enum Connection {
    Postgres(PoolConnection<Postgres>),
    Sqlite(PoolConnection<Sqlite>),
}

impl Held {
    pub(super) fn new(store: Store) -> Self {
        Self { store, connection: None, planned_at: Instant::now() }
    }

    /// Runs `work` on the connection, alone among the writers where the database asks for that.
    ///
    /// Not to be dropped half-way: the caller is a writer's own task. A connection that failed or
    /// did not answer in time is closed, not reused: what it was doing may go on.
    pub(super) async fn run<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut turn = self.store.turn.take().await;
        self.store.check_disk()?;
        let mut connection = match (&self.store.pool, turn.as_mut().and_then(|kept| kept.take())) {
            (Pool::Postgres { hot, .. }, _) => Connection::Postgres(match self.connection.take() {
                Some(connection) => connection,
                None => hot.acquire().await?,
            }),
            (Pool::Sqlite(_), Some(connection)) => Connection::Sqlite(connection),
            (Pool::Sqlite(pool), None) => {
                let mut connection = pool.acquire().await?;
                connection.execute(SQLITE_CACHE).await?;
                Connection::Sqlite(connection)
            }
        };
        let planned_at = &mut self.planned_at;
        let work = async {
            if let Connection::Postgres(connection) = &mut connection
                && planned_at.elapsed() > PLANS_KEPT
            {
                connection.execute("DISCARD PLANS").await?;
                *planned_at = Instant::now();
            }
            work(&mut connection).await
        };
        let result = timeout(DEADLINE, work)
            .await
            .unwrap_or_else(|_| Err(Error::OutcomeUnknown("no answer in time".to_owned())))
            .inspect_err(|error| self.store.note_disk(error));
        match (&result, connection) {
            (Ok(_) | Err(Error::Conflict | Error::Refused(_)), Connection::Postgres(connection)) => {
                self.connection = Some(connection);
            }
            (Ok(_) | Err(Error::Conflict | Error::Refused(_)), Connection::Sqlite(connection)) => {
                if let Some(kept) = &mut turn {
                    **kept = Some(connection);
                }
            }
            (Err(_), connection) => connection.discard(),
        }
        result
    }
}

impl Connection {
    fn discard(self) {
        match self {
            Self::Postgres(connection) => drop(connection.detach()),
            Self::Sqlite(connection) => drop(connection.detach()),
        }
    }
}
