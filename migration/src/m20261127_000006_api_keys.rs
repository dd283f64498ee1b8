//! API keys, by what is kept of them: their SHA-256.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run(manager, CREATE).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run(manager, "DROP TABLE IF EXISTS api_keys;").await
    }
}

/// A key without a tenant opens everything.
const CREATE: &str = "
CREATE TABLE IF NOT EXISTS api_keys (
    id {uuid} NOT NULL PRIMARY KEY,
    digest {bytes} NOT NULL,
    name {text} NOT NULL,
    tenant {text},
    created_at_ms {long} NOT NULL,
    expires_at_ms {long},
    last_used_at_ms {long}
) {table};
CREATE UNIQUE INDEX IF NOT EXISTS api_keys_by_digest ON api_keys (digest);
CREATE INDEX IF NOT EXISTS api_keys_by_tenant ON api_keys (tenant, id);
";
