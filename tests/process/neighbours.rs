//! One tenant beside another that takes what it can: the other hardly notices.
//!
//! What "hardly" means is measured in the same run: tenant B alone, then beside the attack.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::open_circuits::memory;
use crate::support::{Backend, Client, Posthorn, Receiver, Reply, eventually, on_both_databases};

on_both_databases!(
    large_events_of_one_tenant_leave_room_for_others,
    abandoned_changes_come_to_nothing,
    what_changes_nothing_writes_nothing,
);

/// Memory that the process may use during an attack.
const MEMORY_MAX_MIB: u64 = 400;
/// What an answer may take in any case. Without optimisation the attack alone, and whoever measures beside it, use up
/// two cores.
const ALLOWED: Duration = Duration::from_millis(if cfg!(debug_assertions) { 2500 } else { 50 });
/// Changes that are asked for and abandoned.
const ABANDONED: usize = if cfg!(debug_assertions) { 2000 } else { 10_000 };
/// Events of B that are measured, alone and beside the attack.
const MEASURED: usize = if cfg!(debug_assertions) { 60 } else { 300 };

async fn large_events_of_one_tenant_leave_room_for_others(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    let b = client.subscribe(&receiver.url("/"), json!({"tenant": "b"})).await.id;
    let a = client.subscribe("http://127.0.0.1:9/", json!({"tenant": "a"})).await.id;
    client.post(format!("/subscriptions/{a}/pause")).await.expect(200);

    let alone = measure(client, &b, MEASURED).await;
    let attack = Attack::start(320, {
        // On connections of its own.
        let client = Client::connect(posthorn.address(), None).await;
        let path = format!("/ingest/{a}");
        let body = format!("\"{}\"", "x".repeat(256 * 1024 - 2));
        move || {
            let (client, path, body) = (client.clone(), path.clone(), body.clone());
            async move {
                let call = client.call(Method::POST, path).bytes("application/json", body);
                call.try_send().await.map_or(0, |answer| answer.status)
            }
        }
    });
    attack.answers(320).await;
    let beside = measure(client, &b, MEASURED).await;
    let (accepted, statuses) = attack.stop().await;
    println!("{backend}: of A {accepted} accepted, others {statuses:?}");
    assert!(accepted > 0, "A is served as well");
    assert!(statuses.iter().all(|status| [429, 503].contains(status)), "{statuses:?}");
    compare(backend, &alone, &beside);
    check_memory(&posthorn);
    receiver.ended(2 * MEASURED).await;
}

async fn abandoned_changes_come_to_nothing(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let b = client.subscribe("http://127.0.0.1:9/", json!({"tenant": "b"})).await.id;
    client.post(format!("/subscriptions/{b}/pause")).await.expect(200);
    let a = client.subscribe("http://127.0.0.1:9/", json!({"tenant": "a"})).await.id;
    let alone = measure(client, &b, MEASURED).await;

    let (address, began) = (posthorn.address(), Instant::now());
    let abandon = tokio::spawn(async move {
        for round in 0..ABANDONED {
            let act = if round % 2 == 0 { "pause" } else { "resume" };
            let request = format!(
                "POST /subscriptions/{a}/{act} HTTP/1.1\r\nhost: {address}\r\ncontent-length: 0\r\n\r\n"
            );
            let mut stream = TcpStream::connect(address).await.expect("the server takes connections");
            stream.write_all(request.as_bytes()).await.expect("the request goes out");
        }
        a
    });
    let during = measure(client, &b, MEASURED).await;
    let a = abandon.await.expect("all are sent");
    let after = measure(client, &b, MEASURED).await;
    println!("{backend}: {ABANDONED} sent in {:?}", began.elapsed());
    compare(backend, &alone, &during);
    compare(backend, &alone, &after);
    check_memory(&posthorn);
    let began = Instant::now();
    client.post(format!("/subscriptions/{a}/pause")).await.expect(200);
    assert!(began.elapsed() < 2 * ALLOWED, "A's own changes go on: {:?}", began.elapsed());
}

async fn what_changes_nothing_writes_nothing(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let fields = json!({"tenant": "a", "description": "the first", "max_in_flight": 1});
    let id = client.subscribe("http://127.0.0.1:9/", fields.clone()).await.id;
    let path = format!("/subscriptions/{id}");
    client.put_json("/tenants/a", json!({"max_in_flight": 3})).await.expect(200);
    let state = async || {
        let version = posthorn.database.number("SELECT version FROM subscriptions").await;
        let lines = posthorn.database.number("SELECT count(*) FROM audit_log").await;
        let tenants =
            posthorn.database.number("SELECT CAST(coalesce(sum(version), 0) AS bigint) FROM tenants").await;
        let updated_at = client.subscription(&id).await["updated_at"].clone();
        (version, lines, tenants, updated_at)
    };
    for act in ["pause", "resume"] {
        let before = state().await;
        client.post(format!("{path}/{act}")).await.expect(200);
        let changed = state().await;
        assert_eq!((changed.0, changed.1), (before.0 + 1, before.1 + 1), "{act}");
        for act in [act, "enable"] {
            let again = client.post(format!("{path}/{act}")).await.expect(200);
            assert_eq!(again.json["updated_at"], changed.3, "{act}");
        }
        for body in [json!({}), fields.clone(), json!({"description": "the first"})] {
            let mut body = body;
            body.as_object_mut().unwrap().remove("tenant");
            client.put_json(path.clone(), body).await.expect(200);
        }
        for body in [json!({}), json!({"max_in_flight": 3}), json!({"rate_limit": null})] {
            let answer = client.put_json("/tenants/a", body).await.expect(200);
            assert_eq!(answer.json["max_in_flight"], 3);
        }
        client.put_json("/tenants/nobody", json!({"rate_limit": null})).await.expect(200);
        if act == "pause" {
            let waiting = client.ingest(&id, json!(1)).await;
            client.post(format!("/deliveries/{waiting}/retry")).await.expect(202);
        }
        assert_eq!(state().await, changed, "{act}");
    }
    assert_eq!(posthorn.database.number("SELECT count(*) FROM tenants").await, 1, "no row for nothing");
    let before = state().await;
    client.put_json(path, json!({"description": "the second"})).await.expect(200);
    assert_eq!(state().await.0, before.0 + 1, "what changes something is written");
}

/// How long each of so many events took to be accepted, one after the other.
async fn measure(client: &Client, id: &str, count: usize) -> Vec<Duration> {
    let mut took = Vec::with_capacity(count);
    for index in 0..count {
        let began = Instant::now();
        client.post_json(format!("/ingest/{id}"), json!(index)).await.expect(202);
        took.push(began.elapsed());
    }
    took.sort_unstable();
    took
}

/// Holds B beside the attack against B alone: its median within two times, its 99th percentile within five.
fn compare(backend: Backend, alone: &[Duration], beside: &[Duration]) {
    let median = |took: &[Duration]| took[took.len() / 2];
    let p99 = |took: &[Duration]| took[took.len() * 99 / 100];
    println!(
        "{backend}: B alone {:?}, {:?}; beside {:?}, {:?} (median, 99 %)",
        median(alone),
        p99(alone),
        median(beside),
        p99(beside)
    );
    assert!(median(beside) <= (2 * median(alone)).max(ALLOWED), "median {:?}", median(beside));
    assert!(p99(beside) <= (5 * p99(alone)).max(ALLOWED), "99 % {:?}", p99(beside));
}

/// Holds the most memory that the process has used so far against its limit.
fn check_memory(posthorn: &Posthorn) {
    let peak = memory(posthorn.process_id(), "VmHWM:") / 1024 / 1024;
    println!("{peak} MiB at most");
    assert!(peak < MEMORY_MAX_MIB, "{peak} MiB");
}

/// Requests that go on and on.
struct Attack {
    wanted: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    clients: JoinSet<Vec<u16>>,
}

impl Attack {
    /// So many clients, each with one request after the other.
    fn start<F>(clients: usize, request: impl Fn() -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = u16> + Send,
    {
        let (wanted, answers) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            let (wanted, answers, request) = (Arc::clone(&wanted), Arc::clone(&answers), request.clone());
            tasks.spawn(async move {
                let mut statuses = Vec::new();
                while wanted.load(Ordering::SeqCst) {
                    let status = request().await;
                    answers.fetch_add(1, Ordering::SeqCst);
                    statuses.push(status);
                    if status != 202 {
                        // A client that comes again far sooner than it is told to.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
                statuses
            });
        }
        Self { wanted, answers, clients: tasks }
    }

    /// Waits until so many requests have had an answer.
    async fn answers(&self, count: usize) {
        eventually("the attack is under way", async || {
            let answers = self.answers.load(Ordering::SeqCst);
            if answers >= count { Ok(()) } else { Err(format!("{answers} answers")) }
        })
        .await;
    }

    /// Ends it: how many were accepted, and which other answers there were.
    async fn stop(mut self) -> (usize, Vec<u16>) {
        self.wanted.store(false, Ordering::SeqCst);
        let mut statuses = Vec::new();
        while let Some(ended) = self.clients.join_next().await {
            statuses.extend(ended.expect("a client's end"));
        }
        let accepted = statuses.iter().filter(|status| **status == 202).count();
        statuses.retain(|status| *status != 202);
        statuses.sort_unstable();
        statuses.dedup();
        (accepted, statuses)
    }
}
