//! SQLite files of releases up to 0.1, whose tables have no prefix.
//!
//! Other programs may have tables in the same file, so ours are called `posthorn_…` ([`names`]). What an older release
//! left is renamed by the first start, before anything else of the schema is changed.

use posthorn_migration::names::{self, PREFIX};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, Statement, TryGetable};
use tracing::info;

use super::{Error, Store};

/// Tables that an SQLite file never had: what is called so is another's.
const ONLY_IN_POSTGRES: [&str; 3] = ["nodes", "shared_cache", "slots"];

/// Whether it is a file whose tables have their everyday names still.
pub(super) async fn are_there(store: &Store) -> Result<bool, Error> {
    let orm = store.orm.unbounded();
    if orm.get_database_backend() != DbBackend::Sqlite || store.applied().await?.is_empty() {
        return Ok(false);
    }
    let ask = "SELECT name FROM sqlite_master WHERE type = 'table' AND name IN ('events', 'posthorn_events')";
    let found: Vec<String> = column(&orm, ask.to_owned()).await?;
    Ok(found == ["events"])
}

/// Gives tables and indexes their prefix. Ours are all `STRICT`, which tells them from what another program made under
/// the same name.
pub(super) async fn rename(tx: &DatabaseTransaction) -> Result<(), DbErr> {
    for table in names::TABLES.into_iter().filter(|table| !ONLY_IN_POSTGRES.contains(table)) {
        let is_ours = format!("SELECT name FROM pragma_table_list WHERE name = '{table}' AND strict");
        if column::<String>(tx, is_ours).await?.is_empty() {
            continue;
        }
        let own = names::on_sqlite(table);
        tx.execute_unprepared(&format!("ALTER TABLE {table} RENAME TO {own}")).await?;
        let ask = |what| {
            format!(
                "SELECT {what} FROM sqlite_master WHERE type = 'index' AND tbl_name = '{own}' \
                 AND name LIKE '{table}\\_%' ESCAPE '\\' AND sql IS NOT NULL ORDER BY name"
            )
        };
        let indexes: Vec<String> = column(tx, ask("name")).await?;
        let texts: Vec<String> = column(tx, ask("sql")).await?;
        for (index, text) in indexes.iter().zip(texts) {
            tx.execute_unprepared(&format!("DROP INDEX {index}")).await?;
            tx.execute_unprepared(&text.replacen(index, &format!("{PREFIX}{index}"), 1)).await?;
        }
    }
    info!("the tables were given names of their own, which begin with {PREFIX}");
    Ok(())
}

async fn column<T: TryGetable>(connection: &impl ConnectionTrait, sql: String) -> Result<Vec<T>, DbErr> {
    let rows = connection.query_all(Statement::from_string(DbBackend::Sqlite, sql)).await?;
    rows.iter().map(|row| row.try_get_by_index(0)).collect()
}
