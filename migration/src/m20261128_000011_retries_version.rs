//! Which change of a subscription last gave its failed deliveries a fresh set of retries, so that who hears of it
//! twice gives them once. Where a node that does not know of it resumes a subscription, the lanes in the memory of
//! others go on with the retries that were left.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::add_column(manager, "subscriptions", "retries_version", "{long} NOT NULL DEFAULT 1").await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::drop_column(manager, "subscriptions", "retries_version").await
    }
}
