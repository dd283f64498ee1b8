//! Opening the database.

use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use posthorn_domain::encryption_key::EncryptionKey;
use sea_orm::sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sea_orm::sqlx::{self, ConnectOptions as _, Connection as _, Executor as _, PgPool};
use sea_orm::{ConnectionTrait as _, SqlxPostgresConnector, SqlxSqliteConnector, Statement};
use tokio_util::sync::CancellationToken;

use super::vault::Vault;
use super::{Error, Pool, Store, WriteTurn, files, tx};

/// How to open the database. Its addresses may hold a password, so `Debug` shows none of it.
#[derive(Clone)]
pub struct Settings {
    /// `sqlite://PATH` or `postgres://…`.
    pub url: String,
    /// Of the same database, and not through a pooler, where `url` goes through one: for what needs a session.
    pub direct_url: Option<String>,
    /// What secrets are encrypted with; none: they are stored in clear.
    pub encryption_key: Option<EncryptionKey>,
    /// What secrets that are read may be encrypted with as well.
    pub previous_encryption_key: Option<EncryptionKey>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Settings(…)")
    }
}

impl Settings {
    /// A database that is reached directly.
    #[must_use]
    pub const fn at(url: String) -> Self {
        Self { url, direct_url: None, encryption_key: None, previous_encryption_key: None }
    }

    fn vault(&self) -> Result<Vault, Error> {
        Vault::new(self.encryption_key.as_ref(), self.previous_encryption_key.as_ref())
    }
}

/// Connections for whatever comes; the hot paths hold their own.
const GENERAL_CONNECTIONS: u32 = 12;
/// On SQLite the hot paths take from the same: a writer, a change, what lanes and the API read, and two to spare.
const SQLITE_CONNECTIONS: u32 = 16;
/// One for each writer, some for what lanes read, and two to spare while broken ones are replaced.
const HOT_CONNECTIONS: u32 = 10;
/// A connection that was used a moment ago is there; asking it first would cost as much as a short query.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
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
            Some("sqlite") => Self::connect_sqlite(settings).await,
            Some("postgres" | "postgresql") => Self::connect_postgres(settings).await,
            _ => Err(Error::Unusable("DATABASE_URL: expected sqlite://PATH or postgres://…".to_owned())),
        }
    }

    async fn connect_sqlite(settings: &Settings) -> Result<Self, Error> {
        let unusable = |error: &dyn std::fmt::Display| Error::Unusable(format!("DATABASE_URL: {error}"));
        let options = SqliteConnectOptions::from_str(&settings.url)
            .map_err(|error| unusable(&error))?
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A 202 means "on disk": NORMAL would lose the last commits with the power.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5))
            .foreign_keys(true)
            .pragma("wal_autocheckpoint", "4000")
            .disable_statement_logging();
        // In memory there is no file, only a name for SQLite.
        let path = options.get_filename();
        if !path.as_os_str().as_encoded_bytes().starts_with(b"file:") && !settings.url.contains("mode=memory")
        {
            files::prepare(path).map_err(|error| unusable(&error))?;
        }
        let pool = SqlitePoolOptions::new()
            .max_connections(SQLITE_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .connect_with(options)
            .await
            .map_err(|error| unusable(&error))?;
        Ok(Self {
            orm: SqlxSqliteConnector::from_sqlx_sqlite_pool(pool.clone()),
            lanes: SqlxSqliteConnector::from_sqlx_sqlite_pool(pool.clone()),
            pool: Pool::Sqlite(pool),
            turn: WriteTurn(Some(Arc::default())),
            transactions: tx::permits(),
            vault: settings.vault()?,
            disk_failed: CancellationToken::new(),
        })
    }

    async fn connect_postgres(settings: &Settings) -> Result<Self, Error> {
        let options = PgConnectOptions::from_str(&settings.url)
            .map_err(|error| Error::Unusable(format!("DATABASE_URL: {error}")))?
            .application_name("posthorn")
            .disable_statement_logging();
        let direct_url = settings.direct_url.as_ref().unwrap_or(&settings.url).as_str();
        let general = postgres_pool(options.clone(), GENERAL_CONNECTIONS, GENERAL_SESSION).await?;
        let hot = postgres_pool(options, HOT_CONNECTIONS, HOT_SESSION).await?;
        Ok(Self {
            orm: SqlxPostgresConnector::from_sqlx_postgres_pool(general.clone()),
            lanes: SqlxPostgresConnector::from_sqlx_postgres_pool(hot.clone()),
            pool: Pool::Postgres { general, hot, direct_url: direct_url.into() },
            turn: WriteTurn(None),
            transactions: tx::permits(),
            vault: settings.vault()?,
            disk_failed: CancellationToken::new(),
        })
    }

    /// Whether the database answers.
    pub async fn ready(&self) -> Result<(), Error> {
        let ask = Statement::from_string(self.orm.get_database_backend(), "SELECT 1");
        self.orm.query_one(ask).await?;
        Ok(())
    }

    /// Whether what is committed outlives a power loss; an error where a PostgreSQL is set up so that it may not. SQLite
    /// is set up by this program.
    pub async fn check_durability(&self) -> Result<(), Error> {
        let Pool::Postgres { general, .. } = &self.pool else { return Ok(()) };
        let off: Option<(String,)> = sqlx::query_as(
            "SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting <> 'on' LIMIT 1",
        )
        .fetch_optional(general)
        .await?;
        match off {
            Some((name,)) => Err(Error::Unusable(format!(
                "DATABASE_URL: expected a PostgreSQL with {name} on, else a power loss may lose or spoil what was \
                 accepted; it is off"
            ))),
            None => Ok(()),
        }
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
        .test_before_acquire(false)
        .before_acquire(|connection, used| {
            Box::pin(async move {
                if used.idle_for > TRUSTED_FOR {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .after_connect(move |connection, _| {
            Box::pin(async move { connection.execute(session).await.map(|_| ()) })
        })
        .connect_with(options)
        .await
        .map_err(|error| Error::Unavailable(error.to_string()))
}
