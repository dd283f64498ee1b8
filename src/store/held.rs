//! A connection that one writer keeps, so that a batch does not pay for the pool's check.

use std::time::Duration;

use sea_orm::sqlx::pool::PoolConnection;
use sea_orm::sqlx::{Postgres, Sqlite};
use tokio::time::timeout;

use super::{Error, Pool, Store};

/// How long a batch may take before its connection counts as dead.
const DEADLINE: Duration = Duration::from_secs(20);

/// One writer's connection, taken when first needed and given up when it breaks.
#[derive(Debug)]
pub(super) struct Held {
    store: Store,
    connection: Option<Connection>,
}

/// A connection to either database.
#[derive(Debug)]
pub(super) enum Connection {
    Postgres(PoolConnection<Postgres>),
    Sqlite(PoolConnection<Sqlite>),
}

impl Held {
    pub(super) fn new(store: Store) -> Self {
        Self { store, connection: None }
    }

    /// Runs `work` on the connection, alone among the writers where the database asks for that.
    ///
    /// Not to be dropped half-way: the caller is a writer's own task. A connection that failed or
    /// did not answer in time is closed, not reused: what it was doing may go on.
    pub(super) async fn run<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match &self.store.pool {
                Pool::Postgres { hot, .. } => Connection::Postgres(hot.acquire().await?),
                Pool::Sqlite(pool) => Connection::Sqlite(pool.acquire().await?),
            },
        };
        let _turn = self.store.turn.take().await;
        let result = timeout(DEADLINE, work(&mut connection))
            .await
            .unwrap_or_else(|_| Err(Error::OutcomeUnknown("no answer in time".to_owned())));
        match &result {
            Ok(_) | Err(Error::Conflict | Error::Refused(_)) => self.connection = Some(connection),
            Err(_) => connection.discard(),
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
