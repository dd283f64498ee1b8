//! Many subscriptions at rest cost little, and a large backlog goes on right after the start.
//!
//! `WAITING=1000000 SUBSCRIPTIONS=100000 cargo test --release --test process scale -- --nocapture` prints what
//! that many cost.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::open_circuits::{COPIED, WITHOUT_LANE, numbers, used_within};
use crate::support::{Backend, Posthorn, Receiver, Reply, on_both_databases};

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
    let (share, memory) = used_within(WATCHED, &posthorn).await;
    let arrived = receiver.requests().len() - 1;
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
    let (busy, memory) = used_within(WATCHED, &posthorn).await;
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
    let client = posthorn.client();
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
    let (id, payload) = match backend {
        Backend::Sqlite => ("randomblob(16)", "X'31'"),
        Backend::Postgres => ("gen_random_uuid()", "'\\x31'"),
    };
    let deliveries = format!("n CROSS JOIN {WITHOUT_LANE} AND {depth} > 0");
    [
        format!(
            "{} INSERT INTO subscriptions (id, {COPIED}) SELECT {id}, {COPIED} FROM n CROSS JOIN subscriptions",
            numbers(backend, copies)
        ),
        format!(
            "INSERT INTO lane_health (subscription_id, circuit, failures) SELECT s.id, 0, 0 FROM {WITHOUT_LANE}"
        ),
        format!(
            "{} INSERT INTO webhook_deliveries (id, subscription_id, event_id, sequence, status, attempt_count, \
             retry_base, created_at_ms) SELECT {id}, s.id, {id}, n.i, 0, 0, 0, 1 FROM {deliveries}",
            numbers(backend, depth)
        ),
        format!(
            "INSERT INTO events (id, content_type, payload, reference_count) \
             SELECT d.event_id, 'application/json', {payload}, 1 FROM webhook_deliveries d WHERE d.status = 0"
        ),
        format!(
            "INSERT INTO lanes (subscription_id, next_sequence) SELECT s.id, {depth} + 1 FROM {WITHOUT_LANE}"
        ),
    ]
}
