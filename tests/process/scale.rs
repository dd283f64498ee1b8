//! Many subscriptions at rest cost little, and a large backlog goes on right after the start.
//!
//! `WAITING=1000000 SUBSCRIPTIONS=100000 cargo test --release --test process scale -- --nocapture` prints what
//! that many cost.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::open_circuits::{COPIED, cpu_ticks_in, memory};
use crate::support::{Backend, Client, Posthorn, Receiver, Reply, on_both_databases};

on_both_databases!(a_large_backlog_goes_on_at_once, subscriptions_at_rest_cost_little);

/// Deliveries of each lane.
const DEPTH: u64 = 100;
const FIRST_WITHIN: Duration = Duration::from_secs(2);
const WATCHED: Duration = Duration::from_secs(5);
const MEMORY_MAX_AT_WORK: u64 = 150 * 1024 * 1024;
const MEMORY_MAX_AT_REST: u64 = if cfg!(debug_assertions) { 2 } else { 1 } * 64 * 1024 * 1024;

async fn a_large_backlog_goes_on_at_once(backend: Backend) {
    let waiting = number("WAITING", 10_000);
    let receiver = Receiver::always(Reply::status(200)).await;
    let mut posthorn = with_copies(backend, &receiver, waiting / DEPTH, DEPTH).await;

    let began = Instant::now();
    let (first, ()) = tokio::join!(
        async {
            receiver.arrived(2).await;
            began.elapsed()
        },
        posthorn.start_again(),
    );
    let ticks = cpu_ticks_in(WATCHED, posthorn.process_id()).await;
    let memory = memory(posthorn.process_id());
    let arrived = receiver.requests().len() - 1;
    let share = f64::from(ticks) / 100.0 / WATCHED.as_secs_f64();
    println!(
        "{waiting} waiting: the first left within {first:?}, {arrived} within {:?}, {share:.2} of a core, {memory} bytes",
        began.elapsed()
    );
    assert!(first < FIRST_WITHIN, "the first left after {first:?}");
    assert!(memory <= MEMORY_MAX_AT_WORK, "{memory} bytes");
    assert!(arrived > 500, "{arrived} within {WATCHED:?}");
}

async fn subscriptions_at_rest_cost_little(backend: Backend) {
    let count = number("SUBSCRIPTIONS", 10_000);
    let receiver = Receiver::always(Reply::status(200)).await;
    let mut posthorn = with_copies(backend, &receiver, count, 0).await;
    posthorn.start_again().await;
    let stats = posthorn.client().get("/status/stats").await.expect(200).json;
    assert_eq!(stats["total_subscriptions"], count + 1, "{stats}");
    let ticks = cpu_ticks_in(WATCHED, posthorn.process_id()).await;
    let busy = f64::from(ticks) / 100.0 / WATCHED.as_secs_f64();
    let memory = memory(posthorn.process_id());
    println!("{count} subscriptions at rest: {memory} bytes, {busy:.4} of a core");
    assert!(memory <= MEMORY_MAX_AT_REST, "{memory} bytes");
    assert!(busy < 0.05, "{busy} of a core");
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// A server that does not run, whose one subscription was copied so often, each copy with so many
/// deliveries that wait.
async fn with_copies(backend: Backend, receiver: &Receiver, copies: u64, depth: u64) -> Posthorn {
    let mut posthorn = Posthorn::start(backend).await;
    let client: &Client = posthorn.client();
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    client.ingest(&id, json!(0)).await;
    receiver.arrived(1).await;
    posthorn.terminate().await;
    for statement in copy(backend, copies, depth) {
        posthorn.database.execute(&statement).await;
    }
    posthorn
}

fn copy(backend: Backend, copies: u64, depth: u64) -> [String; 5] {
    let numbers = |count: u64| match backend {
        Backend::Sqlite => {
            format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})")
        }
        Backend::Postgres => format!("WITH n AS (SELECT generate_series(1, {count}) AS i)"),
    };
    let (id, payload) = match backend {
        Backend::Sqlite => ("randomblob(16)", "X'31'"),
        Backend::Postgres => ("gen_random_uuid()", "'\\x31'"),
    };
    let new = "subscriptions s WHERE NOT EXISTS (SELECT 1 FROM lanes l WHERE l.subscription_id = s.id)";
    let deliveries = format!("n CROSS JOIN {new} AND {depth} > 0");
    [
        format!(
            "{} INSERT INTO subscriptions (id, {COPIED}) SELECT {id}, {COPIED} FROM n CROSS JOIN subscriptions",
            numbers(copies)
        ),
        format!("INSERT INTO lane_health (subscription_id, circuit, failures) SELECT s.id, 0, 0 FROM {new}"),
        format!(
            "{} INSERT INTO webhook_deliveries (id, subscription_id, event_id, sequence, status, attempt_count, \
             retry_base, created_at_ms) SELECT {id}, s.id, {id}, n.i, 0, 0, 0, 1 FROM {deliveries}",
            numbers(depth)
        ),
        format!(
            "INSERT INTO events (id, content_type, payload, reference_count) \
             SELECT d.event_id, 'application/json', {payload}, 1 FROM webhook_deliveries d WHERE d.status = 0"
        ),
        format!("INSERT INTO lanes (subscription_id, next_sequence) SELECT s.id, {depth} + 1 FROM {new}"),
    ]
}
