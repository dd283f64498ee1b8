//! Statements that end: each has a deadline, and a connection that may be dead is not used again.
//!
//! A connection can die without being closed: the host behind it vanished, or what lies between forgot about it. Nothing
//! then ever answers, and no ping does. So where one statement gets no answer in time, or hears that its session
//! cannot serve, all connections of its generation are given up, and new ones are made as they are needed
//! ([`Connections`]).

use std::borrow::Cow;
use std::time::{Duration, Instant};

use posthorn_migration::names::on_sqlite;
use sea_orm::prelude::async_trait::async_trait;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, ExecResult, QueryResult,
    RuntimeErr, Statement, TransactionTrait as _,
};
use tokio::time::timeout;

use super::Error;
use super::connections::{Connections, Kind, NO_ANSWER};

/// The database as sea-orm uses it, with statements that end, and each table under the name that it has there.
#[derive(Clone, Debug)]
pub(super) struct Database {
    kind: Kind,
    deadline: Duration,
    /// A question that gets no answer for so long is asked once more, on another connection.
    asked_again_after: Option<Duration>,
    connections: Connections,
}

impl Database {
    /// Over connections of a kind; each statement takes at most `deadline`, the wait for a connection included.
    pub(super) const fn new(connections: Connections, kind: Kind, deadline: Duration) -> Self {
        Self { kind, deadline, asked_again_after: None, connections }
    }

    /// The same; a question that gets no answer within `patience` is asked once more. Nothing is written by what is
    /// asked here.
    pub(super) fn asking_again_after(self, patience: Duration) -> Self {
        Self { asked_again_after: Some(patience), ..self }
    }

    /// The same connections with another deadline.
    pub(super) fn within(&self, deadline: Duration) -> Self {
        Self { deadline, asked_again_after: None, ..self.clone() }
    }

    /// Without a deadline: for what changes the schema.
    pub(super) fn unbounded(&self) -> DatabaseConnection {
        self.connections.orm(self.kind).0
    }

    /// How long a statement may take.
    pub(super) const fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Runs `work` in a transaction, to PostgreSQL for at most the deadline: given up then, its connection is of a
    /// generation that is given up with it. A connection to a file would be used again with what was begun on it, so
    /// there it goes on to its end. None: no answer in time.
    pub(super) async fn transact<T>(
        &self,
        work: impl AsyncFnOnce(Transaction) -> Result<T, Error>,
    ) -> Option<Result<T, Error>> {
        let (orm, generation) = self.connections.orm(self.kind);
        let began = Instant::now();
        let work = async {
            match orm.begin().await {
                Ok(tx) => work(Transaction(tx))
                    .await
                    .inspect_err(|error| self.connections.note(error, began, generation)),
                Err(error) => {
                    self.note(&error, began, generation);
                    Err(error.into())
                }
            }
        };
        if self.connections.backend() == DbBackend::Sqlite {
            return Some(work.await);
        }
        let result = timeout(self.deadline, work).await.ok();
        if result.is_none() {
            self.connections.silent(began, generation);
        }
        result
    }

    /// Asks, and asks again.
    async fn asked<T, F>(&self, ask: impl Fn(DatabaseConnection) -> F) -> Result<T, DbErr>
    where
        F: Future<Output = Result<T, DbErr>>,
    {
        let mut left = self.deadline;
        if let Some(patience) = self.asked_again_after {
            left = left.saturating_sub(patience);
            let first = self.bounded(patience, &ask).await;
            if !matches!(&first, Err(DbErr::Conn(RuntimeErr::Internal(_)) | DbErr::ConnectionAcquire(_))) {
                return first;
            }
        }
        self.bounded(left, ask).await
    }

    async fn bounded<T, F>(
        &self,
        deadline: Duration,
        work: impl FnOnce(DatabaseConnection) -> F,
    ) -> Result<T, DbErr>
    where
        F: Future<Output = Result<T, DbErr>>,
    {
        let (orm, generation) = self.connections.orm(self.kind);
        let began = Instant::now();
        let Ok(result) = timeout(deadline, work(orm)).await else {
            self.connections.silent(began, generation);
            return Err(DbErr::Conn(RuntimeErr::Internal(NO_ANSWER.to_owned())));
        };
        match &result {
            Ok(_) => self.connections.answered(),
            Err(error) => self.note(error, began, generation),
        }
        result
    }

    /// What an error says of the connections.
    fn note(&self, error: &DbErr, began: Instant, generation: u64) {
        match error {
            DbErr::Conn(RuntimeErr::SqlxError(error))
            | DbErr::Exec(RuntimeErr::SqlxError(error))
            | DbErr::Query(RuntimeErr::SqlxError(error)) => self.connections.failed(error, began, generation),
            DbErr::ConnectionAcquire(_) => self.connections.unreachable(began, generation),
            _ => {}
        }
    }
}

#[async_trait]
impl ConnectionTrait for Database {
    fn get_database_backend(&self) -> DbBackend {
        self.connections.backend()
    }

    async fn execute(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        let statement = named(statement);
        self.bounded(self.deadline, |orm| async move { orm.execute(statement).await }).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        let sql = named_text(self.get_database_backend(), sql);
        self.bounded(self.deadline, |orm| async move { orm.execute_unprepared(&sql).await }).await
    }

    async fn query_one(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        let statement = named(statement);
        self.asked(|orm| {
            let statement = statement.clone();
            async move { orm.query_one(statement).await }
        })
        .await
    }

    async fn query_all(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let statement = named(statement);
        self.asked(|orm| {
            let statement = statement.clone();
            async move { orm.query_all(statement).await }
        })
        .await
    }
}

/// A transaction of it.
#[derive(Debug)]
pub(super) struct Transaction(DatabaseTransaction);

impl Transaction {
    /// Makes what was done last.
    pub(super) async fn commit(self) -> Result<(), DbErr> {
        self.0.commit().await
    }
}

#[async_trait]
impl ConnectionTrait for Transaction {
    fn get_database_backend(&self) -> DbBackend {
        self.0.get_database_backend()
    }

    async fn execute(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.0.execute(named(statement)).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.0.execute_unprepared(&named_text(self.get_database_backend(), sql)).await
    }

    async fn query_one(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.0.query_one(named(statement)).await
    }

    async fn query_all(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.0.query_all(named(statement)).await
    }
}

/// A statement with the tables' names in its database.
fn named(mut statement: Statement) -> Statement {
    if let Cow::Owned(sql) = named_text(statement.db_backend, &statement.sql) {
        statement.sql = sql;
    }
    statement
}

fn named_text(backend: DbBackend, sql: &str) -> Cow<'_, str> {
    match backend {
        DbBackend::Sqlite => on_sqlite(sql),
        DbBackend::Postgres | DbBackend::MySql => Cow::Borrowed(sql),
    }
}
