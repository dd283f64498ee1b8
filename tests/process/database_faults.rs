//! The database goes away, loses an answer or refuses to write: whoever sends an event in hears so, what was
//! accepted is delivered in order, and nothing is stored twice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use sqlx::{Connection as _, Executor as _, SqliteConnection};

use crate::support::postgres::Server;
use crate::support::proxy::Proxy;
use crate::support::{Answer, Backend, Client, Database, Posthorn, Received, Receiver, Reply, eventually};

/// What comes while PostgreSQL is down is refused, and all goes on within five seconds of its return.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_is_told_and_got_over() {
    let server = Server::start();
    let database = Arc::new(Database::create_on(server.url().parse().unwrap()).await);
    let posthorn = Posthorn::start_on(database, &[]).await;
    let line = Line::start(&posthorn).await;
    line.accepted(3).await;
    server.crash();
    let refused = line.ingest().await;
    assert_eq!(refused.status, 503, "{}", refused.json);
    assert!(refused.headers.contains_key("retry-after"));
    line.client.get("/health/ready").await.expect(503);
    line.client.get("/health").await.expect(200);
    server.come_back();
    let back = Instant::now();
    line.accepted(1).await;
    assert!(back.elapsed() < Duration::from_secs(5), "it took {:?}", back.elapsed());
    line.client.get("/health/ready").await.expect(200);
    line.in_order();
}

/// The commit went through and its answer did not: the event is found and accepted, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_looked_up() {
    let database = Arc::new(Database::create(Backend::Postgres).await);
    let proxy = Proxy::to(&database.url()).await;
    let through = proxy.through(&database.url());
    let posthorn = Posthorn::start_on(Arc::clone(&database), &[("DATABASE_URL", &through)]).await;
    let line = Line::start(&posthorn).await;
    line.accepted(3).await;
    let rows = async || database.number("SELECT count(*) FROM webhook_deliveries").await;
    let mut lost_answers = 0;
    // What gets lost may be an answer before the commit's, so it is tried until one of these was.
    for round in 0..30 {
        if round >= 5 && lost_answers > 0 {
            break;
        }
        line.accepted(1).await;
        let before = rows().await;
        proxy.swallow_answers();
        let asked = tokio::spawn({
            let (client, id) = (line.client.clone(), line.id.clone());
            async move { client.post_json(format!("/ingest/{id}"), json!({"n": 1})).await }
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        let went_through = rows().await > before;
        proxy.break_off();
        let answer = asked.await.unwrap();
        if answer.status == 202 {
            lost_answers += usize::from(went_through);
            line.delivered(&answer).await;
            assert_eq!(rows().await, before + 1, "stored once");
        } else {
            // What got lost was an answer before the commit's.
            assert_eq!((answer.status, &answer.json["type"]), (503, &json!("/problems/store-unavailable")));
            assert_eq!(rows().await, before, "not stored");
        }
    }
    assert!(lost_answers > 0, "no commit's answer was lost");
    line.in_order();
}

/// As after a fail-over to a server that only reads, and back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_only_reads_takes_nothing() {
    let server = Server::start();
    let database = Arc::new(Database::create_on(server.url().parse().unwrap()).await);
    let posthorn = Posthorn::start_on(Arc::clone(&database), &[]).await;
    let line = Line::start(&posthorn).await;
    line.accepted(3).await;
    only_reads(&database, "on").await;
    let refused = line.ingest().await;
    assert_eq!((refused.status, &refused.json["type"]), (503, &json!("/problems/store-unavailable")));
    eventually("it is read from", async || {
        let answer = line.client.get(format!("/subscriptions/{}", line.id)).await;
        if answer.status == 200 { Ok(()) } else { Err(answer.json.to_string()) }
    })
    .await;
    only_reads(&database, "off").await;
    line.accepted(1).await;
    line.in_order();
    assert_eq!(database.number("SELECT count(*) FROM webhook_deliveries").await, 4, "refused is not stored");
}

/// Another program writes to the SQLite file for two seconds: who sends in waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_file_is_waited_for() {
    let posthorn = Posthorn::start(Backend::Sqlite).await;
    let line = Line::start(&posthorn).await;
    line.accepted(3).await;
    let mut other = SqliteConnection::connect(&posthorn.database.url()).await.unwrap();
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    let waiting = tokio::spawn({
        let (client, id) = (line.client.clone(), line.id.clone());
        async move { client.post_json(format!("/ingest/{id}"), json!(4)).await.expect(202) }
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!waiting.is_finished(), "the file is locked");
    other.execute("ROLLBACK").await.unwrap();
    line.delivered(&waiting.await.unwrap()).await;
    line.in_order();
}

async fn only_reads(database: &Database, on: &str) {
    let name = database.url().rsplit_once('/').unwrap().1.to_owned();
    let set = format!("ALTER DATABASE {name} SET default_transaction_read_only = {on}");
    // The session that sets it may have it as well.
    database.execute(&format!("BEGIN READ WRITE; {set}; COMMIT")).await;
    // New sessions have it so; those that are there end, as they do with their server.
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    database.number(end).await;
}

/// A strict subscription whose endpoint takes everything.
pub(crate) struct Line {
    pub(crate) client: Client,
    pub(crate) receiver: Receiver,
    pub(crate) id: String,
}

impl Line {
    pub(crate) async fn start(posthorn: &Posthorn) -> Self {
        let client = posthorn.client().clone();
        let receiver = Receiver::always(Reply::status(200)).await;
        let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
        Self { client, receiver, id }
    }

    pub(crate) async fn ingest(&self) -> Answer {
        self.client.call(Method::POST, format!("/ingest/{}", self.id)).json(&json!({"n": 0})).send().await
    }

    /// So many events, each as soon as it is taken.
    pub(crate) async fn accepted(&self, count: usize) {
        for _ in 0..count {
            let answer = eventually("an event is accepted", async || {
                let answer = self.ingest().await;
                if answer.status == 202 { Ok(answer) } else { Err(answer.json.to_string()) }
            });
            self.delivered(&answer.await).await;
        }
    }

    pub(crate) async fn delivered(&self, accepted: &Answer) {
        let id = accepted.json["delivery_id"].as_str().expect("an id");
        eventually("the delivery", async || {
            let answer = self.client.get(format!("/deliveries/{id}")).await;
            if answer.json["status"] == "success" { Ok(()) } else { Err(answer.json.to_string()) }
        })
        .await;
    }

    /// What the endpoint saw never goes back; what was in flight at a fault may come twice.
    pub(crate) fn in_order(&self) {
        let sequences: Vec<_> = self.receiver.requests().iter().map(Received::sequence).collect();
        assert!(sequences.is_sorted(), "{sequences:?}");
    }
}
