//! Which change of a subscription last gave its failed deliveries a fresh set of retries, so that who hears of it
//! twice gives them once. Where a node that does not know of it resumes a subscription, the lanes in the memory of
//! others go on with the retries that were left.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // SQLite has no ADD COLUMN IF NOT EXISTS.
        if manager.has_column("subscriptions", "retries_version").await? {
            return Ok(());
        }
        let add = "ALTER TABLE subscriptions ADD COLUMN retries_version {long} NOT NULL DEFAULT 1";
        crate::run(manager, add).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.has_column("subscriptions", "retries_version").await? {
            crate::run(manager, "ALTER TABLE subscriptions DROP COLUMN retries_version").await?;
        }
        Ok(())
    }
}
