//! The schema: which of its steps are applied, and applying them.
//!
//! On PostgreSQL nodes of the version before may be at work meanwhile. A step needs its table for itself for a
//! moment, and who waits for that lets nobody else at the table, not even readers: behind one long read (a
//! backup, say) the whole service would stand still. So a step waits briefly, steps aside, and comes again.

use std::time::Duration;

use posthorn_migration::{Migrator, MigratorTrait as _};
use sea_orm::{ConnectionTrait as _, DbErr, Statement, TransactionTrait as _};
use tokio::time::Instant;
use tracing::info;

use super::error::{is_forbidden, is_held_up};
use super::own_schema::{Legacy, OwnSchema, STEPS, has_table, steps_of_older};
use super::{Error, Pool, Store, everyday_names};

/// Others stand still for as long.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '200ms'";
/// Between two tries, for what stood behind the first.
const PAUSE: Duration = Duration::from_millis(800);
/// After it the start fails: a table that somebody holds for so long is not given back soon.
const STEP_PATIENCE: Duration = Duration::from_mins(1);

/// What is changed in one transaction.
#[derive(Clone, Copy)]
enum Work<'a> {
    /// What an older release left is taken over.
    TakeOver(&'a Legacy),
    /// The next step, which has this name.
    Step(&'a str),
}

impl Store {
    /// Brings the schema up to date; an error where it is newer than this program, or where another session
    /// holds a table for longer than a minute. A schema that is up to date needs no right to change it.
    pub async fn migrate_up(&self) -> Result<(), Error> {
        let pending: Vec<_> = self.migrations().await?.into_iter().filter(|(_, applied)| !applied).collect();
        let legacy = Legacy::look(self).await?;
        if legacy.may_move || legacy.has_everyday_names || !has_table(&self.orm.unbounded(), STEPS).await? {
            self.change(Work::TakeOver(&legacy)).await?;
        }
        match &self.pool {
            Pool::Sqlite(_) if pending.is_empty() => {}
            Pool::Sqlite(_) => Migrator::up(&self.orm.unbounded(), None).await?,
            Pool::Postgres { .. } => {
                for (step, _) in pending {
                    self.change(Work::Step(&step)).await?;
                }
            }
        }
        Ok(())
    }

    /// Takes the newest `steps` of the schema back, and with them what is stored in it; an error where it is
    /// newer than this program, or where a node is running on it.
    pub async fn migrate_down(&self, steps: u32) -> Result<(), Error> {
        self.migrations().await?;
        let is_noted = has_table(&self.orm.unbounded(), STEPS).await?;
        if everyday_names::are_there(self).await? || (!is_noted && !steps_of_older(self).await?.is_empty()) {
            let reason =
                "DATABASE_URL: the schema is that of an older release: run posthorn migrate up first";
            return Err(Error::Unusable(reason.to_owned()));
        }
        if !is_noted {
            return Ok(());
        }
        if let Some(node) = self.running_node().await? {
            let reason =
                format!("DATABASE_URL: posthorn is running on this database ({node}); stop it first");
            return Err(Error::Unusable(reason));
        }
        Ok(Migrator::down(&self.orm.unbounded(), Some(steps)).await?)
    }

    /// The steps of the schema, in order, with whether each is applied; an error where one was applied that this
    /// program does not know.
    pub async fn migrations(&self) -> Result<Vec<(String, bool)>, Error> {
        let applied = self.applied().await?;
        let steps: Vec<_> = Migrator::migrations().iter().map(|step| step.name().to_owned()).collect();
        if let Some(step) = applied.iter().find(|step| !steps.contains(step)) {
            return Err(Error::Unusable(format!(
                "DATABASE_URL: the schema is of a newer version than this program, which does not know {step}"
            )));
        }
        let row = |step: String| {
            let is_applied = applied.contains(&step);
            (step, is_applied)
        };
        Ok(steps.into_iter().map(row).collect())
    }

    /// The steps that were applied, in order.
    pub(super) async fn applied(&self) -> Result<Vec<String>, Error> {
        if !has_table(&self.orm.unbounded(), STEPS).await? {
            return steps_of_older(self).await;
        }
        let ask = format!("SELECT version FROM {STEPS} ORDER BY version");
        let rows = self.orm.query_all(Statement::from_string(self.orm.get_database_backend(), ask)).await?;
        rows.iter().map(|row| Ok(row.try_get_by_index(0)?)).collect()
    }

    /// The schemas that sessions look into; none on SQLite.
    pub(super) fn own_schema(&self) -> Option<&OwnSchema> {
        match &self.pool {
            Pool::Postgres { own_schema, .. } => Some(own_schema),
            Pool::Sqlite(_) => None,
        }
    }

    /// Makes a change of the schema in a transaction of its own.
    async fn change(&self, work: Work<'_>) -> Result<(), Error> {
        let what = match work {
            Work::TakeOver(_) => "the schema of its own",
            Work::Step(name) => name,
        };
        let deadline = Instant::now() + STEP_PATIENCE;
        loop {
            let tx = self.orm.unbounded().begin().await?;
            if self.is_shared() {
                tx.execute_unprepared(LOCK_TIMEOUT).await?;
            }
            let done = match work {
                Work::TakeOver(legacy) => legacy.take_over(&tx, self.own_schema()).await,
                Work::Step(_) => Migrator::up(&tx, Some(1)).await,
            };
            let Err(error) = done else {
                return Ok(tx.commit().await?);
            };
            tx.rollback().await?;
            if let DbErr::Custom(reason) = error {
                return Err(Error::Unusable(reason));
            }
            if is_forbidden(&error) {
                return Err(Error::Unusable(format!(
                    "DATABASE_URL: expected a role that may change the schema, which is not up to date ({error}): \
                     run posthorn migrate up as its owner"
                )));
            }
            if !is_held_up(&error) {
                return Err(error.into());
            }
            if Instant::now() >= deadline {
                return Err(Error::Unusable(format!(
                    "DATABASE_URL: the schema cannot be brought up to date, since another session keeps hold of a \
                     table that is to be changed for {what} (pg_stat_activity shows which)"
                )));
            }
            info!(what, "the schema waits for another session's lock");
            tokio::time::sleep(PAUSE).await;
        }
    }
}
