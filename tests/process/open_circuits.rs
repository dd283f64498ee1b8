//! Very many subscriptions whose circuits are open cost next to nothing while they wait.
//!
//! `OPEN_CIRCUITS=100000 cargo test --release --test process open_circuits -- --nocapture` prints what
//! that many cost.

use std::time::Duration;

use serde_json::json;

use crate::support::wait::within;
use crate::support::{Backend, Posthorn, Receiver, Reply, on_both_databases};

on_both_databases!(open_circuits_cost_next_to_nothing);

/// What 100,000 of them may cost, the program itself included.
const MEMORY_MAX: u64 = 200 * 1024 * 1024;
/// The search for them takes a while in a debug build.
const SEARCH_PATIENCE: Duration = Duration::from_mins(3);
const WATCHED: Duration = Duration::from_secs(4);
const POLL: Duration = Duration::from_millis(200);

/// All columns of a subscription but its id.
pub(crate) const COPIED: &str = "tenant, target_url, description, headers, ordering, max_in_flight, \
    requests_per_second, burst, max_retries, retry_delay_ms, retry_delay_max_ms, on_exhausted, timeout_ms, \
    secret_key, signing_secret, previous_signing_secret, previous_signing_until_ms, status, status_reason, version, \
    created_at_ms, updated_at_ms, deleted_at_ms";

async fn open_circuits_cost_next_to_nothing(backend: Backend) {
    let count: u64 =
        std::env::var("OPEN_CIRCUITS").map_or(10_000, |text| text.parse().expect("OPEN_CIRCUITS: a number"));
    let mut posthorn = Posthorn::start_with(backend, &[("MAX_RETRY_BACKOFF_SECONDS", "7200")]).await;
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = posthorn.client().subscribe(&receiver.url("/"), json!({})).await.id;
    posthorn.client().ingest(&id, json!(0)).await;
    receiver.arrived(1).await;
    posthorn.terminate().await;
    for statement in open_circuits(backend, count) {
        posthorn.database.execute(&statement).await;
    }
    posthorn.start_again().await;
    within(SEARCH_PATIENCE, "the end of the search", async {
        while !posthorn.log().iter().any(|line| line.contains("all that was unfinished goes on")) {
            tokio::time::sleep(POLL).await;
        }
        // The last ones that were found are still being read, and on a busy machine with pauses.
        let mut quiet = 0;
        while quiet < 5 {
            quiet = if cpu_ticks_in(POLL, posthorn.process_id()).await > 2 { 0 } else { quiet + 1 };
        }
    })
    .await;
    let stats = posthorn.client().get("/status/stats").await.expect(200).json;
    assert_eq!(stats["circuits_open"], count, "{stats}");

    let (busy, memory) = used_within(WATCHED, &posthorn).await;
    println!("{count} open circuits: {memory} bytes, {busy:.4} of a core while they wait");
    assert!(memory <= MEMORY_MAX, "{memory} bytes");
    assert!(busy < 0.05, "{busy} of a core while they wait");

    posthorn.client().ingest(&id, json!(1)).await;
    assert_eq!(receiver.arrived(2).await.len(), 2, "the healthy one is served, and only it");
}

/// Copies of the one subscription that is there, each with a delivery that waits for the probe, an hour
/// from now.
fn open_circuits(backend: Backend, count: u64) -> [String; 5] {
    let numbers = numbers(backend, count);
    let (id, now) = match backend {
        Backend::Sqlite => ("randomblob(16)", "CAST(unixepoch() AS INTEGER) * 1000"),
        Backend::Postgres => ("gen_random_uuid()", "CAST(extract(epoch FROM now()) AS BIGINT) * 1000"),
    };
    [
        format!(
            "{numbers} INSERT INTO subscriptions (id, {COPIED}) SELECT {id}, {COPIED} FROM n CROSS JOIN subscriptions"
        ),
        format!(
            "INSERT INTO lane_health (subscription_id, circuit, failures, cool_down_ms, probe_at_ms, failing_since_ms) \
             SELECT s.id, 1, 10, 3600000, {now} + 3600000, {now} FROM {WITHOUT_LANE}"
        ),
        format!(
            "INSERT INTO webhook_deliveries (id, subscription_id, event_id, sequence, status, attempt_count, \
             retry_base, next_attempt_at_ms, created_at_ms) \
             SELECT s.id, s.id, s.id, 1, 2, 10, 0, {now}, {now} FROM {WITHOUT_LANE}"
        ),
        format!(
            "INSERT INTO events (id, content_type, payload, reference_count) \
             SELECT s.id, 'application/json', {}, 1 FROM {WITHOUT_LANE}",
            if backend == Backend::Sqlite { "X'31'" } else { "'\\x31'" }
        ),
        format!("INSERT INTO lanes (subscription_id, next_sequence) SELECT s.id, 2 FROM {WITHOUT_LANE}"),
    ]
}

/// Subscriptions that were copied by SQL, as long as they have no lane.
pub(crate) const WITHOUT_LANE: &str =
    "subscriptions s WHERE NOT EXISTS (SELECT 1 FROM lanes l WHERE l.subscription_id = s.id)";

/// `WITH n AS …`: the numbers from 1 up to `count`, as column `i`.
pub(crate) fn numbers(backend: Backend, count: u64) -> String {
    match backend {
        Backend::Sqlite => {
            format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})")
        }
        Backend::Postgres => format!("WITH n AS (SELECT generate_series(1, {count}) AS i)"),
    }
}

/// What part of a core a server uses within `span`, and its memory after it, in bytes.
pub(crate) async fn used_within(span: Duration, posthorn: &Posthorn) -> (f64, u64) {
    let ticks = cpu_ticks_in(span, posthorn.process_id()).await;
    (f64::from(ticks) / 100.0 / span.as_secs_f64(), memory(posthorn.process_id(), "VmRSS:"))
}

/// Memory in bytes: resident is `VmRSS:`, the address space `VmSize:` (proc(5), `/proc/pid/status`).
pub(crate) fn memory(process: u32, kind: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(kind)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Hundredths of a second of processor time that it uses within `span`.
async fn cpu_ticks_in(span: Duration, process: u32) -> u32 {
    let before = cpu_ticks(process);
    tokio::time::sleep(span).await;
    cpu_ticks(process) - before
}

/// Hundredths of a second of processor time so far (proc(5), `/proc/pid/stat`, fields 14 and 15).
fn cpu_ticks(process: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let after_name = stat.rsplit_once(") ").unwrap().1;
    let fields: Vec<&str> = after_name.split(' ').collect();
    fields[11].parse::<u32>().unwrap() + fields[12].parse::<u32>().unwrap()
}
