//! A database with tables of other programs in it: none of theirs is read, changed or dropped.

use std::sync::Arc;

use serde_json::json;

use crate::support::command::run;
use crate::support::{Backend, Database, Posthorn, Receiver, Reply, on_both_databases};

/// Tables that others have under names of ours, where everybody looks.
const OTHERS: &str = "
CREATE TABLE nodes (id int, host text);
CREATE TABLE tenants (id int);
CREATE TABLE subscriptions (id int);
CREATE TABLE events (id int);
CREATE TABLE webhook_deliveries (id int);
CREATE INDEX subscriptions_by_tenant ON subscriptions (id);
CREATE TABLE seaql_migrations (version varchar NOT NULL PRIMARY KEY, applied_at bigint NOT NULL);
INSERT INTO nodes VALUES (1, 'theirs');
INSERT INTO seaql_migrations VALUES ('m20200101_000001_theirs', 0)";
const THEIRS: &str = "SELECT count(*) FROM nodes n, seaql_migrations m WHERE n.host = 'theirs' \
                      AND m.version = 'm20200101_000001_theirs' AND (SELECT count(*) FROM tenants) = 0";

on_both_databases![tables_of_others_are_left_alone];

async fn delivers(posthorn: &Posthorn) {
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = posthorn.client().subscribe(&receiver.url("/"), json!({})).await.id;
    posthorn.client().ingest(&id, json!(1)).await;
    receiver.arrived(1).await;
    posthorn.client().get("/health/ready").await.expect(200);
}

async fn tables_of_others_are_left_alone(backend: Backend) {
    let database = Arc::new(Database::create(backend).await);
    database.execute_as_written(OTHERS).await;
    let mut posthorn = Posthorn::start_on(Arc::clone(&database), &[]).await;
    delivers(&posthorn).await;
    assert!(posthorn.terminate().await.success());
    run(&database, &["migrate", "down", "--steps", "100"], &[]).await.succeeded();
    run(&database, &["migrate", "down", "--steps", "100"], &[]).await.succeeded();
    assert_eq!(database.number_as_written(THEIRS).await, 1);
    let ours = match backend {
        Backend::Postgres => "SELECT count(*) FROM pg_tables WHERE schemaname = 'posthorn'",
        Backend::Sqlite => {
            "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name LIKE 'posthorn_%'"
        }
    };
    assert_eq!(database.number(ours).await, 1, "the notes of what was applied are left");
}

/// Two services on one database, each with what is its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_schema_can_be_named() {
    let database = Arc::new(Database::create(Backend::Postgres).await);
    let one = Posthorn::start_on(Arc::clone(&database), &[]).await;
    let other =
        Posthorn::start_on(Arc::clone(&database), &[("POSTHORN_DATABASE_SCHEMA", "another_one")]).await;
    delivers(&one).await;
    delivers(&other).await;
    for (schema, node) in [("posthorn", &one), ("another_one", &other)] {
        let events = format!("SELECT count(*) FROM {schema}.events");
        assert_eq!(database.number(&events).await, 1, "{schema}");
        let cluster = node.client().get("/cluster").await.expect(200).json;
        assert_eq!(cluster["nodes"].as_array().unwrap().len(), 1, "{cluster}");
    }
    // One that is another's already.
    database.execute("CREATE SCHEMA taken; CREATE TABLE taken.nodes (id int)").await;
    let refused = run(&database, &["serve"], &[("POSTHORN_DATABASE_SCHEMA", "taken")]).await;
    refused.refused("POSTHORN_DATABASE_SCHEMA: expected a schema without tables of others");
    for name in ["Upper", "a-b", "1a", "pg_x", "information_schema", "a\"b"] {
        let refused = run(&database, &["serve"], &[("POSTHORN_DATABASE_SCHEMA", name)]).await;
        refused.refused("POSTHORN_DATABASE_SCHEMA: expected 1 to 63");
    }
}
