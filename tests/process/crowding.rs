//! One who holds connections, unfinished requests and unread answers: the process stays small, and another tenant
//! notices nothing (P5, P10).

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::hostile_requests::{open_files_max, open_from};
use crate::open_circuits::memory;
use crate::support::beside::is_unnoticed;
use crate::support::server::ADMIN_KEY;
use crate::support::{Backend, Client, Posthorn, Receiver, Reply, on_both_databases, within};

on_both_databases!(
    stalled_bodies_cost_little,
    lists_that_nobody_reads_cost_little,
    activity_costs_little_and_is_the_tenants
);

pub(crate) const ADMIN: &str = "4f9c1e77a2b84d03956ed7c81fb2a60e";
const MEMORY_MAX: u64 = 400 * 1024 * 1024;
const TARGET: &str = "http://127.0.0.1:9/hook";
/// So many that the 99th of a hundred is not the slowest of them.
const CALLS: usize = 200;

/// A tenant with a key and a subscription that holds what it is given.
pub(crate) struct Tenant {
    pub(crate) client: Client,
    key: String,
    pub(crate) subscription: String,
}

impl Tenant {
    pub(crate) async fn new(posthorn: &Posthorn, name: &str) -> Self {
        let admin = posthorn.client();
        let key = admin.post_json("/keys", json!({"tenant": name})).await.expect(201).text("key");
        let client = admin.with_key(Some(&key));
        let subscription = client.subscribe(TARGET, json!({"ordering": "none"})).await.id;
        client.post(format!("/subscriptions/{subscription}/pause")).await.expect(200);
        Self { client, key, subscription }
    }

    /// The same at a server that was started again.
    pub(crate) async fn at(self, posthorn: &Posthorn) -> Self {
        Self { client: Client::connect(posthorn.address(), Some(self.key.clone())).await, ..self }
    }

    /// How long events and reads of it take.
    pub(crate) async fn times(&self) -> Vec<Duration> {
        let mut times = Vec::new();
        for n in 0..CALLS {
            let begun = Instant::now();
            self.client.ingest(&self.subscription, json!(n)).await;
            self.client.get(format!("/subscriptions/{}", self.subscription)).await.expect(200);
            times.push(begun.elapsed());
        }
        times
    }
}

pub(crate) fn check_memory(posthorn: &Posthorn, what: &str) {
    let used = memory(posthorn.process_id(), "VmRSS:");
    println!("{what}: {} MiB", used >> 20);
    assert!(used < MEMORY_MAX, "{what}: {used} bytes");
}

/// Writes as much as is taken now.
async fn write_some(stream: &mut TcpStream, bytes: &[u8]) {
    // Whoever is not read from or cut off has nothing more to say.
    let _ = tokio::time::timeout(Duration::from_millis(500), stream.write_all(bytes)).await;
}

/// Bodies of the largest payload, all but the last byte, by one tenant's key.
async fn stalled_bodies_cost_little(backend: Backend) {
    let count = if cfg!(debug_assertions) { 1500 } else { 4000 };
    if open_files_max() < count + 1000 {
        println!("left out: too few files may be open");
        return;
    }
    let posthorn = Posthorn::start_with(backend, &[(ADMIN_KEY, ADMIN)]).await;
    let (hurt, attacker) = (Tenant::new(&posthorn, "hurt").await, Tenant::new(&posthorn, "attacker").await);
    let alone = hurt.times().await;
    let head = format!(
        "POST /ingest/{} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: 262144\r\n\r\n\"",
        attacker.subscription, attacker.key
    );
    let request = [head.into_bytes(), vec![b'x'; 262_140]].concat();
    let mut open = Vec::new();
    for host in 1..=3 {
        open.extend(open_from(posthorn.address(), host, usize::try_from(count / 3).unwrap()).await);
    }
    for some in open.chunks_mut(250) {
        join_all(some.iter_mut().map(|stream| write_some(stream, &request))).await;
    }
    check_memory(&posthorn, "stalled bodies");
    is_unnoticed("an event and a read", &alone, &hurt.times().await);
    check_memory(&posthorn, "and after it");
    drop(open);
    attacker.client.ingest(&attacker.subscription, json!("it goes on once they are gone")).await;
}

/// Heads of nearly 64 KiB without an end, from several addresses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_heads_cost_little() {
    let count = if cfg!(debug_assertions) { 3000 } else { 10_000 };
    if open_files_max() < count + 1000 {
        println!("left out: too few files may be open");
        return;
    }
    let posthorn = Posthorn::start_with(Backend::Sqlite, &[(ADMIN_KEY, ADMIN)]).await;
    let hurt = Tenant::new(&posthorn, "hurt").await;
    let alone = hurt.times().await;
    let request = [b"GET /health HTTP/1.1\r\nhost: a\r\nx: ".to_vec(), vec![b'y'; 60_000]].concat();
    let mut open = Vec::new();
    for host in 1..=6 {
        open.extend(open_from(posthorn.address(), host, usize::try_from(count / 6).unwrap()).await);
    }
    for some in open.chunks_mut(500) {
        join_all(some.iter_mut().map(|stream| write_some(stream, &request))).await;
    }
    check_memory(&posthorn, "stalled heads");
    is_unnoticed("an event and a read", &alone, &hurt.times().await);
}

/// Pages of subscriptions with the largest static headers, asked for again and again and never read.
async fn lists_that_nobody_reads_cost_little(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[(ADMIN_KEY, ADMIN)]).await;
    let (hurt, attacker) = (Tenant::new(&posthorn, "hurt").await, Tenant::new(&posthorn, "attacker").await);
    let headers: serde_json::Map<_, _> =
        (0..32).map(|n| (format!("x-secret-{n}"), json!("v".repeat(4000)))).collect();
    for _ in 0..100 {
        attacker.client.subscribe(TARGET, json!({"headers": headers})).await;
    }
    let page = attacker.client.get("/subscriptions/?limit=100").await.expect(200);
    let shown = page.json["items"][0]["headers"].as_object().unwrap();
    assert!(
        shown.len() == 32 && shown.values().all(serde_json::Value::is_null),
        "names without values: {shown:?}"
    );
    assert!(page.body.len() < 512 * 1024, "{} bytes", page.body.len());
    let one = page.json["items"][0]["id"].as_str().unwrap();
    let alone_shown = attacker.client.subscription(one).await;
    assert_eq!(alone_shown["headers"]["x-secret-0"].as_str().unwrap().len(), 4000, "alone it shows them");
    let alone = hurt.times().await;
    let mut open = open_from(posthorn.address(), 1, 30).await;
    let asks = ["/subscriptions?limit=100".to_owned(), format!("/subscriptions/{one}")].map(|path| {
        format!("GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n\r\n", attacker.key)
    });
    for ask in &asks {
        let asks = ask.repeat(40);
        join_all(open.iter_mut().map(|stream| write_some(stream, asks.as_bytes()))).await;
    }
    is_unnoticed("an event and a read", &alone, &hurt.times().await);
    check_memory(&posthorn, "lists that nobody reads");
}

/// Attempts with the longest answers, and many who look at once.
async fn activity_costs_little_and_is_the_tenants(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[(ADMIN_KEY, ADMIN)]).await;
    let receiver = Receiver::always(Reply::body(200, &[b'a'; 4096])).await;
    let (hurt, attacker) = (Tenant::new(&posthorn, "hurt").await, Tenant::new(&posthorn, "attacker").await);
    let mut deliveries = Vec::new();
    for n in 0..8 {
        let id = attacker.client.subscribe(&receiver.url("/"), json!({"ordering": "none"})).await.id;
        let handed = (0..20).map(|m| attacker.client.ingest(&id, json!(n * 20 + m)));
        deliveries.extend(join_all(handed).await);
    }
    receiver.arrived(160).await;
    for delivery in &deliveries {
        attacker.client.delivery_in(delivery, "success").await;
    }
    let alone = hurt.times().await;
    let looks = (0..16).map(|_| async {
        for _ in 0..10 {
            let items = attacker.client.get("/status/activity?limit=100").await.expect(200).json;
            assert_eq!(items.as_array().unwrap().len(), 100);
        }
    });
    let (beside, _) = tokio::join!(hurt.times(), join_all(looks));
    is_unnoticed("an event and a read", &alone, &beside);
    check_memory(&posthorn, "activity");
    // The newest first, none twice, each of the tenant's.
    let all = posthorn.client().get("/status/activity?limit=100").await.expect(200).json;
    let own = attacker.client.get("/status/activity?limit=100").await.expect(200).json;
    assert_eq!(all, own, "nothing of another is among the newest hundred");
    let mut seen: Vec<_> = own
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["delivery_id"].to_string() + &item["subscription_id"].to_string())
        .collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 100);
    let other = hurt.client.get("/status/activity?limit=100").await.expect(200).json;
    assert_eq!(other.as_array().unwrap().len(), 1, "its own subscription: {other}");
    let few = within(Duration::from_secs(10), "three", attacker.client.get("/status/activity?limit=3")).await;
    assert_eq!(few.json.as_array().unwrap()[..], own.as_array().unwrap()[..3]);
}
