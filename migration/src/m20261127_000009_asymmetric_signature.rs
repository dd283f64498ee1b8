//! Whether a subscription's deliveries are also signed so that a public key verifies them. Nodes that do not know of
//! it leave it out.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::add_column(manager, "subscriptions", "asymmetric_signature", "{code} NOT NULL DEFAULT 0").await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::drop_column(manager, "subscriptions", "asymmetric_signature").await
    }
}
