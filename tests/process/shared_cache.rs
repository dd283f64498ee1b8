//! What nodes share through Redis is never older than the database, whatever becomes of Redis; and a tenant's
//! limits hold for all nodes together.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::pace::check_rate;
use crate::support::busyness::Busyness;
use crate::support::redis::Redis;
use crate::support::signature::sha256_signature;
use crate::support::{Backend, Client, Database, Posthorn, Receiver, Reply, eventually};

const SECRET_HEADER: &str = "x-webhook-signature-256";

/// What happens to Redis.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    Frozen,
    Killed,
    /// Killed, and back with what it had saved before the change.
    RolledBack,
    Flushed,
    Full,
    ReadOnly,
    WrongTypes,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_read_that_was_changed() {
    for fault in [
        Fault::None,
        Fault::Frozen,
        Fault::Killed,
        Fault::RolledBack,
        Fault::Flushed,
        Fault::Full,
        Fault::ReadOnly,
        Fault::WrongTypes,
    ] {
        let mut redis = Redis::start().await;
        let nodes = Nodes::start(2, &redis.url()).await;
        let receiver = Receiver::always(Reply::status(200)).await;
        let [one, other] = &nodes.clients()[..] else { panic!("two nodes") };
        let id = one.subscribe(&receiver.url("/"), json!({"secret_key": "secret 0"})).await.id;
        for client in [one, other] {
            assert_eq!(ingest_signed(client, &id, "secret 0").await, 202, "{fault:?}");
        }
        eventually("a shared entry", async || {
            let keys = redis.ask(&["EVAL", "return #redis.call('KEYS', '*:subscription:*')", "0"]);
            if keys == ":1" { Ok(()) } else { Err(keys) }
        })
        .await;
        strike(fault, &mut redis).await;
        // All the while the other node is asked, and may read what is about to be old.
        let (asking, asked) = (other.clone(), id.clone());
        let asking = tokio::spawn(async move {
            loop {
                ingest_signed(&asking, &asked, "secret 0").await;
            }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        let began = Instant::now();
        change_secret(one, &id, "secret 1").await;
        assert!(began.elapsed() < Duration::from_secs(2), "{fault:?}: {:?}", began.elapsed());
        // The other node is told with the commit.
        eventually("the new secret everywhere", async || {
            let answers =
                (ingest_signed(other, &id, "secret 1").await, ingest_signed(one, &id, "secret 1").await);
            if answers == (202, 202) { Ok(()) } else { Err(format!("{fault:?}: {answers:?}")) }
        })
        .await;
        asking.abort();
        heal(fault, &mut redis).await;
        // Whatever each has in memory is forgotten, so that it looks at Redis.
        let fresh = nodes.join().await;
        for _ in 0..8 {
            for client in [one, other, fresh.client()] {
                assert_eq!(ingest_signed(client, &id, "secret 0").await, 401, "{fault:?}: an old secret");
                assert_eq!(ingest_signed(client, &id, "secret 1").await, 202, "{fault:?}");
            }
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        // And it is of use again: what one that comes now puts there, the next one finds.
        assert_eq!(hits_of_a_new_node(&nodes, &redis, &id).await.0, 202, "{fault:?}");
        let (status, hits) = hits_of_a_new_node(&nodes, &redis, &id).await;
        assert!(status == 202 && hits > 0, "{fault:?}: {status}, {hits} reads from Redis");
    }
}

/// What a node that has just found Redis answers, and what it has read there meanwhile.
async fn hits_of_a_new_node(nodes: &Nodes, redis: &Redis, id: &str) -> (u16, u64) {
    let node = nodes.join().await;
    eventually("a connection to Redis", async || {
        let log = node.log();
        if log.iter().any(|line| line.contains("Redis answers")) { Ok(()) } else { Err(log.join("\n")) }
    })
    .await;
    let before = redis.count("keyspace_hits");
    let status = ingest_signed(node.client(), id, "secret 1").await;
    (status, redis.count("keyspace_hits") - before)
}

async fn strike(fault: Fault, redis: &mut Redis) {
    match fault {
        Fault::None => {}
        Fault::Frozen => redis.signal(Signal::SIGSTOP),
        Fault::Killed => redis.kill().await,
        Fault::RolledBack => assert_eq!(redis.ask(&["SAVE"]), "+OK"),
        Fault::Flushed => assert_eq!(redis.ask(&["FLUSHALL"]), "+OK"),
        Fault::Full => {
            redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
            assert!(redis.ask(&["SET", "x", "y"]).starts_with("-OOM"));
        }
        Fault::ReadOnly => {
            redis.ask(&["CONFIG", "SET", "replica-serve-stale-data", "yes"]);
            assert_eq!(redis.ask(&["REPLICAOF", "127.0.0.1", "1"]), "+OK");
            assert!(redis.ask(&["SET", "x", "y"]).starts_with("-READONLY"));
        }
        Fault::WrongTypes => spoil(redis),
    }
}

async fn heal(fault: Fault, redis: &mut Redis) {
    match fault {
        Fault::None | Fault::Flushed => {}
        Fault::Frozen => redis.signal(Signal::SIGCONT),
        Fault::Killed => redis.come_back().await,
        Fault::RolledBack => {
            redis.kill().await;
            redis.come_back().await;
        }
        Fault::Full => drop(redis.ask(&["CONFIG", "SET", "maxmemory", "0"])),
        Fault::ReadOnly => assert_eq!(redis.ask(&["REPLICAOF", "NO", "ONE"]), "+OK"),
        Fault::WrongTypes => {
            spoil(redis);
            redis.ask(&["FLUSHALL"]);
        }
    }
}

/// Makes a list of every entry.
fn spoil(redis: &Redis) {
    const SCRIPT: &str = "for _, key in ipairs(redis.call('KEYS', '*')) do \
        redis.call('DEL', key) redis.call('RPUSH', key, 'nonsense') end return 1";
    assert_eq!(redis.ask(&["EVAL", SCRIPT, "0"]), ":1");
}

/// What answers is no Redis: everything works, and nobody waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_is_no_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                // Until the other side has enough of it.
                while stream.write_all(b"HTTP/1.1 418 \r\n$-7\r\n:x\r\n").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            });
        }
    });
    let nodes = Nodes::start(1, &format!("redis://{address}")).await;
    let receiver = Receiver::always(Reply::status(200)).await;
    let client = nodes.running[0].client();
    let id = client.subscribe(&receiver.url("/"), json!({"secret_key": "secret 0"})).await.id;
    let busyness = Busyness::watch();
    for n in 1..=20 {
        let began = Instant::now();
        assert_eq!(ingest_signed(client, &id, &format!("secret {}", n - 1)).await, 202);
        change_secret(client, &id, &format!("secret {n}")).await;
        let took = began.elapsed();
        assert!(took < busyness.allows(Duration::from_secs(1)), "{took:?}");
    }
    eventually("one line about Redis", async || {
        let log = nodes.running[0].log();
        let said = log.iter().filter(|line| line.contains("Redis") || line.contains("fred")).count();
        if said == 1 { Ok(()) } else { Err(format!("{log:#?}")) }
    })
    .await;
}

/// One node does all the sending of a tenant: it has all of the rate, and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_is_kept_by_all_nodes_together() {
    let mut redis = Redis::start().await;
    let nodes = Nodes::start(3, &redis.url()).await;
    let clients = nodes.clients();
    let receiver = Receiver::always(Reply::status(200)).await;
    let limit = json!({"rate_limit": {"requests_per_second": 40, "burst": 6}});
    clients[0].put_json("/tenants/acme", limit).await.expect(200);
    let fields = json!({"tenant": "acme", "ordering": "none"});
    let mut lanes = Vec::new();
    for _ in 0..6 {
        lanes.push(clients[0].subscribe(&receiver.url("/"), fields.clone()).await.id);
    }
    // All of one lane, so of one node; then of lanes on all nodes.
    let alone = burst(&clients, &lanes[..1], 60, &receiver, 0).await;
    assert!(alone < Duration::from_secs_f64(60.0 / 40.0 * 1.7), "60 at 40/s took {alone:?}");
    let spread = burst(&clients, &lanes, 60, &receiver, 60).await;
    assert!(spread < Duration::from_secs_f64(60.0 / 40.0 * 1.7), "60 at 40/s took {spread:?}");
    // Turns that were fetched are used within 50 ms; the log of a busy machine is late by as much again.
    check_rate(&receiver.requests(), 40.0, 6.0 + 40.0 * 0.1);

    redis.kill().await;
    // Each node keeps to a third of it.
    let share = burst(&clients, &lanes[..1], 30, &receiver, 120).await;
    let least = Duration::from_secs_f64((30.0 - 6.0) / (40.0 / 3.0) * 0.8);
    assert!(share > least, "30 at a third of 40/s took {share:?}");
}

/// Hands events in at all nodes in turns, and returns how long it takes until all have arrived.
async fn burst(
    clients: &[Client],
    lanes: &[String],
    count: usize,
    receiver: &Receiver,
    before: usize,
) -> Duration {
    let began = Instant::now();
    for n in 0..count {
        clients[n % clients.len()].ingest(&lanes[n % lanes.len()], json!(n)).await;
    }
    receiver.arrived(before + count).await;
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ingest_limit_counts_what_all_nodes_take() {
    let redis = Redis::start().await;
    let nodes = Nodes::start(3, &redis.url()).await;
    let clients = nodes.clients();
    let receiver = Receiver::always(Reply::status(200)).await;
    let limit = json!({"ingest_limit": {"requests_per_second": 0.01, "burst": 12}});
    clients[0].put_json("/tenants/acme", limit).await.expect(200);
    let id = clients[0].subscribe(&receiver.url("/"), json!({"tenant": "acme"})).await.id;
    let mut accepted = 0;
    for n in 0..30 {
        // Most of it at one node, which alone may have a third.
        let client = if n % 3 == 0 { &clients[1] } else { &clients[0] };
        let answer = client.post_json(format!("/ingest/{id}"), json!(n)).await.expect_any(&[202, 429]);
        accepted += usize::from(answer.status == 202);
    }
    assert_eq!(accepted, 12);
}

struct Nodes {
    database: Arc<Database>,
    redis_url: String,
    running: Vec<Posthorn>,
}

impl Nodes {
    /// So many nodes that know each other and Redis.
    async fn start(count: usize, redis_url: &str) -> Self {
        let database = Arc::new(Database::create(Backend::Postgres).await);
        let mut nodes = Self { database, redis_url: redis_url.to_owned(), running: Vec::new() };
        for _ in 0..count {
            let node = nodes.join().await;
            nodes.running.push(node);
        }
        for node in &nodes.running {
            eventually("all nodes with their slots", async || {
                let cluster = node.client().get("/cluster").await.expect(200).json;
                let with_slots =
                    |node: &&Value| node["slots"].as_array().is_some_and(|slots| !slots.is_empty());
                let known = cluster["nodes"].as_array().unwrap().iter().filter(with_slots).count();
                if known == count { Ok(()) } else { Err(cluster.to_string()) }
            })
            .await;
        }
        // Each looks at the others once a second.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        nodes
    }

    async fn join(&self) -> Posthorn {
        Posthorn::start_on(Arc::clone(&self.database), &[("REDIS_URL", &self.redis_url)]).await
    }

    fn clients(&self) -> Vec<Client> {
        self.running.iter().map(|node| node.client().clone()).collect()
    }
}

async fn change_secret(client: &Client, id: &str, secret: &str) {
    // The one before counts no longer.
    let fields = json!({"secret_key": secret, "secret_key_overlap_seconds": 0});
    client.put_json(format!("/subscriptions/{id}"), fields).await.expect(200);
}

async fn ingest_signed(client: &Client, id: &str, secret: &str) -> u16 {
    let body = r#"{"n":1}"#;
    let signature = sha256_signature(secret, body.as_bytes());
    let call = client.call(reqwest::Method::POST, format!("/ingest/{id}"));
    call.header(SECRET_HEADER, signature).bytes("application/json", body).send().await.status
}
