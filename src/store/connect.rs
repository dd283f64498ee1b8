//! Opening the database.

use std::path::Path;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use posthorn_migration::{Migrator, MigratorTrait as _};
use sea_orm::sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sea_orm::sqlx::{ConnectOptions as _, Executor as _, PgPool};
use sea_orm::{ConnectionTrait as _, SqlxPostgresConnector, SqlxSqliteConnector, Statement};

use super::{Error, Pool, Store, WriteTurn};

/// How to open the database.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `sqlite://PATH` or `postgres://…`.
    pub url: String,
}

/// Connections for whatever comes; the hot paths hold their own.
const GENERAL_CONNECTIONS: u32 = 16;
/// One for each writer, one for the lanes, and one to spare while a broken one is replaced.
const HOT_CONNECTIONS: u32 = 4;
/// How long to wait for a connection before the database counts as not available.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// A general statement is planned anew each time, so that a plan made for an empty table does not
/// outlive it, and no statement runs without end.
const GENERAL_SESSION: &str = "SET plan_cache_mode = force_custom_plan; SET statement_timeout = '15s'";

/// The hot statements find every row by an index, whatever the planner knows of the tables when it
/// plans them: with a plan kept from an empty table one lane fell from 1,500 to 100 deliveries/s. So they
/// have but one plan, and making it anew each time would be a third of what a small batch costs.
const HOT_SESSION: &str = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; \
     SET plan_cache_mode = force_generic_plan; SET synchronous_commit = on; SET statement_timeout = '15s'";

impl Store {
    /// Opens the database at `settings.url`; an SQLite file that is not there is created.
    pub async fn connect(settings: &Settings) -> Result<Self, Error> {
        match settings.url.split_once("://").map(|(scheme, _)| scheme) {
            Some("sqlite") => Self::connect_sqlite(&settings.url).await,
            Some("postgres" | "postgresql") => Self::connect_postgres(&settings.url).await,
            _ => Err(Error::Unusable("DATABASE_URL: expected sqlite://PATH or postgres://…".to_owned())),
        }
    }

    async fn connect_sqlite(url: &str) -> Result<Self, Error> {
        let unusable = |error: &dyn std::fmt::Display| Error::Unusable(format!("DATABASE_URL: {error}"));
        let options = SqliteConnectOptions::from_str(url)
            .map_err(|error| unusable(&error))?
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A 202 means "on disk": NORMAL would lose the last commits with the power.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5))
            .foreign_keys(true)
            .pragma("wal_autocheckpoint", "4000")
            .disable_statement_logging();
        if let Some(folder) = options.get_filename().parent().filter(|folder| *folder != Path::new("")) {
            std::fs::create_dir_all(folder).map_err(|error| unusable(&error))?;
        }
        let pool = SqlitePoolOptions::new()
            .max_connections(GENERAL_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .connect_with(options)
            .await
            .map_err(|error| unusable(&error))?;
        Ok(Self {
            orm: SqlxSqliteConnector::from_sqlx_sqlite_pool(pool.clone()),
            pool: Pool::Sqlite(pool),
            turn: WriteTurn(Some(Arc::default())),
        })
    }

    async fn connect_postgres(url: &str) -> Result<Self, Error> {
        let options = PgConnectOptions::from_str(url)
            .map_err(|error| Error::Unusable(format!("DATABASE_URL: {error}")))?
            .application_name("posthorn")
            .disable_statement_logging();
        let general = postgres_pool(options.clone(), GENERAL_CONNECTIONS, GENERAL_SESSION).await?;
        let hot = postgres_pool(options, HOT_CONNECTIONS, HOT_SESSION).await?;
        Ok(Self {
            orm: SqlxPostgresConnector::from_sqlx_postgres_pool(general.clone()),
            pool: Pool::Postgres { general, hot, url: url.into() },
            turn: WriteTurn(None),
        })
    }

    /// Brings the schema up to date.
    pub async fn migrate_up(&self) -> Result<(), Error> {
        Ok(Migrator::up(&self.orm, None).await?)
    }

    /// Takes the newest `steps` of the schema back, and with them what is stored in it.
    pub async fn migrate_down(&self, steps: u32) -> Result<(), Error> {
        Ok(Migrator::down(&self.orm, Some(steps)).await?)
    }

    /// The steps of the schema, in order, with whether each is applied.
    pub async fn migrations(&self) -> Result<Vec<(String, bool)>, Error> {
        let pending = Migrator::get_pending_migrations(&self.orm).await?;
        let applied = Migrator::get_applied_migrations(&self.orm).await?;
        let row = |done| move |step: &posthorn_migration::Migration| (step.name().to_owned(), done);
        Ok(applied.iter().map(row(true)).chain(pending.iter().map(row(false))).collect())
    }

    /// Whether the database answers.
    pub async fn ready(&self) -> Result<(), Error> {
        let ask = Statement::from_string(self.orm.get_database_backend(), "SELECT 1");
        self.orm.query_one(ask).await?;
        Ok(())
    }

    /// Closes every connection, once those in use are given back.
    pub async fn close(&self) {
        match &self.pool {
            Pool::Postgres { general, hot, .. } => {
                hot.close().await;
                general.close().await;
            }
            Pool::Sqlite(pool) => {
                drop(self.turn.take().await.and_then(|mut kept| kept.take()));
                pool.close().await;
            }
        }
    }
}

async fn postgres_pool(options: PgConnectOptions, size: u32, session: &'static str) -> Result<PgPool, Error> {
    PgPoolOptions::new()
        .max_connections(size)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_connect(move |connection, _| {
            Box::pin(async move { connection.execute(session).await.map(|_| ()) })
        })
        .connect_with(options)
        .await
        .map_err(|error| Error::Unavailable(error.to_string()))
}
