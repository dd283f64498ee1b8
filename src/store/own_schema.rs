//! Where Posthorn's tables are, beside those of others: on PostgreSQL in a schema of their own.
//!
//! Every session looks there alone, so that no name of another's is ever taken for one of ours. Releases up to 0.1 had
//! their tables in whatever schema the role looked into first (`public`, as a rule), and noted the steps of the schema in
//! a table that other programs use as well. What such a release left behind is moved over by the first start that finds
//! no node at work on it; until then sessions look there too.

use std::sync::Arc;

use posthorn_migration::names::TABLES;
use posthorn_migration::{Migrator, MigratorTrait as _};
use sea_orm::sqlx::{self, PgConnection};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, Statement};
use tracing::info;

use super::{Error, Store, everyday_names};

/// Notes which steps of the schema were applied.
pub(super) const STEPS: &str = "posthorn_migrations";
/// Where releases up to 0.1 noted them, beside those of others.
const SHARED_STEPS: &str = "seaql_migrations";

/// What is left there: a program that knows nothing of a table of our own takes it for a step of a later release, and does
/// not start on what it would take for an empty database.
const MOVED: &str = "m20261130_000017_steps_are_noted_in_posthorn_migrations";

/// The schemas of PostgreSQL that sessions look into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OwnSchema {
    /// Where the tables are, or are to be.
    name: Arc<str>,
    /// Where those of an older release may be.
    older: Option<Arc<str>>,
}

impl OwnSchema {
    /// By what a connection of the role's own finds. `name` is a plain word.
    pub(super) async fn look(name: &str, connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let ask = "SELECT n.nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                   WHERE c.oid = to_regclass($1) AND n.nspname <> $2 AND has_table_privilege(c.oid, 'SELECT')";
        let shared = sqlx::query_scalar(ask).bind(SHARED_STEPS).bind(name).fetch_optional(&mut *connection);
        let shared: Option<String> = shared.await?;
        let mut own = Self { name: name.into(), older: None };
        if let Some(older) = shared {
            let first = Migrator::migrations().first().map(|step| step.name().to_owned()).unwrap_or_default();
            let ask = format!("SELECT EXISTS (SELECT FROM {SHARED_STEPS} WHERE version = $1)");
            let is_ours: bool = sqlx::query_scalar(&ask).bind(first).fetch_one(connection).await?;
            own.older = is_ours.then(|| older.into());
        }
        Ok(own)
    }

    /// What a session is told.
    pub(super) fn search_path(&self) -> String {
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let all = [Some(&self.name), self.older.as_ref()];
        let all: Vec<_> = all.into_iter().flatten().map(|name| quoted(name)).collect();
        format!("SET search_path TO {}", all.join(", "))
    }
}

/// What an older release left where a session can see it.
#[derive(Debug)]
pub(super) struct Legacy {
    /// The steps that it noted; none where there was none.
    pub(super) steps: Vec<String>,
    /// Nobody works on it.
    pub(super) may_move: bool,
    /// Of SQLite: its tables have no prefix.
    pub(super) has_everyday_names: bool,
}

impl Legacy {
    /// Looks for it.
    pub(super) async fn look(store: &Store) -> Result<Self, Error> {
        let steps = steps_of_older(store).await?;
        let may_move = !steps.is_empty() && store.running_node().await?.is_none();
        let has_everyday_names = everyday_names::are_there(store).await?;
        Ok(Self { steps, may_move, has_everyday_names })
    }

    /// Makes the schema, and takes over what there is, as far as no node is at work on it.
    pub(super) async fn take_over(
        &self,
        tx: &DatabaseTransaction,
        own: Option<&OwnSchema>,
    ) -> Result<(), DbErr> {
        if let Some(own) = own {
            make_schema(tx, &own.name).await?;
        }
        if !has_table(tx, STEPS).await? {
            let columns = "version varchar NOT NULL PRIMARY KEY, applied_at bigint NOT NULL";
            tx.execute_unprepared(&format!("CREATE TABLE {STEPS} ({columns})")).await?;
            let copy = format!("INSERT INTO {STEPS} SELECT * FROM {SHARED_STEPS} WHERE version = $1");
            self.for_each_step(tx, &copy).await?;
        }
        if self.has_everyday_names {
            everyday_names::rename(tx).await?;
        }
        if !self.may_move {
            return Ok(());
        }
        if let Some(OwnSchema { name, older: Some(from) }) = own {
            for table in TABLES {
                if is_in_schema(tx, from, table).await? {
                    let sql = format!("ALTER TABLE \"{from}\".{table} SET SCHEMA \"{name}\"");
                    tx.execute_unprepared(&sql).await?;
                }
            }
            info!(%from, to = %name, "the tables were moved to a schema of their own");
        }
        self.for_each_step(tx, &format!("DELETE FROM {SHARED_STEPS} WHERE version = $1")).await?;
        if ask_bool(tx, &format!("SELECT NOT EXISTS (SELECT 1 FROM {SHARED_STEPS})")).await? {
            tx.execute_unprepared(&format!("INSERT INTO {SHARED_STEPS} VALUES ('{MOVED}', 0)")).await?;
        }
        Ok(())
    }

    async fn for_each_step(&self, tx: &DatabaseTransaction, sql: &str) -> Result<(), DbErr> {
        for step in &self.steps {
            let backend = tx.get_database_backend();
            tx.execute(Statement::from_sql_and_values(backend, sql, [step.into()])).await?;
        }
        Ok(())
    }
}

/// The steps that an older release noted.
pub(super) async fn steps_of_older(store: &Store) -> Result<Vec<String>, Error> {
    let orm = store.orm.unbounded();
    let may_be = store.own_schema().is_none_or(|own| own.older.is_some());
    if !may_be || !has_table(&orm, SHARED_STEPS).await? {
        return Ok(Vec::new());
    }
    let known: Vec<_> = Migrator::migrations().iter().map(|step| step.name().to_owned()).collect();
    let ask = format!("SELECT version FROM {SHARED_STEPS} ORDER BY version");
    let rows = orm.query_all(Statement::from_string(orm.get_database_backend(), ask)).await?;
    let steps = rows.iter().map(|row| row.try_get_by_index(0)).collect::<Result<Vec<String>, _>>()?;
    // Others may note theirs there as well.
    Ok(steps.into_iter().filter(|step| known.contains(step)).collect())
}

async fn make_schema(tx: &DatabaseTransaction, name: &str) -> Result<(), DbErr> {
    if ask_bool(tx, &format!("SELECT to_regnamespace('\"{name}\"') IS NULL")).await? {
        tx.execute_unprepared(&format!("CREATE SCHEMA \"{name}\"")).await?;
    }
    if has_table(tx, STEPS).await? {
        return Ok(());
    }
    for table in TABLES {
        if is_in_schema(tx, name, table).await? {
            return Err(DbErr::Custom(format!(
                "POSTHORN_DATABASE_SCHEMA: expected a schema without tables of others, and {name} has one that is \
                 called {table}"
            )));
        }
    }
    Ok(())
}

async fn is_in_schema(tx: &DatabaseTransaction, schema: &str, table: &str) -> Result<bool, DbErr> {
    ask_bool(tx, &format!("SELECT to_regclass('\"{schema}\".{table}') IS NOT NULL")).await
}

/// Whether there is a table of this name where a session looks first; where it looks second, too, that of the shared
/// steps.
pub(super) async fn has_table(connection: &impl ConnectionTrait, table: &str) -> Result<bool, DbErr> {
    let sql = match connection.get_database_backend() {
        DbBackend::Postgres if table == SHARED_STEPS => format!("SELECT to_regclass('{table}') IS NOT NULL"),
        DbBackend::Postgres => {
            format!("SELECT to_regclass(quote_ident(current_schema()) || '.{table}') IS NOT NULL")
        }
        DbBackend::Sqlite | DbBackend::MySql => {
            format!("SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '{table}')")
        }
    };
    ask_bool(connection, &sql).await
}

async fn ask_bool(connection: &impl ConnectionTrait, sql: &str) -> Result<bool, DbErr> {
    let ask = Statement::from_string(connection.get_database_backend(), sql);
    let row = connection.query_one(ask).await?;
    Ok(row.map(|row| row.try_get_by_index(0)).transpose()?.unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_look_there_first() {
        let own = OwnSchema { name: "posthorn".into(), older: None };
        assert_eq!(own.search_path(), "SET search_path TO \"posthorn\"");
        let own = OwnSchema { older: Some("pub\"lic".into()), ..own };
        assert_eq!(own.search_path(), "SET search_path TO \"posthorn\", \"pub\"\"lic\"");
    }
}
