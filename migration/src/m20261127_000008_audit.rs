//! Who changed what: lines are added, and removed when they are old.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run(manager, CREATE).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run(manager, "DROP TABLE IF EXISTS audit_log;").await
    }
}

/// Ids sort by age, so that what is old is found by them.
const CREATE: &str = "
CREATE TABLE IF NOT EXISTS audit_log (
    id {uuid} NOT NULL PRIMARY KEY,
    at_ms {long} NOT NULL,
    actor {code} NOT NULL,
    key_id {uuid},
    action {code} NOT NULL,
    tenant {text},
    subject {text} NOT NULL,
    fields {text} NOT NULL
) {table};
CREATE INDEX IF NOT EXISTS audit_log_by_tenant ON audit_log (tenant, id);
";
