//! Whether a subscription's deliveries are also signed so that a public key verifies them. Nodes that do not know of
//! it leave it out.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // SQLite has no ADD COLUMN IF NOT EXISTS.
        if manager.has_column("subscriptions", "asymmetric_signature").await? {
            return Ok(());
        }
        let add = "ALTER TABLE subscriptions ADD COLUMN asymmetric_signature {code} NOT NULL DEFAULT 0";
        crate::run(manager, add).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.has_column("subscriptions", "asymmetric_signature").await? {
            crate::run(manager, "ALTER TABLE subscriptions DROP COLUMN asymmetric_signature").await?;
        }
        Ok(())
    }
}
