//! What is changed for a whole lane at once and written into its deliveries in slices, or never.
//!
//! `deletions` names deleted subscriptions with deliveries that are still to be ended, and how far that has got.
//!
//! A new target, or enabling, makes waiting retries due, and resuming gives them a fresh set of retries: that stands
//! at the subscription, as the version that did so (`due_version`, with its time, and `forgiven_version`). A delivery
//! says of which version its retry was planned (`planned_version`); none counts as before all of them, and as long as
//! only a program that does not know of this changes the subscription, it writes into the deliveries itself.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const CREATE: &str = "
CREATE TABLE IF NOT EXISTS deletions (
    subscription_id {uuid} NOT NULL PRIMARY KEY,
    deleted_at_ms {long} NOT NULL,
    ended_to {long} NOT NULL
) {roomy};
";

const COLUMNS: [(&str, &str); 4] = [
    ("subscriptions", "due_version"),
    ("subscriptions", "due_at_ms"),
    ("subscriptions", "forgiven_version"),
    ("webhook_deliveries", "planned_version"),
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run(manager, CREATE).await?;
        for (table, column) in COLUMNS {
            crate::add_column(manager, table, column, "{long}").await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run(manager, END_DELETED).await?;
        crate::run(manager, "DROP TABLE IF EXISTS deletions;").await?;
        for (table, column) in COLUMNS {
            crate::drop_column(manager, table, column).await?;
        }
        Ok(())
    }
}

/// What is left to be ended; no node runs meanwhile.
const END_DELETED: &str = "
UPDATE webhook_deliveries SET status = 4, next_attempt_at_ms = NULL, error = 'subscription deleted', completed_at_ms =
    (SELECT d.deleted_at_ms FROM deletions d WHERE d.subscription_id = webhook_deliveries.subscription_id)
WHERE status < 3 AND subscription_id IN (SELECT subscription_id FROM deletions);
";
