//! Subscriptions, their lanes, events, deliveries, attempts and the counters beside them.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run(manager, TABLES).await?;
        if manager.get_database_backend() == DbBackend::Postgres {
            crate::run(manager, POSTGRES_ONLY).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run(manager, DROP).await
    }
}

/// A process can die anywhere between these and the note that they are done, so each may be run
/// again.
///
/// No foreign keys between the hot tables: one statement writes an event with its delivery, and
/// retention removes them together, so a key would only be checked for what cannot happen.
const TABLES: &str = "
CREATE TABLE IF NOT EXISTS subscriptions (
    id {uuid} NOT NULL PRIMARY KEY,
    tenant {text} NOT NULL,
    target_url {text} NOT NULL,
    description {text},
    headers {text} NOT NULL,
    ordering {code} NOT NULL CHECK (ordering BETWEEN 0 AND 2),
    max_in_flight {int} CHECK (max_in_flight > 0),
    requests_per_second {real},
    burst {int},
    max_retries {int},
    retry_delay_ms {long},
    retry_delay_max_ms {long},
    on_exhausted {code} CHECK (on_exhausted BETWEEN 0 AND 1),
    timeout_ms {long},
    secret_key {text},
    signing_secret {text} NOT NULL,
    previous_signing_secret {text},
    previous_signing_until_ms {long},
    status {code} NOT NULL CHECK (status BETWEEN 0 AND 2),
    status_reason {code} CHECK (status_reason BETWEEN 0 AND 2),
    version {long} NOT NULL,
    created_at_ms {long} NOT NULL,
    updated_at_ms {long} NOT NULL,
    deleted_at_ms {long},
    CHECK ((requests_per_second IS NULL) = (burst IS NULL)),
    CHECK ((previous_signing_secret IS NULL) = (previous_signing_until_ms IS NULL))
) {table};
CREATE INDEX IF NOT EXISTS subscriptions_by_tenant ON subscriptions (tenant, id) WHERE deleted_at_ms IS NULL;
CREATE INDEX IF NOT EXISTS subscriptions_by_status ON subscriptions (status, id) WHERE deleted_at_ms IS NULL;
CREATE INDEX IF NOT EXISTS subscriptions_deleted ON subscriptions (deleted_at_ms) WHERE deleted_at_ms IS NOT NULL;

CREATE TABLE IF NOT EXISTS lanes (
    subscription_id {uuid} NOT NULL PRIMARY KEY,
    next_sequence {long} NOT NULL
) {roomy};

CREATE TABLE IF NOT EXISTS lane_health (
    subscription_id {uuid} NOT NULL PRIMARY KEY,
    circuit {code} NOT NULL CHECK (circuit BETWEEN 0 AND 2),
    failures {int} NOT NULL,
    cool_down_ms {long},
    probe_at_ms {long},
    failing_since_ms {long},
    CHECK ((circuit = 0) = (cool_down_ms IS NULL))
) {roomy};
CREATE INDEX IF NOT EXISTS lane_health_not_closed ON lane_health (circuit) WHERE circuit <> 0;

CREATE TABLE IF NOT EXISTS events (
    id {uuid} NOT NULL PRIMARY KEY,
    content_type {text} NOT NULL,
    payload {bytes} NOT NULL,
    reference_count {int} NOT NULL
) {table};

CREATE TABLE IF NOT EXISTS webhook_deliveries (
    id {uuid} NOT NULL PRIMARY KEY,
    subscription_id {uuid} NOT NULL,
    event_id {uuid} NOT NULL,
    replay_of {uuid},
    sequence {long} NOT NULL,
    status {code} NOT NULL CHECK (status BETWEEN 0 AND 4),
    ordering_key {text},
    idempotency_key {text},
    attempt_count {int} NOT NULL,
    retry_base {int} NOT NULL,
    next_attempt_at_ms {long},
    error {text},
    created_at_ms {long} NOT NULL,
    completed_at_ms {long},
    CHECK ((completed_at_ms IS NULL) = (status < 3)),
    CHECK ((next_attempt_at_ms IS NULL) = (status <> 2))
) {table};
CREATE UNIQUE INDEX IF NOT EXISTS webhook_deliveries_in_order ON webhook_deliveries (subscription_id, sequence);
CREATE INDEX IF NOT EXISTS webhook_deliveries_unfinished ON webhook_deliveries (subscription_id, sequence)
    WHERE status < 3;
CREATE INDEX IF NOT EXISTS webhook_deliveries_unfinished_by_key
    ON webhook_deliveries (subscription_id, ordering_key, sequence)
    WHERE status < 3 AND ordering_key IS NOT NULL;
CREATE INDEX IF NOT EXISTS webhook_deliveries_failed ON webhook_deliveries (subscription_id, sequence)
    WHERE status = 4;
CREATE UNIQUE INDEX IF NOT EXISTS webhook_deliveries_idempotent
    ON webhook_deliveries (subscription_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX IF NOT EXISTS webhook_deliveries_finished ON webhook_deliveries (completed_at_ms)
    WHERE completed_at_ms IS NOT NULL;

CREATE TABLE IF NOT EXISTS delivery_attempts (
    id {uuid} NOT NULL PRIMARY KEY,
    delivery_id {uuid} NOT NULL,
    subscription_id {uuid} NOT NULL,
    attempt_number {int} NOT NULL CHECK (attempt_number > 0),
    outcome {code} NOT NULL CHECK (outcome BETWEEN 0 AND 2),
    status_code {code},
    response_body {bytes},
    error_message {text},
    duration_ms {long} NOT NULL,
    attempted_at_ms {long} NOT NULL
) {table};
CREATE UNIQUE INDEX IF NOT EXISTS delivery_attempts_of_delivery ON delivery_attempts (delivery_id, attempt_number);
CREATE INDEX IF NOT EXISTS delivery_attempts_of_subscription ON delivery_attempts (subscription_id, id);

CREATE TABLE IF NOT EXISTS stats_minutes (
    minute {long} NOT NULL,
    writer {code} NOT NULL,
    accepted {long} NOT NULL,
    succeeded {long} NOT NULL,
    failed {long} NOT NULL,
    PRIMARY KEY (minute, writer)
) {roomy};
";

/// Payloads are mostly read whole and once: stored beside the table and never compressed.
const POSTGRES_ONLY: &str = "ALTER TABLE events ALTER COLUMN payload SET STORAGE EXTERNAL;";

const DROP: &str = "
DROP TABLE IF EXISTS stats_minutes;
DROP TABLE IF EXISTS delivery_attempts;
DROP TABLE IF EXISTS webhook_deliveries;
DROP TABLE IF EXISTS events;
DROP TABLE IF EXISTS lane_health;
DROP TABLE IF EXISTS lanes;
DROP TABLE IF EXISTS subscriptions;
";
