//! What a tenant may have: subscriptions, stored bytes, and calls of the API.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

/// A rate and its burst are set together; the program sees to that.
const COLUMNS: [(&str, &str); 4] = [
    ("max_subscriptions", "{int}"),
    ("max_stored_bytes", "{long}"),
    ("control_per_second", "{real}"),
    ("control_burst", "{int}"),
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (column, kind) in COLUMNS {
            crate::add_column(manager, "tenants", column, kind).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (column, _) in COLUMNS {
            crate::drop_column(manager, "tenants", column).await?;
        }
        Ok(())
    }
}
