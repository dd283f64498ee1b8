//! What of ingest's head travels on or serves as idempotency key, and answers after which a delivery is given up. Nodes
//! that do not know of it leave all three out.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

/// JSON: lists of words, and for an event an object of names and values.
const COLUMNS: [(&str, &str); 4] = [
    ("subscriptions", "give_up_on"),
    ("subscriptions", "forward_headers"),
    ("subscriptions", "idempotency_header"),
    ("events", "forwarded_headers"),
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (table, column) in COLUMNS {
            crate::add_column(manager, table, column, "{text}").await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (table, column) in COLUMNS {
            crate::drop_column(manager, table, column).await?;
        }
        Ok(())
    }
}
