//! Since when an endpoint's record holds: outcomes of requests to an earlier endpoint say nothing of
//! the one that is there now. And how much of a lane has ended, so that its backlog need not be
//! counted with every event.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const COLUMNS: [(&str, &str, i64); 3] = [
    ("subscriptions", "endpoint_version", 1),
    ("lane_health", "endpoint_version", 1),
    ("lanes", "finished", 0),
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (table, column, default) in COLUMNS {
            crate::add_column(manager, table, column, &format!("{{long}} NOT NULL DEFAULT {default}"))
                .await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (table, column, _) in COLUMNS {
            crate::drop_column(manager, table, column).await?;
        }
        Ok(())
    }
}
