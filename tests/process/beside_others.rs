//! A database with tables of other programs in it: none of theirs is read, changed or dropped.

use std::sync::Arc;

use serde_json::json;

use crate::support::command::run;
use crate::support::{Backend, Database, Posthorn, Receiver, Reply};

/// Tables that others have under names of ours, in the schema where everybody looks.
const OTHERS: &str = "
CREATE TABLE public.nodes (id int, host text);
CREATE TABLE public.tenants (id int);
CREATE TABLE public.subscriptions (id int);
CREATE TABLE public.seaql_migrations (version varchar NOT NULL PRIMARY KEY, applied_at bigint NOT NULL);
INSERT INTO public.nodes VALUES (1, 'theirs');
INSERT INTO public.seaql_migrations VALUES ('m20200101_000001_theirs', 0)";
const THEIRS: &str = "SELECT count(*) FROM public.nodes n, public.seaql_migrations m WHERE n.host = 'theirs' \
                      AND m.version = 'm20200101_000001_theirs' AND EXISTS (SELECT FROM public.tenants HAVING count(*) = 0)";

async fn delivers(posthorn: &Posthorn) {
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = posthorn.client().subscribe(&receiver.url("/"), json!({})).await.id;
    posthorn.client().ingest(&id, json!(1)).await;
    receiver.arrived(1).await;
    posthorn.client().get("/health/ready").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_others_are_left_alone() {
    let database = Arc::new(Database::create(Backend::Postgres).await);
    database.execute(OTHERS).await;
    let mut posthorn = Posthorn::start_on(Arc::clone(&database), &[]).await;
    delivers(&posthorn).await;
    assert!(posthorn.terminate().await.success());
    run(&database, &["migrate", "down", "--steps", "100"], &[]).await.succeeded();
    assert_eq!(database.number(THEIRS).await, 1);
    let ours =
        "SELECT count(*) FROM pg_tables WHERE schemaname = 'posthorn' AND tablename <> 'posthorn_migrations'";
    assert_eq!(database.number(ours).await, 0);
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
