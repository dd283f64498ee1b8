//! How often PostgreSQL cleans up after deliveries: each is written once, changed once and removed by retention.
//!
//! By its defaults it would wait until a fifth of a table is dead, and then be held to a pace that falls
//! behind: under steady load with retention at work `events` grew to five times what it held. So it
//! begins at a fiftieth, at ten times the pace. SQLite uses the room again by itself.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const TABLES: [&str; 3] = ["events", "webhook_deliveries", "delivery_attempts"];

/// Each of a table and of where its long values lie.
const SETTINGS: [(&str, &str); 3] = [
    ("autovacuum_vacuum_scale_factor", "0.02"),
    ("autovacuum_vacuum_threshold", "10000"),
    ("autovacuum_vacuum_cost_limit", "2000"),
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let set: Vec<_> = both().map(|(name, value)| format!("{name} = {value}")).collect();
        alter(manager, &format!("SET ({})", set.join(", "))).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let reset: Vec<_> = both().map(|(name, _)| name).collect();
        alter(manager, &format!("RESET ({})", reset.join(", "))).await
    }
}

fn both() -> impl Iterator<Item = (String, &'static str)> {
    let places = ["", "toast."];
    places.into_iter().flat_map(|place| SETTINGS.map(|(name, value)| (format!("{place}{name}"), value)))
}

async fn alter(manager: &SchemaManager<'_>, change: &str) -> Result<(), DbErr> {
    if manager.get_database_backend() == DbBackend::Postgres {
        for table in TABLES {
            crate::run(manager, &format!("ALTER TABLE {table} {change}")).await?;
        }
    }
    Ok(())
}
