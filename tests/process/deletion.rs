//! A subscription with a large backlog is deleted at once, and holds nobody up while its deliveries are ended behind.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::open_circuits::numbers;
use crate::support::beside::{ingest, is_unnoticed};
use crate::support::wait::within;
use crate::support::{Backend, Client, Posthorn, Receiver, Reply, on_both_databases};

on_both_databases!(a_deleted_backlog_holds_nobody_up);

const BACKLOG: u64 = if cfg!(debug_assertions) { 20_000 } else { 50_000 };
const EVENTS: usize = 60;
const UNFINISHED: &str = "SELECT count(*) FROM webhook_deliveries WHERE status < 3";
const ENDED_WITHIN: Duration = Duration::from_mins(2);

async fn a_deleted_backlog_holds_nobody_up(backend: Backend) {
    let mut posthorn = Posthorn::start(backend).await;
    let receiver = Receiver::always(Reply::status(200)).await;
    let full = posthorn.client().subscribe(&receiver.url("/"), json!({"description": "full"})).await.id;
    let beside = posthorn.client().subscribe(&receiver.url("/"), json!({"tenant": "beside"})).await.id;
    posthorn.client().post(format!("/subscriptions/{full}/pause")).await.expect(200);
    posthorn.terminate().await;
    for statement in plant(backend, "full", BACKLOG) {
        posthorn.database.execute(&statement).await;
    }
    posthorn.start_again().await;
    let last = posthorn
        .database
        .rows(&format!(
            "SELECT id, sequence, sequence, sequence FROM webhook_deliveries WHERE status < 3 AND sequence = {BACKLOG}"
        ))
        .await[0]
        .0;
    let client = posthorn.client().clone();
    let alone = ingest(&client, &beside, EVENTS).await;

    let began = Instant::now();
    client.delete(format!("/subscriptions/{full}")).await.expect(204);
    let took = began.elapsed();
    let read = check_ended(&client, &last.to_string()).await;
    client.get(format!("/subscriptions/{full}/deliveries")).await.expect(404);
    client.post_json(format!("/ingest/{full}"), json!(1)).await.expect(404);
    let stats = client.get("/status/stats").await.expect(200).json;
    assert_eq!(stats["recent_failure_count"], BACKLOG, "{stats}");
    let crowded = ingest(&client, &beside, EVENTS).await;
    println!("{backend}: deleted within {took:?}");
    is_unnoticed("an event", &alone, &crowded);
    let left = posthorn.database.number(UNFINISHED).await;
    assert!(left > 0, "it is still at work");

    posthorn.kill().await;
    let left = posthorn.database.number(UNFINISHED).await;
    assert!(left > 0, "it was killed in the middle");
    posthorn.start_again().await;
    assert_eq!(
        check_ended(posthorn.client(), &last.to_string()).await,
        read,
        "nothing changes for who reads"
    );
    within(ENDED_WITHIN, "the end of all its deliveries", async {
        while posthorn.database.number(UNFINISHED).await > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let failed =
        "SELECT count(*) FROM webhook_deliveries WHERE status = 4 AND error = 'subscription deleted'";
    assert_eq!(posthorn.database.number(failed).await, i64::try_from(BACKLOG).unwrap());
    assert_eq!(check_ended(posthorn.client(), &last.to_string()).await, read);
    let stats = posthorn.client().get("/status/stats").await.expect(200).json;
    assert_eq!((&stats["recent_failure_count"], &stats["pending_deliveries"]), (&json!(BACKLOG), &json!(0)));
    assert!(
        receiver.requests().iter().all(|request| request.body.len() < 10),
        "only what was handed in beside"
    );
}

/// The delivery, as somebody reads it.
async fn check_ended(client: &Client, id: &str) -> Value {
    let read = client.get(format!("/deliveries/{id}")).await.expect(200).json;
    assert_eq!(
        (&read["status"], &read["error"]),
        (&json!("failed"), &json!("subscription deleted")),
        "{read}"
    );
    assert!(read["completed_at"].is_string() && read["waiting_for"].is_null(), "{read}");
    client.post(format!("/deliveries/{id}/retry")).await.expect(409);
    client.post(format!("/deliveries/{id}/skip")).await.expect(409);
    client.post(format!("/deliveries/{id}/replay")).await.expect(409);
    read
}

/// So many deliveries that wait, of the subscription with this description, which had none, and their counts.
fn plant(backend: Backend, description: &str, count: u64) -> [String; 3] {
    let id = match backend {
        Backend::Sqlite => "randomblob(16)",
        Backend::Postgres => "gen_random_uuid()",
    };
    let of = format!("(SELECT id FROM subscriptions WHERE description = '{description}')");
    [
        format!(
            "{} INSERT INTO webhook_deliveries (id, subscription_id, event_id, sequence, status, attempt_count, \
             retry_base, created_at_ms) SELECT {id}, {of}, {id}, n.i, 0, 0, 0, 1700000000000 + n.i * 1000 FROM n",
            numbers(backend, count)
        ),
        format!("UPDATE lanes SET next_sequence = {count} + 1 WHERE subscription_id = {of}"),
        format!(
            "INSERT INTO stats_minutes (minute, writer, accepted, succeeded, failed) VALUES (1, 2, {count}, 0, 0)"
        ),
    ]
}
