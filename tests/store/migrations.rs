//! The schema goes up and down, and refuses what must not be.

use std::sync::Arc;
use std::time::{Duration, Instant};

use posthorn::store::{Settings, Store};
use posthorn_domain::audit::{Action, Stamp};
use posthorn_domain::tenant::{Tenant, TenantSettings};
use posthorn_migration::names::TABLES;

use crate::on_both_databases;
use crate::support::{Backend, Database};
use crate::world::{STAMP, World, subscription};

on_both_databases![
    up_down_and_up_again,
    a_newer_step_keeps_what_is_stored,
    a_step_that_was_not_noted_runs_again,
    a_newer_schema_is_refused,
    an_older_release_is_taken_over,
    an_older_release_does_not_come_back,
    a_second_process_is_refused,
    subscriptions_come_back_as_they_were,
];

async fn up_down_and_up_again(backend: Backend) {
    let database = Database::create(backend).await;
    let store = Store::connect(&Settings::at(database.url())).await.unwrap();
    let applied = async || -> Vec<bool> {
        store.migrations().await.unwrap().into_iter().map(|(_, applied)| applied).collect()
    };
    assert!(applied().await.iter().all(|applied| !applied));
    store.migrate_up().await.unwrap();
    store.migrate_up().await.unwrap();
    assert!(applied().await.iter().all(|applied| *applied));
    assert_eq!(database.number("SELECT count(*) FROM webhook_deliveries").await, 0);

    let steps = u32::try_from(applied().await.len()).unwrap();
    store.migrate_down(steps).await.unwrap();
    assert!(applied().await.iter().all(|applied| !applied));
    store.migrate_up().await.unwrap();
    store.insert_subscription(&subscription(), None, STAMP).await.unwrap();
}

/// Back to the first release's schema and forth again: what it knew of is there, the rest is gone.
async fn a_newer_step_keeps_what_is_stored(backend: Backend) {
    let world = World::new(backend).await;
    let stored = subscription();
    world.store.insert_subscription(&stored, None, STAMP).await.unwrap();
    world
        .store
        .update_tenant(Tenant::default(), STAMP, |settings| settings.max_in_flight = Some(3))
        .await
        .unwrap();
    let steps = u32::try_from(world.store.migrations().await.unwrap().len()).unwrap();
    world.store.migrate_down(steps - 1).await.unwrap();
    world.store.migrate_up().await.unwrap();
    assert_eq!(world.database.number("SELECT count(*) FROM tenants").await, 0);
    let view = world.store.subscription_view(stored.id).await.unwrap().unwrap();
    assert_eq!(view.subscription, stored);
}

/// The process died after its last step and before the note that it is done.
async fn a_step_that_was_not_noted_runs_again(backend: Backend) {
    let world = World::new(backend).await;
    let change = |settings: &mut TenantSettings| settings.max_in_flight = Some(3);
    let stored = world.store.update_tenant(Tenant::default(), STAMP, change).await.unwrap();
    let forget =
        "DELETE FROM posthorn_migrations WHERE version = (SELECT max(version) FROM posthorn_migrations)";
    world.database.execute(forget).await;
    assert!(world.store.migrations().await.unwrap().iter().any(|(_, applied)| !applied));
    world.store.migrate_up().await.unwrap();
    assert_eq!(world.store.tenant_settings(&Tenant::default()).await.unwrap(), stored);
}

/// Somebody reads a table for two seconds, which a step needs for itself: it waits, and whoever comes after it does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_waits_keeps_nobody_waiting() {
    let world = World::new(Backend::Postgres).await;
    let steps = u32::try_from(world.store.migrations().await.unwrap().len()).unwrap();
    world.store.migrate_down(steps - 1).await.unwrap();
    let database = Arc::new(world.database);
    let reading = tokio::spawn({
        let database = Arc::clone(&database);
        let read = "BEGIN; LOCK TABLE subscriptions IN ACCESS SHARE MODE; SELECT pg_sleep(2); COMMIT";
        async move { database.execute(read).await }
    });
    let held = "SELECT count(*) FROM pg_locks WHERE granted AND relation = 'subscriptions'::regclass AND pid <> pg_backend_pid()";
    while database.number(held).await == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let store = world.store.clone();
    let migrating = tokio::spawn(async move { store.migrate_up().await });
    let mut longest = Duration::ZERO;
    while !reading.is_finished() {
        let began = Instant::now();
        database.number("SELECT count(*) FROM subscriptions").await;
        longest = longest.max(began.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!migrating.is_finished(), "it needs what is held");
    assert!(longest < Duration::from_secs(1), "kept waiting for {longest:?}");
    migrating.await.unwrap().unwrap();
    assert!(world.store.migrations().await.unwrap().iter().all(|(_, applied)| *applied));
}

/// A later version has been here.
async fn a_newer_schema_is_refused(backend: Backend) {
    let world = World::new(backend).await;
    world.database.execute("INSERT INTO posthorn_migrations VALUES ('m29991231_000001_later', 0)").await;
    for refused in [
        world.store.migrate_up().await.unwrap_err(),
        world.store.migrate_down(1).await.unwrap_err(),
        world.store.migrations().await.unwrap_err(),
    ] {
        let refused = refused.to_string();
        assert!(refused.contains("newer version") && refused.contains("m29991231_000001_later"), "{refused}");
        assert_eq!(refused.lines().count(), 1);
    }
}

async fn a_second_process_is_refused(backend: Backend) {
    let world = World::new(backend).await;
    let other = Store::connect(&Settings::at(world.database.url())).await.unwrap();
    let lock = world.store.lock_instance().await.unwrap();
    let refused = other.lock_instance().await.unwrap_err().to_string();
    assert!(refused.contains("another posthorn"), "{refused}");
    drop(lock);
    other.lock_instance().await.unwrap();
}

async fn subscriptions_come_back_as_they_were(backend: Backend) {
    let world = World::new(backend).await;
    let stored = subscription();
    world.store.insert_subscription(&stored, None, STAMP).await.unwrap();
    let view = world.store.subscription_view(stored.id).await.unwrap().unwrap();
    assert_eq!(view.subscription, stored);

    let update = world
        .store
        .update_subscription(
            stored.id,
            Stamp { at: stored.updated_at, ..STAMP },
            Action::SubscriptionUpdated,
            |subscription| {
                subscription.config.description = None;
                subscription.config.timeout = None;
            },
        )
        .await
        .unwrap()
        .unwrap();
    assert_eq!(update.before, stored);
    assert_eq!(update.after.subscription.config.description, None);
    assert_eq!(update.after.subscription.version, 2);
}

/// What a release up to 0.1 left: the tables where everybody looks, and the steps in a table that others use as well.
async fn an_older_release_is_taken_over(backend: Backend) {
    let world = World::new(backend).await;
    let stored = subscription();
    world.store.insert_subscription(&stored, None, STAMP).await.unwrap();
    as_an_older_release(&world.database, backend).await;
    world.database.execute("INSERT INTO seaql_migrations VALUES ('m20200101_000001_theirs', 0)").await;

    let store = Store::connect(&Settings::at(world.database.url())).await.unwrap();
    assert!(store.migrations().await.unwrap().iter().all(|(_, applied)| *applied), "they are known");
    let refused = store.migrate_down(1).await.unwrap_err().to_string();
    assert!(refused.contains("run posthorn migrate up first"), "{refused}");
    store.migrate_up().await.unwrap();
    let view = store.subscription_view(stored.id).await.unwrap().unwrap();
    assert_eq!(view.subscription, stored);
    assert_eq!(world.database.number("SELECT count(*) FROM seaql_migrations").await, 1, "theirs is left");
    if backend == Backend::Postgres {
        let elsewhere =
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'seaql_migrations'";
        assert_eq!(world.database.number(elsewhere).await, 0, "all of ours were moved");
    } else {
        let everyday = "SELECT count(*) FROM sqlite_master WHERE name NOT LIKE 'posthorn_%' AND name NOT LIKE 'sqlite_%'";
        assert_eq!(world.database.number(everyday).await, 2, "theirs, and the shared notes");
    }
    assert!(store.migrations().await.unwrap().iter().all(|(_, applied)| *applied));
    store.migrate_up().await.unwrap();
}

/// The older release does not start any more: it would find an empty database.
async fn an_older_release_does_not_come_back(backend: Backend) {
    let world = World::new(backend).await;
    as_an_older_release(&world.database, backend).await;
    let store = Store::connect(&Settings::at(world.database.url())).await.unwrap();
    store.migrate_up().await.unwrap();
    // What it refuses: steps that it does not know.
    let left = "SELECT count(*) FROM seaql_migrations WHERE version NOT IN (SELECT version FROM posthorn_migrations)";
    assert_eq!(world.database.number(left).await, 1);
    assert_eq!(world.database.number("SELECT count(*) FROM seaql_migrations").await, 1);
    let store = Store::connect(&Settings::at(world.database.url())).await.unwrap();
    store.migrate_up().await.unwrap();
    assert!(store.migrations().await.unwrap().iter().all(|(_, applied)| *applied));
}

/// While a node of the older release is at work its tables stay where they are, and both work on them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_release_at_work_is_left_where_it_is() {
    let world = World::new(Backend::Postgres).await;
    let stored = subscription();
    world.store.insert_subscription(&stored, None, STAMP).await.unwrap();
    let steps = u32::try_from(world.store.migrations().await.unwrap().len()).unwrap();
    world.store.migrate_down(2).await.unwrap();
    as_an_older_release(&world.database, Backend::Postgres).await;
    let works = "UPDATE public.slots SET owner = gen_random_uuid(), until_ms = extract(epoch FROM now()) * 1000 + 60000";
    world.database.execute(works).await;

    let store = Store::connect(&Settings::at(world.database.url())).await.unwrap();
    store.migrate_up().await.unwrap();
    assert_eq!(world.database.number("SELECT count(*) FROM public.subscriptions").await, 1);
    assert_eq!(store.migrations().await.unwrap().len(), usize::try_from(steps).unwrap());
    assert!(store.migrations().await.unwrap().iter().all(|(_, applied)| *applied));
    assert_eq!(store.subscription_view(stored.id).await.unwrap().unwrap().subscription, stored);
    // Its last node is gone.
    world.database.execute("UPDATE public.slots SET owner = NULL").await;
    let store = Store::connect(&Settings::at(world.database.url())).await.unwrap();
    store.migrate_up().await.unwrap();
    assert_eq!(world.database.number("SELECT count(*) FROM posthorn.subscriptions").await, 1);
    assert_eq!(store.subscription_view(stored.id).await.unwrap().unwrap().subscription, stored);
}

async fn as_an_older_release(database: &Database, backend: Backend) {
    if backend == Backend::Postgres {
        let move_back = "DO $$ DECLARE t text; BEGIN FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = 'posthorn' \
                         LOOP EXECUTE format('ALTER TABLE posthorn.%I SET SCHEMA public', t); END LOOP; END $$";
        database.execute(move_back).await;
        database.execute("DROP SCHEMA posthorn").await;
    } else {
        for table in TABLES.into_iter().filter(|table| !["nodes", "shared_cache", "slots"].contains(table)) {
            let rename = format!("ALTER TABLE posthorn_{table} RENAME TO {table}");
            database.execute_as_written(&rename).await;
        }
        database
            .execute_as_written(
                "DROP INDEX posthorn_webhook_deliveries_finished; \
                 CREATE INDEX webhook_deliveries_finished ON webhook_deliveries (completed_at_ms) WHERE status >= 3; \
                 CREATE TABLE nodes (id int, host text)",
            )
            .await;
    }
    database.execute("ALTER TABLE posthorn_migrations RENAME TO seaql_migrations").await;
}
