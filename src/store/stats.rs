//! Counters that are kept, so that nobody has to count a table.
//!
//! Each transaction that accepts or ends deliveries adds to the row of its minute and its writer;
//! a row for each writer, so that two of them hardly ever wait for each other: those of several nodes on
//! PostgreSQL spread over 32 rows by their connections' numbers. What is older than the
//! window is folded into minute 0, so that the sum over all rows is all that ever was.

use posthorn_domain::subscription::SubscriptionStatus;
use posthorn_domain::tenant::Tenant;
use posthorn_domain::time::Timestamp;
use posthorn_domain::views::{STATS_WINDOW, Stats};
use posthorn_migration::names::on_sqlite;
use sea_orm::sqlx::{self, SqliteConnection};
use sea_orm::{ConnectionTrait, Statement};

use super::{Error, Store, tx};

/// Whose counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writer {
    /// Accepts events.
    Intake,
    /// Records outcomes.
    Outcomes,
    /// Does what people ask for, and retention.
    Control,
}

impl Writer {
    pub(super) const fn code(self) -> i16 {
        match self {
            Self::Intake => 0,
            Self::Outcomes => 1,
            Self::Control => 2,
        }
    }
}

/// Deliveries that came and went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) accepted: u64,
    pub(super) succeeded: u64,
    pub(super) failed: u64,
}

/// Adds to a minute's row; $1 minute, $2 writer, $3 accepted, $4 succeeded, $5 failed.
const ADD: &str = "INSERT INTO stats_minutes (minute, writer, accepted, succeeded, failed) \
     VALUES ($1, $2, $3, $4, $5) ON CONFLICT (minute, writer) DO UPDATE SET \
     accepted = stats_minutes.accepted + excluded.accepted, \
     succeeded = stats_minutes.succeeded + excluded.succeeded, \
     failed = stats_minutes.failed + excluded.failed";

impl Counts {
    fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Adds them to the minute of `now`.
    pub(super) async fn add(
        self,
        tx: &impl ConnectionTrait,
        now: Timestamp,
        writer: Writer,
    ) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        let [accepted, succeeded, failed] = self.columns();
        let values =
            [minute(now).into(), writer.code().into(), accepted.into(), succeeded.into(), failed.into()];
        tx::execute(tx, ADD, values).await?;
        Ok(())
    }

    /// As [`add`](Self::add), on a connection of a hot path.
    pub(super) async fn add_on(
        self,
        connection: &mut SqliteConnection,
        now: Timestamp,
        writer: Writer,
    ) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        let [accepted, succeeded, failed] = self.columns();
        let sql = on_sqlite(ADD);
        let add = sqlx::query(&sql).bind(minute(now)).bind(writer.code());
        add.bind(accepted).bind(succeeded).bind(failed).execute(connection).await?;
        Ok(())
    }

    /// Accepted, succeeded, failed, as columns hold them.
    fn columns(self) -> [i64; 3] {
        [self.accepted, self.succeeded, self.failed].map(|count| i64::try_from(count).unwrap_or(i64::MAX))
    }
}

/// Minutes since the Unix epoch.
pub(super) fn minute(time: Timestamp) -> i64 {
    time.as_seconds().div_euclid(60)
}

impl Store {
    /// The system at a glance: sums over at most a day's minutes, and counts by
    /// `subscriptions_by_status` and `lane_health_not_closed`.
    pub async fn stats(&self, now: Timestamp) -> Result<Stats, Error> {
        let ask = Statement::from_sql_and_values(
            self.patient.get_database_backend(),
            "SELECT \
             (SELECT count(*) FROM subscriptions WHERE deleted_at_ms IS NULL), \
             (SELECT count(*) FROM subscriptions WHERE deleted_at_ms IS NULL AND status = $1), \
             (SELECT count(*) FROM lane_health WHERE circuit <> 0), \
             (SELECT CAST(coalesce(sum(accepted - succeeded - failed), 0) AS bigint) FROM stats_minutes) - \
             (SELECT count(*) FROM deletions x JOIN webhook_deliveries d \
              ON d.subscription_id = x.subscription_id WHERE d.status < 3), \
             (SELECT CAST(coalesce(sum(succeeded), 0) AS bigint) FROM stats_minutes WHERE minute > $2), \
             (SELECT CAST(coalesce(sum(failed), 0) AS bigint) FROM stats_minutes WHERE minute > $2), \
             (SELECT count(*) FROM deletions x JOIN webhook_deliveries d \
              ON d.subscription_id = x.subscription_id WHERE d.status < 3)",
            [SubscriptionStatus::Active.code().into(), minute(now.minus(STATS_WINDOW)).into()],
        );
        self.ask_stats(ask).await
    }

    /// One tenant's part of it. Counted, since no counters are kept for each tenant: takes as long as the tenant
    /// has deliveries.
    pub async fn stats_of_tenant(&self, tenant: &Tenant, now: Timestamp) -> Result<Stats, Error> {
        let window_began_ms = (minute(now.minus(STATS_WINDOW)) + 1) * 60_000;
        let ask = Statement::from_sql_and_values(
            self.patient.get_database_backend(),
            "WITH own AS (SELECT id, status, deleted_at_ms FROM subscriptions WHERE tenant = $2) SELECT \
             (SELECT count(*) FROM own WHERE deleted_at_ms IS NULL), \
             (SELECT count(*) FROM own WHERE deleted_at_ms IS NULL AND status = $1), \
             (SELECT count(*) FROM own JOIN lane_health h ON h.subscription_id = own.id WHERE h.circuit <> 0), \
             (SELECT count(*) FROM own JOIN webhook_deliveries d ON d.subscription_id = own.id \
              WHERE d.status < 3 AND own.deleted_at_ms IS NULL), \
             (SELECT count(*) FROM own JOIN webhook_deliveries d ON d.subscription_id = own.id \
              WHERE d.status = 3 AND d.completed_at_ms >= $3), \
             (SELECT count(*) FROM own JOIN webhook_deliveries d ON d.subscription_id = own.id \
              WHERE d.status = 4 AND d.completed_at_ms >= $3), \
             (SELECT count(*) FROM own JOIN deletions x ON x.subscription_id = own.id \
              JOIN webhook_deliveries d ON d.subscription_id = own.id WHERE d.status < 3)",
            [SubscriptionStatus::Active.code().into(), tenant.as_str().into(), window_began_ms.into()],
        );
        self.ask_stats(ask).await
    }

    async fn ask_stats(&self, ask: Statement) -> Result<Stats, Error> {
        let row = self.patient.query_one(ask).await?.ok_or_else(|| Error::corrupt("stats", "no row"))?;
        let column = |index: usize| -> Result<u64, Error> {
            let value: i64 = row.try_get_by_index(index)?;
            Ok(u64::try_from(value).unwrap_or(0))
        };
        // What is still to be written as ended of deleted subscriptions.
        let ending = column(6)?;
        Ok(Stats {
            total_subscriptions: column(0)?,
            active_subscriptions: column(1)?,
            circuits_open: column(2)?,
            pending_deliveries: column(3)?,
            recent_success_count: column(4)?,
            recent_failure_count: column(5)?.saturating_add(ending),
        })
    }

    /// Folds the minutes before the window into one row a writer.
    pub async fn fold_stats(&self, now: Timestamp) -> Result<(), Error> {
        let until = minute(now.minus(STATS_WINDOW));
        tx::run_patiently(self, move |tx| {
            Box::pin(async move {
                // A minute that old changes no more, so the two statements see the same rows.
                let add = "INSERT INTO stats_minutes (minute, writer, accepted, succeeded, failed) \
                     SELECT 0, writer, sum(accepted), sum(succeeded), sum(failed) FROM stats_minutes \
                     WHERE minute > 0 AND minute < $1 GROUP BY writer \
                     ON CONFLICT (minute, writer) DO UPDATE SET \
                     accepted = stats_minutes.accepted + excluded.accepted, \
                     succeeded = stats_minutes.succeeded + excluded.succeeded, \
                     failed = stats_minutes.failed + excluded.failed";
                tx::execute(tx, add, [until.into()]).await?;
                let remove = "DELETE FROM stats_minutes WHERE minute > 0 AND minute < $1";
                tx::execute(tx, remove, [until.into()]).await?;
                Ok(())
            })
        })
        .await
    }
}
