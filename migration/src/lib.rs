//! The database schema, one file per step; a released step is never edited.
//!
//! Each step is one text for both databases. Words in braces stand for the types in which they
//! differ, and the tables' names are put into those of SQLite ([`names`]). Times are whole milliseconds since
//! the Unix epoch in columns ending with `_ms`: the same numbers in both, compared without a thought of zones or
//! precision.

pub use sea_orm_migration::MigratorTrait;
use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

mod m20261125_000001_deliveries;
mod m20261125_000002_tenants;
mod m20261125_000003_endpoint_and_backlog;
mod m20261126_000004_autovacuum;
mod m20261126_000005_cluster;
mod m20261127_000006_api_keys;
mod m20261127_000007_sealed;
mod m20261127_000008_audit;
mod m20261127_000009_asymmetric_signature;
mod m20261127_000010_client_certificate;
mod m20261128_000011_retries_version;
mod m20261130_000012_secrets;
mod m20261130_000013_tenant_quotas;
mod m20261130_000014_hops;
mod m20261130_000015_deletions;
mod m20261130_000016_request_headers;
pub mod names;

/// Every step, in order.
pub struct Migrator;

impl MigratorTrait for Migrator {
    /// Its own: other programs on the same database note theirs elsewhere.
    fn migration_table_name() -> DynIden {
        Alias::new("posthorn_migrations").into_iden()
    }

    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261125_000001_deliveries::Migration),
            Box::new(m20261125_000002_tenants::Migration),
            Box::new(m20261125_000003_endpoint_and_backlog::Migration),
            Box::new(m20261126_000004_autovacuum::Migration),
            Box::new(m20261126_000005_cluster::Migration),
            Box::new(m20261127_000006_api_keys::Migration),
            Box::new(m20261127_000007_sealed::Migration),
            Box::new(m20261127_000008_audit::Migration),
            Box::new(m20261127_000009_asymmetric_signature::Migration),
            Box::new(m20261127_000010_client_certificate::Migration),
            Box::new(m20261128_000011_retries_version::Migration),
            Box::new(m20261130_000012_secrets::Migration),
            Box::new(m20261130_000013_tenant_quotas::Migration),
            Box::new(m20261130_000014_hops::Migration),
            Box::new(m20261130_000015_deletions::Migration),
            Box::new(m20261130_000016_request_headers::Migration),
        ]
    }
}

/// Adds a column, unless a run that died before it was noted has added it: SQLite has no ADD COLUMN IF NOT EXISTS.
async fn add_column(manager: &SchemaManager<'_>, table: &str, column: &str, sql: &str) -> Result<(), DbErr> {
    let unless_there = match manager.get_database_backend() {
        // The table may be in the schema of an older release.
        DbBackend::Postgres => "IF NOT EXISTS ",
        _ if manager.has_column(name_of(manager, table), column).await? => return Ok(()),
        _ => "",
    };
    run(manager, &format!("ALTER TABLE {table} ADD COLUMN {unless_there}{column} {sql}")).await
}

/// Removes a column, if it is there.
async fn drop_column(manager: &SchemaManager<'_>, table: &str, column: &str) -> Result<(), DbErr> {
    let if_there = match manager.get_database_backend() {
        DbBackend::Postgres => "IF EXISTS ",
        _ if !manager.has_column(name_of(manager, table), column).await? => return Ok(()),
        _ => "",
    };
    run(manager, &format!("ALTER TABLE {table} DROP COLUMN {if_there}{column}")).await
}

/// Runs `sql`, its types put into the database's own words.
async fn run(manager: &SchemaManager<'_>, sql: &str) -> Result<(), DbErr> {
    let postgres = manager.get_database_backend() == DbBackend::Postgres;
    let words = [
        ("{uuid}", "uuid", "BLOB"),
        ("{bytes}", "bytea", "BLOB"),
        ("{text}", "text", "TEXT"),
        ("{code}", "smallint", "INTEGER"),
        ("{int}", "integer", "INTEGER"),
        ("{long}", "bigint", "INTEGER"),
        ("{real}", "double precision", "REAL"),
        // Room on each page for rows that change often, so that they change in place (HOT).
        ("{roomy}", "WITH (fillfactor = 50)", "STRICT, WITHOUT ROWID"),
        ("{table}", "", "STRICT"),
    ];
    let sql = words.iter().fold(sql.to_owned(), |sql, (word, in_postgres, in_sqlite)| {
        sql.replace(word, if postgres { in_postgres } else { in_sqlite })
    });
    let sql = if postgres { sql } else { schema_on_sqlite(&sql) };
    manager.get_connection().execute_unprepared(&sql).await.map(|_| ())
}

/// A statement that changes the schema, with the names of tables and indexes on SQLite.
fn schema_on_sqlite(sql: &str) -> String {
    let index = |there: &str| format!("INDEX IF {there} ");
    let named = |sql: &str, there| sql.replace(&index(there), &format!("{}{}", index(there), names::PREFIX));
    named(&named(&names::on_sqlite(sql), "NOT EXISTS"), "EXISTS")
}

/// What a table is called.
fn name_of(manager: &SchemaManager<'_>, table: &str) -> String {
    match manager.get_database_backend() {
        DbBackend::Sqlite => names::on_sqlite(table).into_owned(),
        _ => table.to_owned(),
    }
}
