//! A PostgreSQL that gives few connections or few rights: what is accepted is delivered, or the start says what is
//! missing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use crate::support::command::run;
use crate::support::postgres::Server;
use crate::support::{Database, Posthorn, Receiver, Reply};

/// The fewest that the contract names.
const LEAST: usize = 6;
const SUBSCRIPTIONS: usize = 8;
const CLIENTS: usize = 16;
const EVENTS_OF_CLIENT: usize = 25;

/// A database on a server of its own, and a role beside its owner.
struct Place {
    database: Arc<Database>,
    /// The database as the role sees it.
    url: String,
    _server: Server,
}

impl Place {
    /// The role is made by `CREATE ROLE app LOGIN` and `options`; it may do all where it is the `owner`.
    async fn create(options: &str, owner: bool) -> Self {
        let server = Server::start();
        let database = Arc::new(Database::create_on(server.url().parse().unwrap()).await);
        database.execute(&format!("CREATE ROLE app LOGIN {options}")).await;
        if owner {
            let name = database.url().rsplit_once('/').unwrap().1.to_owned();
            database.execute(&format!("GRANT CREATE ON DATABASE {name} TO app")).await;
        }
        let url = database.url().replace("postgres@", "app@");
        Self { database, url, _server: server }
    }

    async fn start(&self, more: &[(&str, &str)]) -> Posthorn {
        let settings: Vec<_> =
            [("DATABASE_URL", self.url.as_str())].into_iter().chain(more.iter().copied()).collect();
        Posthorn::start_on(Arc::clone(&self.database), &settings).await
    }

    async fn connections(&self) -> usize {
        let all = self.database.number("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'").await;
        usize::try_from(all).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fewest_are_enough() {
    let place = Place::create(&format!("CONNECTION LIMIT {LEAST}"), true).await;
    let posthorn = place.start(&[]).await;
    let told = |line: &String| line.contains("fewer connections") && line.contains("connections=6");
    assert!(posthorn.log().iter().any(told), "{:?}", posthorn.log());
    let most = delivers_beside_readers(&place, &posthorn).await;
    assert!(most <= LEAST, "{most} connections");
    assert_eq!(posthorn.client().get("/health/ready").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_as_are_asked_for() {
    let place = Place::create("", true).await;
    let posthorn = place.start(&[("POSTHORN_DATABASE_CONNECTIONS", "7")]).await;
    let most = delivers_beside_readers(&place, &posthorn).await;
    assert!((LEAST..=7).contains(&most), "{most} connections");
}

/// Accepts events of many clients while others read without end, until all are delivered; the most connections that
/// there were.
async fn delivers_beside_readers(place: &Place, posthorn: &Posthorn) -> usize {
    let receiver = Receiver::always(Reply::status(200)).await;
    let mut ids = Vec::new();
    for _ in 0..SUBSCRIPTIONS {
        ids.push(posthorn.client().subscribe(&receiver.url("/"), json!({})).await.id);
    }
    let wanted = AtomicBool::new(true);
    let reading = join_all((0..CLIENTS).map(|_| async {
        let mut answered = 0;
        while wanted.load(Ordering::SeqCst) {
            let answer = posthorn.client().get("/status/activity?limit=100").await;
            assert!([200, 503].contains(&answer.status), "{}", answer.json);
            answered += usize::from(answer.status == 200);
        }
        answered
    }));
    let counting = async {
        let mut most = 0;
        while wanted.load(Ordering::SeqCst) {
            most = most.max(place.connections().await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        most
    };
    let delivering = async {
        join_all((0..CLIENTS).map(|client| {
            let ids = &ids;
            async move {
                for event in 0..EVENTS_OF_CLIENT {
                    posthorn.client().ingest(&ids[(client + event) % SUBSCRIPTIONS], json!(event)).await;
                }
            }
        }))
        .await;
        receiver.arrived(CLIENTS * EVENTS_OF_CLIENT).await;
        wanted.store(false, Ordering::SeqCst);
    };
    let (answered, most, ()) = tokio::join!(reading, counting, delivering);
    assert!(answered.iter().all(|answers| *answers > 0), "readers are served as well: {answered:?}");
    most
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_end_the_start() {
    let place = Place::create(&format!("CONNECTION LIMIT {}", LEAST - 1), true).await;
    let url = ("DATABASE_URL", place.url.as_str());
    let refused = run(&place.database, &["serve"], &[url]).await;
    refused.refused("DATABASE_URL: expected a database that takes 6 connections at least");
    let asked = ("POSTHORN_DATABASE_CONNECTIONS", "24");
    let refused = run(&place.database, &["serve"], &[url, asked]).await;
    refused.refused("POSTHORN_DATABASE_CONNECTIONS: expected at most 5, which is what the role app");
    let asked = ("POSTHORN_DATABASE_CONNECTIONS", "5");
    run(&place.database, &["serve"], &[url, asked]).await.refused("from 6 to 1000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_enough_where_the_schema_is_current() {
    let place = Place::create("", false).await;
    let url = ("DATABASE_URL", place.url.as_str());
    let refused = run(&place.database, &["serve"], &[url]).await;
    refused.refused("run posthorn migrate up as its owner");

    run(&place.database, &["migrate", "up"], &[]).await.succeeded();
    let refused = run(&place.database, &["serve"], &[url]).await;
    refused.refused("DATABASE_URL: expected a role that may");

    place.database.execute("GRANT USAGE ON SCHEMA posthorn TO app").await;
    let rights = "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA posthorn";
    place.database.execute(&format!("GRANT {rights} TO app")).await;
    let posthorn = place.start(&[]).await;
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = posthorn.client().subscribe(&receiver.url("/"), json!({})).await.id;
    posthorn.client().ingest(&id, json!(1)).await;
    receiver.arrived(1).await;
}
