//! A connection that one writer keeps, so that a batch does not pay for the pool's check.

use std::time::{Duration, Instant};

use sea_orm::sqlx::pool::PoolConnection;
use sea_orm::sqlx::{Executor as _, Postgres, Sqlite};
use tokio::time::timeout;

use super::connections::{Connections, Kind, NO_ANSWER};
use super::{Error, Pool, Store};

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
    /// With its generation.
    connection: Option<(PoolConnection<Postgres>, u64)>,
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
    /// did not answer in time is closed, not reused: what it was doing may go on. So is one that was there when
    /// another fell silent.
    pub(super) async fn run<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut turn = self.store.turn.take().await;
        self.store.check_disk()?;
        let connections = self.store.connections.clone();
        let mut generation = 0;
        let mut connection = match (&self.store.pool, turn.as_mut().and_then(|kept| kept.take())) {
            (Pool::Postgres { .. }, _) => {
                let mut kept = self.connection.take();
                if let Some((connection, _)) = kept.take_if(|(_, of)| connections.is_given_up(*of)) {
                    Connection::Postgres(connection).discard();
                }
                let (connection, of) = match kept {
                    Some(kept) => kept,
                    None => acquire(&connections).await?,
                };
                generation = of;
                Connection::Postgres(connection)
            }
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
        let began = Instant::now();
        let result = timeout(self.store.lanes.deadline(), work).await.unwrap_or_else(|_| {
            connections.silent(began, generation);
            Err(Error::OutcomeUnknown(NO_ANSWER.to_owned()))
        });
        match &result {
            Ok(_) => connections.answered(),
            Err(error) => {
                connections.note(error, began, generation);
                self.store.note_disk(error);
            }
        }
        match (&result, connection) {
            (Ok(_) | Err(Error::Conflict | Error::Refused(_)), Connection::Postgres(connection)) => {
                self.connection = Some((connection, generation));
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

/// A hot connection to PostgreSQL, with its generation.
async fn acquire(connections: &Connections) -> Result<(PoolConnection<Postgres>, u64), Error> {
    let no_pool = || Error::Unavailable("no connections to PostgreSQL".to_owned());
    let began = Instant::now();
    let (pool, generation) = connections.postgres(Kind::Hot).ok_or_else(no_pool)?;
    let connection =
        pool.acquire().await.inspect_err(|error| connections.failed(error, began, generation))?;
    Ok((connection, generation))
}

impl Connection {
    fn discard(self) {
        match self {
            Self::Postgres(connection) => drop(connection.detach()),
            Self::Sqlite(connection) => drop(connection.detach()),
        }
    }
}
