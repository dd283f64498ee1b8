//! The connections to the database, in generations: where one of them fell silent or cannot serve, the others may not
//! either, so all are given up at once and new ones are made as they are needed.
//!
//! What is given up is not closed with a word: over TLS that waits for an answer, and there is nobody to give it.
//!
//! What goes wrong and goes right is told in two lines for each outage, not once for each statement.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use sea_orm::sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sea_orm::sqlx::{self, Connection as _, Executor as _, PgConnection, PgPool, SqlitePool};
use sea_orm::{DatabaseConnection, DbBackend, SqlxPostgresConnector, SqlxSqliteConnector};
use tokio::time::timeout;
use tracing::{info, warn};

use super::Error;
use super::capacity::Shares;
use super::error::is_of_session;

/// A connection that was used a moment ago is there; asking it first would cost as much as a short query.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// How long to wait for a connection before the database counts as not available: less than any deadline, so that a
/// pool that is busy is told from one that is silent.
pub(super) const ACQUIRE_TIMEOUT: Duration = Duration::from_millis(1400);
/// A session that cannot serve replaces all connections, at most so often.
const RENEWED_EVERY: Duration = Duration::from_secs(1);
/// How long a connection beside the pool may take, to tell why the pool has none.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);
/// How often it is said at most that all connections are in use.
const BUSY_TOLD_EVERY: Duration = Duration::from_secs(10);
pub(super) const NO_ANSWER: &str = "no answer in time";

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Whatever comes.
    General,
    /// The hot statements, the writers' and the lanes', planned once and for tables of any size.
    Hot,
}

/// How to make connections to PostgreSQL.
#[derive(Debug)]
pub(super) struct Making {
    pub(super) options: PgConnectOptions,
    /// What each session is told first, of general and of hot ones.
    pub(super) general: Arc<str>,
    pub(super) hot: Arc<str>,
    /// How many of each.
    pub(super) shares: Shares,
}

/// All connections. Cheap to clone; all clones know the same.
#[derive(Clone, Debug)]
pub(super) struct Connections(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// None: a file.
    making: Option<Making>,
    pools: RwLock<Pools>,
    state: Mutex<State>,
}

/// Those of one generation.
#[derive(Debug)]
struct Pools {
    generation: u64,
    of: Of,
}

#[derive(Debug)]
enum Of {
    Postgres {
        general: PgPool,
        hot: PgPool,
        /// Whoever still waits for one of them gets none: it may come back with a transaction that was given up.
        given_up: Arc<AtomicBool>,
    },
    Sqlite(SqlitePool),
}

#[derive(Debug, Default)]
struct State {
    /// When they were given up last since a session could not serve.
    renewed: Option<Instant>,
    /// When it answered last.
    answered: Option<Instant>,
    /// Since when it does not answer.
    away: Option<Instant>,
    /// When it was last said that all connections are in use.
    busy_told: Option<Instant>,
}

impl Connections {
    /// To PostgreSQL; made as they are needed.
    pub(super) fn to_postgres(making: Making) -> Self {
        let of = making.pools();
        Self::of(Some(making), of)
    }

    /// To a file.
    pub(super) fn to_sqlite(pool: SqlitePool) -> Self {
        Self::of(None, Of::Sqlite(pool))
    }

    fn of(making: Option<Making>, of: Of) -> Self {
        let pools = RwLock::new(Pools { generation: 0, of });
        Self(Arc::new(Inner { making, pools, state: Mutex::default() }))
    }

    /// Which database it is.
    pub(super) fn backend(&self) -> DbBackend {
        if self.0.making.is_some() { DbBackend::Postgres } else { DbBackend::Sqlite }
    }

    /// As sea-orm uses them, with their generation.
    pub(super) fn orm(&self, kind: Kind) -> (DatabaseConnection, u64) {
        let pools = self.pools();
        let orm = match (&pools.of, kind) {
            (Of::Postgres { general, .. }, Kind::General) => {
                SqlxPostgresConnector::from_sqlx_postgres_pool(general.clone())
            }
            (Of::Postgres { hot, .. }, Kind::Hot) => {
                SqlxPostgresConnector::from_sqlx_postgres_pool(hot.clone())
            }
            (Of::Sqlite(pool), _) => SqlxSqliteConnector::from_sqlx_sqlite_pool(pool.clone()),
        };
        (orm, pools.generation)
    }

    /// As sqlx uses them, with their generation; none where it is a file.
    pub(super) fn postgres(&self, kind: Kind) -> Option<(PgPool, u64)> {
        let pools = self.pools();
        match (&pools.of, kind) {
            (Of::Postgres { general, .. }, Kind::General) => Some((general.clone(), pools.generation)),
            (Of::Postgres { hot, .. }, Kind::Hot) => Some((hot.clone(), pools.generation)),
            (Of::Sqlite(_), _) => None,
        }
    }

    /// Whether connections of this generation are given up.
    pub(super) fn is_given_up(&self, generation: u64) -> bool {
        self.pools().generation != generation
    }

    /// Runs `work` on a pool for at most `deadline`; none where it is a file.
    pub(super) async fn bounded<T>(
        &self,
        kind: Kind,
        deadline: Duration,
        work: impl AsyncFnOnce(&PgPool) -> Result<T, sqlx::Error>,
    ) -> Option<Result<T, Error>> {
        let (pool, generation) = self.postgres(kind)?;
        let began = Instant::now();
        let Ok(result) = timeout(deadline, work(&pool)).await else {
            self.silent(began, generation);
            return Some(Err(Error::Unavailable(NO_ANSWER.to_owned())));
        };
        match &result {
            Ok(_) => self.answered(),
            Err(error) => self.failed(error, began, generation),
        }
        Some(result.map_err(Error::from))
    }

    /// A statement that began then got no answer in time.
    pub(super) fn silent(&self, began: Instant, generation: u64) {
        self.give_up(generation);
        if self.goes_away(began) {
            warn!(reason = NO_ANSWER, "the database does not answer");
        }
    }

    /// A statement was answered.
    pub(super) fn answered(&self) {
        let mut state = self.state();
        state.answered = Some(Instant::now());
        let away = state.away.take();
        drop(state);
        if let Some(since) = away {
            info!(after = ?since.elapsed(), "the database answers again");
        }
    }

    /// A statement failed; it may be that its session, and others like it, cannot serve.
    pub(super) fn failed(&self, error: &sqlx::Error, began: Instant, generation: u64) {
        match error {
            _ if is_of_session(error) => self.session_lost(&error.to_string(), began, generation),
            sqlx::Error::Database(_) => self.answered(),
            sqlx::Error::PoolTimedOut => self.unreachable(began, generation),
            // Of this program: it says nothing of the database.
            _ => {}
        }
    }

    /// What an error says of the connections, after work of several statements.
    pub(super) fn note(&self, error: &Error, began: Instant, generation: u64) {
        if let Error::SessionLost(reason) = error {
            self.session_lost(reason, began, generation);
        }
    }

    /// A session cannot serve, so that others like it may not either.
    fn session_lost(&self, reason: &str, began: Instant, generation: u64) {
        let mut state = self.state();
        let is_due = state.renewed.is_none_or(|at| at.elapsed() >= RENEWED_EVERY);
        if is_due {
            state.renewed = Some(Instant::now());
        }
        drop(state);
        if is_due {
            self.give_up(generation);
        }
        if self.goes_away(began) {
            warn!(reason, "the database does not answer");
        }
    }

    /// No connection was to be had in time. The pool does not say why, so it is tried beside it.
    pub(super) fn unreachable(&self, began: Instant, generation: u64) {
        if !self.is_exhausted() {
            // One that is to be used was asked whether it is there, and is silent.
            self.give_up(generation);
        }
        if !self.goes_away(began) {
            return;
        }
        let connections = self.clone();
        tokio::spawn(async move {
            let Some(making) = &connections.0.making else { return };
            let reason = match timeout(PROBE_PATIENCE, PgConnection::connect_with(&making.options)).await {
                Err(_) => NO_ANSWER.to_owned(),
                Ok(Err(error)) => format!("no connection: {error}"),
                Ok(Ok(_)) => return connections.busy(),
            };
            warn!(reason, "the database does not answer");
        });
    }

    /// A connection was to be had beside the pool.
    fn busy(&self) {
        let mut state = self.state();
        state.away = None;
        let is_due = state.busy_told.is_none_or(|at| at.elapsed() >= BUSY_TOLD_EVERY);
        if is_due && self.is_exhausted() {
            state.busy_told = Some(Instant::now());
            warn!("all connections to the database are in use; some requests wait in vain");
        }
    }

    /// Whether all that there may be of a kind are in use.
    fn is_exhausted(&self) -> bool {
        let in_use = |pool: &PgPool| pool.size().saturating_sub(u32::try_from(pool.num_idle()).unwrap_or(0));
        match (&self.pools().of, &self.0.making) {
            (Of::Postgres { general, hot, .. }, Some(Making { shares, .. })) => {
                in_use(general) >= shares.general || in_use(hot) >= shares.hot
            }
            _ => true,
        }
    }

    /// Whether what began then is the first that failed. Where another one was answered since, it is the connection
    /// alone that failed.
    fn goes_away(&self, began: Instant) -> bool {
        let mut state = self.state();
        if state.answered.is_some_and(|at| at > began) || state.away.is_some() {
            return false;
        }
        state.away = Some(Instant::now());
        true
    }

    /// Gives up all connections of a generation, where that was not done yet.
    fn give_up(&self, generation: u64) {
        let Some(making) = &self.0.making else { return };
        let old = {
            let mut pools = self.0.pools.write().unwrap_or_else(PoisonError::into_inner);
            if pools.generation != generation {
                return;
            }
            std::mem::replace(&mut *pools, Pools { generation: generation + 1, of: making.pools() })
        };
        if let Of::Postgres { given_up, .. } = &old.of {
            given_up.store(true, Ordering::Release);
        }
        // Those that are not in use end with it.
        drop(old);
    }

    /// Closes every connection, once those in use are given back.
    pub(super) async fn close(&self) {
        let (general, hot) = (self.postgres(Kind::General), self.postgres(Kind::Hot));
        for (pool, _) in hot.into_iter().chain(general) {
            pool.close().await;
        }
    }

    fn pools(&self) -> RwLockReadGuard<'_, Pools> {
        // Nothing panics under it.
        self.0.pools.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics under it.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Making {
    fn pools(&self) -> Of {
        let given_up = Arc::default();
        Of::Postgres {
            general: self.pool(self.shares.general, &self.general, &given_up),
            hot: self.pool(self.shares.hot, &self.hot, &given_up),
            given_up,
        }
    }

    fn pool(&self, size: u32, session: &Arc<str>, given_up: &Arc<AtomicBool>) -> PgPool {
        let (session, given_up) = (Arc::clone(session), Arc::clone(given_up));
        PgPoolOptions::new()
            .max_connections(size)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(move |connection, used| {
                let given_up = Arc::clone(&given_up);
                Box::pin(async move {
                    if given_up.load(Ordering::Acquire) {
                        return Ok(false);
                    }
                    if used.idle_for > TRUSTED_FOR {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .after_connect(move |connection, _| {
                let session = Arc::clone(&session);
                Box::pin(async move { connection.execute(&*session).await.map(|_| ()) })
            })
            .connect_lazy_with(self.options.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nowhere() -> Connections {
        let options = "postgres://nobody@127.0.0.1:9/nothing".parse().unwrap();
        Connections::to_postgres(Making {
            options,
            general: "".into(),
            hot: "".into(),
            shares: Shares::of(6),
        })
    }

    #[tokio::test]
    async fn a_silent_connection_takes_its_generation_with_it_and_no_other() {
        let connections = nowhere();
        let (_, first) = connections.postgres(Kind::Hot).unwrap();
        assert!(!connections.is_given_up(first));
        connections.silent(Instant::now(), first);
        assert!(connections.is_given_up(first));
        let (_, second) = connections.postgres(Kind::General).unwrap();
        // Another one of the same generation falls silent a moment later.
        connections.silent(Instant::now(), first);
        assert!(!connections.is_given_up(second), "those that were made since stay");
    }

    #[tokio::test]
    async fn a_broken_session_gives_up_the_others_and_a_wrong_statement_does_not() {
        let broken = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        for (error, given_up) in [(&sqlx::Error::RowNotFound, false), (&broken, true)] {
            let connections = nowhere();
            let (_, generation) = connections.postgres(Kind::Hot).unwrap();
            connections.failed(error, Instant::now(), generation);
            assert_eq!(connections.is_given_up(generation), given_up, "{error:?}");
        }
    }

    #[tokio::test]
    async fn sessions_that_cannot_serve_are_not_made_anew_all_the_time() {
        let connections = nowhere();
        let broken = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        for _ in 0..5 {
            let (_, generation) = connections.postgres(Kind::Hot).unwrap();
            connections.failed(&broken, Instant::now(), generation);
        }
        assert!(!connections.is_given_up(1), "once a second");
    }
}
