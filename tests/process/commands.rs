//! The command line beside `serve`: `migrate`, `openapi`, `demo`.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::command::run;
use crate::support::{Backend, Database, Posthorn, Receiver, Reply, on_both_databases};

on_both_databases!(
    migrations_go_up_and_down,
    printed_document_is_the_served_one,
    the_start_names_the_database
);

async fn migrations_go_up_and_down(backend: Backend) {
    let database = Arc::new(Database::create(backend).await);
    let before = run(&database, &["migrate", "status"], &[]).await.succeeded();
    run(&database, &["migrate", "up"], &[]).await.succeeded();
    let after = run(&database, &["migrate", "status"], &[]).await.succeeded();
    assert_ne!(before.stdout, after.stdout, "the status tells what is applied");
    run(&database, &["migrate", "up"], &[]).await.succeeded();
    assert_eq!(database.number("SELECT count(*) FROM webhook_deliveries").await, 0);
    run(&database, &["migrate", "down"], &[]).await.succeeded();
    let down = run(&database, &["migrate", "status"], &[]).await.succeeded();
    assert_ne!(down.stdout, after.stdout, "one step less is applied");

    // `serve` brings it up again by itself.
    let posthorn = Posthorn::start_on(Arc::clone(&database), &[]).await;
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = posthorn.client().subscribe(&receiver.url("/"), json!({})).await.id;
    posthorn.client().ingest(&id, json!(1)).await;
    receiver.ended(1).await;
}

async fn printed_document_is_the_served_one(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    // It needs no database: this address leads nowhere.
    let nowhere = [("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")];
    let printed = run(&posthorn.database, &["openapi"], &nowhere).await.succeeded();
    let printed: Value = serde_json::from_str(&printed.stdout).expect("JSON is printed");
    let served = client.get("/openapi.json").await.expect(200);
    assert_eq!(printed, serde_json::from_slice::<Value>(&served.body).unwrap());
    let printed = run(&posthorn.database, &["openapi", "--yaml"], &nowhere).await.succeeded();
    let served = client.get("/openapi.yaml").await.expect(200);
    assert_eq!(printed.stdout.trim_end(), String::from_utf8_lossy(&served.body).trim_end());
}

/// The SQLite that is linked is none of those that can lose committed writes.
async fn the_start_names_the_database(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let log = posthorn.log().join("\n");
    let name = if backend == Backend::Sqlite { "SQLite " } else { "PostgreSQL " };
    let version = log.split_once(name).unwrap_or_else(|| panic!("{name}: {log}")).1;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    let version: [u32; 2] = std::array::from_fn(|_| numbers.next().unwrap_or(0));
    assert!(version >= [if backend == Backend::Sqlite { 3 } else { 10 }, 0], "{log}");
    if backend == Backend::Sqlite {
        let patch = numbers.next().unwrap_or(0);
        assert!((version[0], version[1], patch) >= (3, 51, 3), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn demo_ends_well() {
    let database = Database::create(Backend::Sqlite).await;
    // Whatever service the environment is set up for, as that of the image is.
    let production = [("POSTHORN_PROFILE", "production"), ("POSTHORN_BEHIND_PROXY", "true")];
    let demo = run(&database, &["demo", "--exit"], &production).await.succeeded();
    assert!(!demo.stdout.trim().is_empty(), "prints what happens: {demo:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_commands_are_refused() {
    let database = Database::create(Backend::Sqlite).await;
    for arguments in [&["sevre"][..], &["migrate", "sideways"], &["serve", "--nonsense"]] {
        let refused = run(&database, arguments, &[]).await;
        assert!(refused.code.is_some_and(|code| code != 0), "{refused:?}");
    }
    for arguments in [&["--help"][..], &["--version"], &["serve", "--help"]] {
        let shown = run(&database, arguments, &[("POSTHORN_ADMIN_KEY", "canary-key")]).await.succeeded();
        assert!(!shown.stdout.contains("canary-key"), "{shown:?}");
    }
}
