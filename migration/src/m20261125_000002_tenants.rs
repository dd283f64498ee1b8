//! Tenants: what each may use.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run(manager, TABLES).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run(manager, DROP).await
    }
}

/// A process can die between these and the note that they are done, so each may be run again.
///
/// A row is there only for a tenant that somebody configured: names come with subscriptions, and
/// there a tenant needs no more than its name.
const TABLES: &str = "
CREATE TABLE IF NOT EXISTS tenants (
    name {text} NOT NULL PRIMARY KEY,
    requests_per_second {real},
    burst {int} CHECK (burst > 0),
    max_in_flight {int} CHECK (max_in_flight > 0),
    ingest_per_second {real},
    ingest_burst {int} CHECK (ingest_burst > 0),
    version {long} NOT NULL,
    updated_at_ms {long} NOT NULL,
    CHECK ((requests_per_second IS NULL) = (burst IS NULL)),
    CHECK ((ingest_per_second IS NULL) = (ingest_burst IS NULL))
) {table};
";

const DROP: &str = "
DROP TABLE IF EXISTS tenants;
";
