//! With which key a subscription's secrets are encrypted; none: they stand in clear.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::add_column(manager, "subscriptions", "sealed_by", "{text}").await?;
        crate::run(manager, INDEX).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run(manager, "DROP INDEX IF EXISTS subscriptions_by_seal").await?;
        crate::drop_column(manager, "subscriptions", "sealed_by").await
    }
}

/// Tells at the start which keys are needed, and what is left to be encrypted anew. Deleted subscriptions have no
/// secrets.
const INDEX: &str = "CREATE INDEX IF NOT EXISTS subscriptions_by_seal ON subscriptions (sealed_by, id) \
    WHERE deleted_at_ms IS NULL";
