//! Who runs on this database, which node holds which slots until when, and what is shared through Redis. All
//! times are the database's own.
//!
//! SQLite has one process, which holds all of them.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const CREATE: &str = "
CREATE TABLE IF NOT EXISTS nodes (
    id uuid NOT NULL PRIMARY KEY,
    name text NOT NULL,
    version text NOT NULL,
    started_at_ms bigint NOT NULL,
    seen_at_ms bigint NOT NULL,
    leaving boolean NOT NULL
) {roomy};

CREATE TABLE IF NOT EXISTS slots (
    slot smallint NOT NULL PRIMARY KEY CHECK (slot BETWEEN 0 AND 255),
    owner uuid,
    epoch bigint NOT NULL,
    until_ms bigint NOT NULL
) {roomy};
INSERT INTO slots (slot, epoch, until_ms) SELECT n, 0, 0 FROM generate_series(0, 255) AS n ON CONFLICT DO NOTHING;

CREATE TABLE IF NOT EXISTS shared_cache (
    id smallint NOT NULL PRIMARY KEY CHECK (id = 0),
    cluster_id uuid NOT NULL,
    namespace uuid NOT NULL,
    redis_run text
);
INSERT INTO shared_cache VALUES (0, gen_random_uuid(), gen_random_uuid(), NULL) ON CONFLICT DO NOTHING;
";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.get_database_backend() == DbBackend::Postgres {
            crate::run(manager, CREATE).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run(
            manager,
            "DROP TABLE IF EXISTS shared_cache; DROP TABLE IF EXISTS slots; DROP TABLE IF EXISTS nodes;",
        )
        .await
    }
}
