//! What an endpoint is shown that asks who calls. Nodes that do not know of it show nothing.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // SQLite has no ADD COLUMN IF NOT EXISTS.
        if manager.has_column("subscriptions", "client_certificate").await? {
            return Ok(());
        }
        crate::run(manager, "ALTER TABLE subscriptions ADD COLUMN client_certificate {text}").await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.has_column("subscriptions", "client_certificate").await? {
            crate::run(manager, "ALTER TABLE subscriptions DROP COLUMN client_certificate").await?;
        }
        Ok(())
    }
}
