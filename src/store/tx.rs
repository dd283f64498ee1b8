//! Transactions, kept where nobody can drop them half-way.
//!
//! A handler's future ends when its client leaves, and a transaction cancelled inside `BEGIN` can
//! go back to the pool open: the next statement on that connection then reports success and is
//! lost. So a transaction runs in a task of its own, whoever waits for it.
//!
//! Those tasks are few: each needs a permit before it is spawned, and keeps it to its end.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use sea_orm::{ConnectionTrait, DbBackend, EntityTrait, QuerySelect as _, Select, Statement, Value};

use super::connections::NO_ANSWER;
use super::database::Transaction;
use super::{Database, Error, Store};

/// How long a caller waits for a permit, and then for the transaction; the transaction itself goes on.
const PATIENCE: Duration = Duration::from_secs(10);

/// Changes nothing, but waits until no other process writes to the file, such as a command beside the service. A
/// transaction that has read before it writes is refused where another wrote meanwhile.
const TAKE_THE_FILE: &str = "DELETE FROM posthorn_migrations WHERE false";

/// The work inside a transaction.
pub(super) type Work<'tx, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'tx>>;

/// Runs `work` in a transaction: committed where it returns `Ok`, rolled back where it doesn't.
///
/// May be dropped: the transaction then goes on alone to its end, unless it waits for its permit still.
pub(super) async fn run<T, F>(store: &Store, work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: for<'tx> FnOnce(&'tx Transaction) -> Work<'tx, T> + Send + 'static,
{
    run_on(store, store.orm.clone(), work).await
}

/// As [`run`], for housekeeping, which nobody waits for.
pub(super) async fn run_patiently<T, F>(store: &Store, work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: for<'tx> FnOnce(&'tx Transaction) -> Work<'tx, T> + Send + 'static,
{
    run_on(store, store.patient.clone(), work).await
}

async fn run_on<T, F>(store: &Store, database: Database, work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: for<'tx> FnOnce(&'tx Transaction) -> Work<'tx, T> + Send + 'static,
{
    let store = store.clone();
    let permit = tokio::time::timeout(PATIENCE, Arc::clone(&store.transactions).acquire_owned()).await;
    // It is never closed.
    let Ok(Ok(permit)) = permit else {
        return Err(Error::Unavailable("too many transactions are under way".to_owned()));
    };
    let task = tokio::spawn(async move {
        let _permit = permit;
        let _turn = store.turn.take_behind_writers().await;
        store.check_disk()?;
        let done = database.transact(async |tx| attempt(tx, work).await).await;
        let done = done.unwrap_or_else(|| Err(Error::OutcomeUnknown(NO_ANSWER.to_owned())));
        done.inspect_err(|error| store.note_disk(error))
    });
    match tokio::time::timeout(PATIENCE, task).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(Error::OutcomeUnknown("the transaction's task ended early".to_owned())),
        Err(_) => Err(Error::OutcomeUnknown(NO_ANSWER.to_owned())),
    }
}

async fn attempt<T, F>(tx: Transaction, work: F) -> Result<T, Error>
where
    F: for<'tx> FnOnce(&'tx Transaction) -> Work<'tx, T>,
{
    if tx.get_database_backend() == DbBackend::Sqlite {
        tx.execute_unprepared(TAKE_THE_FILE).await?;
    }
    let done = work(&tx).await?;
    tx.commit().await.map_err(|error| match Error::from(error) {
        Error::SyncFailed(reason) => Error::SyncFailed(reason),
        other => Error::OutcomeUnknown(other.to_string()),
    })?;
    Ok(done)
}

/// Runs a statement and tells how many rows it changed.
pub(super) async fn execute<const N: usize>(
    connection: &impl ConnectionTrait,
    sql: &str,
    values: [Value; N],
) -> Result<u64, Error> {
    let statement = Statement::from_sql_and_values(connection.get_database_backend(), sql, values);
    Ok(connection.execute(statement).await?.rows_affected())
}

/// Locks the rows that `query` finds against other changes. SQLite's transactions exclude each
/// other anyway.
pub(super) fn locking<E: EntityTrait>(tx: &Transaction, query: Select<E>) -> Select<E> {
    match tx.get_database_backend() {
        DbBackend::Postgres => query.lock_exclusive(),
        DbBackend::Sqlite | DbBackend::MySql => query,
    }
}
