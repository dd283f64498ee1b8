//! One tenant beside another that takes what it can: the other hardly notices.
//!
//! What "hardly" means is measured in the same run: tenant B alone, then beside the attack.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use tokio::task::JoinSet;

use crate::open_circuits::memory;
use crate::support::{Backend, Client, Posthorn, Receiver, Reply, eventually, on_both_databases};

on_both_databases!(large_events_of_one_tenant_leave_room_for_others);

/// Memory that the process may use during an attack.
const MEMORY_MAX_MIB: u64 = 400;
/// What an answer may take in any case: builds without optimisation share two cores with the attack.
const ALLOWED: Duration = Duration::from_millis(if cfg!(debug_assertions) { 400 } else { 50 });
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
        let (client, path) = (client.clone(), format!("/ingest/{a}"));
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
    assert!(p99(beside) <= (5 * p99(alone)).max(2 * ALLOWED), "99 % {:?}", p99(beside));
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
                        // A client that comes again at once.
                        tokio::time::sleep(Duration::from_millis(10)).await;
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
