//! Versions side by side: a node of the next one changes the schema beneath those of the one before.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::world::{SETTINGS, World};
use crate::support::command;
use crate::support::{Backend, Database, Posthorn};

/// The schema is not taken from under a node; and a node that is older than the schema does not start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_fits_who_works_on_it() {
    let mut world = World::start(1).await;
    world.balanced().await;
    let down = command::run(&world.database, &["migrate", "down"], &[]).await;
    down.refused("posthorn is running on this database");
    assert!(world.nodes[0].terminate().await.success());
    command::run(&world.database, &["migrate", "down"], &[]).await.succeeded();
    command::run(&world.database, &["migrate", "up"], &[]).await.succeeded();
    world.database.execute("INSERT INTO posthorn_migrations VALUES ('m29991231_000001_later', 0)").await;
    command::run(&world.database, &["serve"], &[]).await.refused("newer version than this program");
}

/// What a later version's step may do: each table gets a column, while the statements that read and write it are
/// prepared and in use.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_more_in_each_table_is_not_noticed() {
    let world = World::start(2).await;
    world.balanced().await;
    let load = world.load();
    tokio::time::sleep(Duration::from_millis(500)).await;
    look_at_everything(&world).await;
    let tables = "pg_tables WHERE schemaname = current_schema()";
    let count = world.database.number(&format!("SELECT count(*) FROM {tables}")).await;
    for number in 0..count {
        let step = format!(
            "DO $$ BEGIN EXECUTE format('ALTER TABLE %I ADD COLUMN later bigint NOT NULL DEFAULT 7', \
             (SELECT tablename FROM {tables} ORDER BY tablename OFFSET {number} LIMIT 1)); END $$"
        );
        world.database.execute(&step).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.database.execute("INSERT INTO posthorn_migrations VALUES ('m29991231_000001_later', 0)").await;
    look_at_everything(&world).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let seen = world.end(load).await;
    assert_eq!(seen.repeats, 0);
    world.check_within(Duration::from_secs(1), "nothing came", seen.silence);
}

/// A build of another commit gives way to this one, node by node; `scripts/test-upgrade COMMIT` makes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an older build: scripts/test-upgrade COMMIT"]
async fn a_rolling_upgrade_is_not_noticed() {
    let older =
        std::env::var("POSTHORN_TEST_OLDER").expect("POSTHORN_TEST_OLDER: the path of an older build");
    let database = Database::create(Backend::Postgres).await;
    let mut world = World::start_program(&older, database, 2, SETTINGS).await;
    world.balanced().await;
    // Where an older release may have noted them.
    let before = world.database.number("SELECT count(*) FROM seaql_migrations").await;
    let load = world.load();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        world.join(Posthorn::start_on(Arc::clone(&world.database), SETTINGS).await);
        world.balanced().await;
        look_at_everything(&world).await;
        world.clients.send_modify(|clients| drop(clients.remove(0)));
        let ended = world.nodes.remove(0).terminate().await;
        assert!(ended.success(), "{ended}");
        world.balanced().await;
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    let seen = world.end(load).await;
    println!(
        "{} steps of the schema",
        world.database.number("SELECT count(*) FROM posthorn_migrations").await - before
    );
    assert_eq!(seen.repeats, 0);
    world.check_within(Duration::from_secs(1), "nothing came", seen.silence);
}

/// Reads and changes at each node, of what the others work with.
async fn look_at_everything(world: &World) {
    for node in &world.nodes {
        let client = node.client();
        for id in &world.subscriptions {
            client.post(format!("/subscriptions/{id}/pause")).await.expect(200);
            client.post(format!("/subscriptions/{id}/resume")).await.expect(200);
            client.get(format!("/subscriptions/{id}")).await.expect(200);
            client.get(format!("/subscriptions/{id}/deliveries")).await.expect(200);
            client.get(format!("/status/subscriptions/{id}/attempts")).await.expect(200);
        }
        client.put_json("/tenants/acme", json!({"max_in_flight": 10})).await.expect(200);
        for path in
            ["/subscriptions/", "/tenants/acme", "/status/stats", "/status/activity", "/audit", "/cluster"]
        {
            client.get(path).await.expect(200);
        }
    }
}
