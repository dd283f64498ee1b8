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
            // SQLite has no ADD COLUMN IF NOT EXISTS.
            if !manager.has_column(table, column).await? {
                let add =
                    format!("ALTER TABLE {table} ADD COLUMN {column} {{long}} NOT NULL DEFAULT {default}");
                crate::run(manager, &add).await?;
            }
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (table, column, _) in COLUMNS {
            if manager.has_column(table, column).await? {
                crate::run(manager, &format!("ALTER TABLE {table} DROP COLUMN {column}")).await?;
            }
        }
        Ok(())
    }
}
