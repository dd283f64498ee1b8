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
use crate::support::beside::{ALLOWED, ingest, is_unnoticed};
use crate::support::server::ADMIN_KEY;
use crate::support::{Backend, Client, Posthorn, Receiver, Reply, eventually, on_both_databases};

on_both_databases!(
    large_events_of_one_tenant_leave_room_for_others,
    abandoned_changes_come_to_nothing,
    what_changes_nothing_writes_nothing,
);

/// Memory that the process may use during an attack.
const MEMORY_MAX_MIB: u64 = 400;
/// Changes that are asked for and abandoned.
const ABANDONED: usize = if cfg!(debug_assertions) { 2000 } else { 10_000 };
/// Events of B that are measured, alone and beside the attack.
const MEASURED: usize = if cfg!(debug_assertions) { 60 } else { 300 };

async fn large_events_of_one_tenant_leave_room_for_others(backend: Backend) {
    // With keys, so that the connections too are known to be A's and B's.
    let posthorn = Posthorn::start_with(backend, &[(ADMIN_KEY, "4f9c1e77a2b84d03956ed7c81fb2a60e")]).await;
    let receiver = Receiver::always(Reply::status(200)).await;
    let (key_of_a, key_of_b) = (key_of(&posthorn, "a").await, key_of(&posthorn, "b").await);
    let client = &posthorn.client().with_key(Some(&key_of_b));
    let b = client.subscribe(&receiver.url("/"), json!({})).await.id;
    // On connections of its own.
    let attacker = Client::connect(posthorn.address(), Some(key_of_a)).await;
    let a = attacker.subscribe("http://127.0.0.1:9/", json!({})).await.id;
    attacker.post(format!("/subscriptions/{a}/pause")).await.expect(200);

    let alone = ingest(client, &b, MEASURED).await;
    let attack = Attack::start(320, {
        let client = attacker;
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
    let beside = ingest(client, &b, MEASURED).await;
    let (accepted, statuses) = attack.stop().await;
    println!("{backend}: of A {accepted} accepted, others {statuses:?}");
    assert!(accepted > 0, "A is served as well");
    // None is a connection that was cut, since A's others have what a tenant may have of the memory for requests.
    assert!(statuses.iter().all(|status| [0, 429, 503].contains(status)), "{statuses:?}");
    is_unnoticed("an event", &alone, &beside);
    check_memory(&posthorn);
    receiver.ended(2 * MEASURED).await;
}

async fn abandoned_changes_come_to_nothing(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let b = client.subscribe("http://127.0.0.1:9/", json!({"tenant": "b"})).await.id;
    client.post(format!("/subscriptions/{b}/pause")).await.expect(200);
    let a = client.subscribe("http://127.0.0.1:9/", json!({"tenant": "a"})).await.id;
    let alone = ingest(client, &b, MEASURED).await;

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
    let during = ingest(client, &b, MEASURED).await;
    let a = abandon.await.expect("all are sent");
    let after = ingest(client, &b, MEASURED).await;
    println!("{backend}: {ABANDONED} sent in {:?}", began.elapsed());
    is_unnoticed("an event during it", &alone, &during);
    is_unnoticed("an event after it", &alone, &after);
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
        let again = client.post(format!("{path}/{act}")).await.expect(200);
        assert_eq!(again.json["updated_at"], changed.3, "{act}");
        let enabled = client.post(format!("{path}/enable")).await;
        assert_eq!(enabled.status, if act == "pause" { 409 } else { 200 });
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

async fn key_of(posthorn: &Posthorn, tenant: &str) -> String {
    posthorn.client().post_json("/keys", json!({"tenant": tenant})).await.expect(201).text("key")
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
