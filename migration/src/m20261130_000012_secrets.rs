//! Replaced secrets that are still in force, beyond the one that `previous_signing_secret` holds; and whether secrets may
//! stand in clear. Nodes that do not know of either leave them as they are.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const COLUMNS: [&str; 2] = ["replaced_signing_secrets", "replaced_secret_keys"];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for column in COLUMNS {
            crate::add_column(manager, "subscriptions", column, "{text}").await?;
        }
        crate::run(manager, SEALING).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run(manager, "DROP TABLE IF EXISTS secret_sealing").await?;
        for column in COLUMNS {
            crate::drop_column(manager, "subscriptions", column).await?;
        }
        Ok(())
    }
}

/// Whether secrets may stand in clear (1), or all of them were encrypted and one in clear is not believed any more (0).
const SEALING: &str = "
CREATE TABLE IF NOT EXISTS secret_sealing (
    id {code} NOT NULL PRIMARY KEY CHECK (id = 0),
    clear_allowed {code} NOT NULL CHECK (clear_allowed IN (0, 1))
) {table};
INSERT INTO secret_sealing (id, clear_allowed) VALUES (0, 1) ON CONFLICT (id) DO NOTHING;
";
