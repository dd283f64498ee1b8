//! Opening the database.

use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use posthorn_domain::encryption_key::EncryptionKey;
use sea_orm::sqlx::postgres::PgConnectOptions;
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sea_orm::sqlx::{self, ConnectOptions as _, Connection as _, PgConnection};
use sea_orm::{ConnectionTrait as _, DbBackend};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::capacity::{self, Facts, Shares};
use super::connections::{ACQUIRE_TIMEOUT, Connections, Kind, Making};
use super::vault::Vault;
use super::{Database, Error, OwnSchema, Pool, Store, WriteTurn, disk, files};

/// How to open the database. Its addresses may hold a password, so `Debug` shows none of it.
#[derive(Clone)]
pub struct Settings {
    /// `sqlite://PATH` or `postgres://…`.
    pub url: String,
    /// Of the same database, and not through a pooler, where `url` goes through one: for what needs a session.
    pub direct_url: Option<String>,
    /// Connections to PostgreSQL, all together, 6 at least; none: as many as are of use and allowed.
    pub connections: Option<u32>,
    /// The schema that the tables are in, on PostgreSQL: a plain word.
    pub schema: String,
    /// How long a node that is not heard of keeps its slots: what dies without a word has to be given up well within.
    pub lease: Duration,
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
    pub fn at(url: String) -> Self {
        let lease = Duration::from_secs(15);
        Self {
            url,
            direct_url: None,
            connections: None,
            schema: "posthorn".to_owned(),
            lease,
            encryption_key: None,
            previous_encryption_key: None,
        }
    }

    /// How long a statement that leases or senders wait for may take.
    fn hot_deadline(&self) -> Duration {
        (self.lease / 5).clamp(HOT_DEADLINE_MIN, HOT_DEADLINE_MAX)
    }

    fn vault(&self) -> Result<Vault, Error> {
        Vault::new(self.encryption_key.as_ref(), self.previous_encryption_key.as_ref())
    }
}

/// On SQLite the hot paths take from the same: a writer, a change, what lanes and the API read, and two to spare.
const SQLITE_CONNECTIONS: u32 = 16;
/// Transactions on it under way at once, those whose caller has left included.
const SQLITE_TRANSACTIONS: usize = 8;
/// Bounds of how long a statement of the hot paths may take.
const HOT_DEADLINE_MIN: Duration = Duration::from_millis(1500);
const HOT_DEADLINE_MAX: Duration = Duration::from_millis(2500);
/// How long the first connection may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// How long any other statement may take that somebody waits for.
const DEADLINE: Duration = Duration::from_secs(5);
/// Longer than PostgreSQL lets any statement run.
const PATIENT_DEADLINE: Duration = Duration::from_secs(16);
/// A file does not fall silent; it may be slow.
const SQLITE_DEADLINE: Duration = Duration::from_secs(30);
/// How long PostgreSQL waits for a session that it hears nothing of, as one of so many parts of a lease.
const SILENCE_SHARE: u32 = 3;
/// And at least so long, for a busy machine.
const SILENCE_MIN: Duration = Duration::from_secs(1);

/// A general statement is planned anew each time, so that a plan made for an empty table does not
/// outlive it, and no statement runs without end.
const GENERAL_SESSION: &str = "SET plan_cache_mode = force_custom_plan; SET statement_timeout = '15s'";

/// The hot statements find every row by an index, whatever the planner knows of the tables when it
/// plans them: with a plan kept from an empty table one lane fell from 1,500 to 100 deliveries/s. So they
/// have but one plan, and making it anew each time would be a third of what a small batch costs. A small table that
/// has to be read whole then looks so dear that PostgreSQL would compile the statement, for half a second.
const HOT_SESSION: &str = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; \
     SET jit = off; SET plan_cache_mode = force_generic_plan; SET synchronous_commit = on; SET statement_timeout = '15s'";

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
        let was_killed = disk::has_log(path);
        let pool = SqlitePoolOptions::new()
            .max_connections(SQLITE_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .connect_with(options)
            .await
            .map_err(|error| unusable(&error))?;
        let connections = Connections::to_sqlite(pool.clone());
        let orm = Database::new(connections.clone(), Kind::General, SQLITE_DEADLINE);
        Ok(Self {
            patient: orm.clone(),
            lanes: orm.clone(),
            orm,
            pool: Pool::Sqlite(pool),
            connections,
            turn: WriteTurn(Some(Arc::default())),
            transactions: Arc::new(Semaphore::new(SQLITE_TRANSACTIONS)),
            vault: settings.vault()?,
            was_killed,
            disk_failed: CancellationToken::new(),
        })
    }

    async fn connect_postgres(settings: &Settings) -> Result<Self, Error> {
        let options = PgConnectOptions::from_str(&settings.url)
            .map_err(|error| Error::Unusable(format!("DATABASE_URL: {error}")))?
            .application_name("posthorn")
            .disable_statement_logging();
        let direct_url = settings.direct_url.as_ref().unwrap_or(&settings.url).as_str();
        // Beside the pools, which would not say why they have no connection.
        let (facts, own_schema) = timeout(CONNECT_PATIENCE, look_at(&options, &settings.schema))
            .await
            .unwrap_or_else(|_| Err(Error::Unavailable("DATABASE_URL: no answer in time".to_owned())))?;
        check_encoding(&facts)?;
        let shares = Shares::of(match settings.direct_url {
            Some(_) => capacity::behind_a_pooler(settings.connections),
            None => facts.connections(settings.connections)?,
        });
        let session = |of_kind| {
            let silence = silence((settings.lease / SILENCE_SHARE).max(SILENCE_MIN));
            format!("{of_kind}; {silence}; {}", own_schema.search_path()).into()
        };
        let (general, hot) = (session(GENERAL_SESSION), session(HOT_SESSION));
        let connections = Connections::to_postgres(Making { options, general, hot, shares });
        let orm = Database::new(connections.clone(), Kind::General, DEADLINE)
            .asking_again_after(settings.hot_deadline());
        Ok(Self {
            patient: orm.within(PATIENT_DEADLINE),
            orm,
            lanes: Database::new(connections.clone(), Kind::Hot, settings.hot_deadline()),
            pool: Pool::Postgres { direct_url: direct_url.into(), own_schema },
            connections,
            turn: WriteTurn(None),
            transactions: Arc::new(Semaphore::new(shares.transactions())),
            vault: settings.vault()?,
            was_killed: false,
            disk_failed: CancellationToken::new(),
        })
    }

    /// Whether the database answers, and takes what is written.
    pub async fn ready(&self) -> Result<(), Error> {
        let ask = match self.orm.get_database_backend() {
            // A session that is read-only answers questions. This changes nothing, and is refused by one.
            DbBackend::Postgres => "DELETE FROM posthorn_migrations WHERE false",
            DbBackend::Sqlite | DbBackend::MySql => "SELECT 1",
        };
        self.lanes.execute_unprepared(ask).await?;
        Ok(())
    }

    /// Whether what is committed outlives a power loss; an error where a PostgreSQL is set up so that it may not. SQLite
    /// is set up by this program.
    pub async fn check_durability(&self) -> Result<(), Error> {
        let ask = sqlx::query_as(
            "SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting <> 'on' LIMIT 1",
        );
        let asked =
            self.connections.bounded(Kind::General, DEADLINE, async |pool| ask.fetch_optional(pool).await);
        let Some(off) = asked.await else { return Ok(()) };
        let off: Option<(String,)> = off?;
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
            Pool::Postgres { .. } => self.connections.close().await,
            Pool::Sqlite(pool) => {
                drop(self.turn.take().await.and_then(|mut kept| kept.take()));
                pool.close().await;
            }
        }
    }
}

async fn look_at(options: &PgConnectOptions, schema: &str) -> Result<(Facts, OwnSchema), Error> {
    let mut connection = PgConnection::connect_with(options).await.map_err(Error::of_start)?;
    let facts = Facts::ask(&mut connection).await.map_err(Error::of_start)?;
    let own_schema = OwnSchema::look(schema, &mut connection).await.map_err(Error::of_start)?;
    // With a word, so that the server counts it no more when the pools begin.
    connection.close().await.map_err(Error::of_start)?;
    Ok((facts, own_schema))
}

/// Texts are any characters of Unicode: a database that cannot store them would refuse an event now and then.
fn check_encoding(Facts { encoding, .. }: &Facts) -> Result<(), Error> {
    if encoding == "UTF8" {
        return Ok(());
    }
    Err(Error::Unusable(format!(
        "DATABASE_URL: expected a database with the encoding UTF8, and it has {encoding}: \
         CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0 makes one"
    )))
}

/// A session whose client is silent ends by itself, and with it what it has locked: within the first where it is in a
/// transaction, and within twice `patience` where nothing of it is heard at all.
fn silence(patience: Duration) -> String {
    let (millis, seconds) = (patience.as_millis(), patience.as_secs().max(1));
    format!(
        "SET idle_in_transaction_session_timeout = {millis}; SET tcp_user_timeout = {millis}; \
         SET tcp_keepalives_idle = {seconds}; SET tcp_keepalives_interval = 1; SET tcp_keepalives_count = 2"
    )
}
