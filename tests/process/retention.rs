//! Retention: what is finished and old goes, with its event and attempts; nothing else does.

use reqwest::Method;
use serde_json::json;

use crate::support::{Backend, Posthorn, Receiver, Reply, eventually, on_both_databases};

on_both_databases!(finished_ones_go, disabled_ones_end);

/// 0.0004 hours are 1.44 seconds.
const SETTINGS: &[(&str, &str)] = &[
    ("LOG_RETENTION_HOURS", "0.0004"),
    ("CLEANUP_INTERVAL_SECONDS", "0.2"),
    ("INITIAL_RETRY_DELAY_SECONDS", "0.05"),
    ("MAX_RETRY_BACKOFF_SECONDS", "0.05"),
    ("WEBHOOK_MAX_RETRIES", "1"),
];

async fn finished_ones_go(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, SETTINGS).await;
    let client = posthorn.client();
    let receiver =
        Receiver::start(|request| Reply::status(if request.path == "/fails" { 500 } else { 200 })).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    let failing = client.subscribe(&receiver.url("/fails"), json!({})).await.id;
    let paused = client.subscribe(&receiver.url("/"), json!({})).await.id;
    client.post(format!("/subscriptions/{paused}/pause")).await.expect(200);
    let kept = client.ingest(&paused, json!("kept")).await;
    let ingest = async || {
        let call = client.call(Method::POST, format!("/ingest/{id}")).json(&json!("event"));
        call.header("idempotency-key", "k").send().await.expect(202)
    };
    let delivered = ingest().await.text("delivery_id");
    let dead = client.ingest(&failing, json!("dead")).await;
    client.delivery_in(&delivered, "success").await;
    client.post(format!("/subscriptions/{id}/pause")).await.expect(200);
    let replay = client.post(format!("/deliveries/{delivered}/replay")).await.expect(202).text("delivery_id");

    for delivery in [&delivered, &dead] {
        eventually("the finished one is removed", || async {
            let answer = client.get(format!("/deliveries/{delivery}")).await;
            if answer.status == 404 { Ok(()) } else { Err(answer.json.to_string()) }
        })
        .await;
        client.get(format!("/deliveries/{delivery}/payload")).await.expect(404);
        client.get(format!("/status/deliveries/{delivery}/status")).await.expect(404);
    }
    // What is unfinished stays, an event that a replay still needs included.
    assert_eq!(client.get(format!("/deliveries/{kept}/payload")).await.expect(200).body, b"\"kept\"");
    assert_eq!(client.get(format!("/deliveries/{replay}/payload")).await.expect(200).body, b"\"event\"");
    assert_eq!(client.delivery(&kept).await["status"], "pending");
    let again = ingest().await;
    assert!(again.headers.get("idempotent-replayed").is_none(), "the key is free again");

    for subscription in [&id, &paused] {
        client.post(format!("/subscriptions/{subscription}/resume")).await.expect(200);
    }
    eventually("everything is removed", || async {
        let mut left = Vec::new();
        for table in ["webhook_deliveries", "events", "delivery_attempts"] {
            left.push(posthorn.database.number(&format!("SELECT count(*) FROM {table}")).await);
        }
        if left == [0, 0, 0] { Ok(()) } else { Err(format!("deliveries, events, attempts: {left:?}")) }
    })
    .await;
    // Each was sent before it went: two by `id`, one replay, one that waited, and the dead one twice.
    let delivered = receiver.requests_at("/").len();
    assert_eq!((delivered, receiver.requests_at("/fails").len()), (4, 2));
    let stats = client.get("/status/stats").await.expect(200).json;
    assert_eq!(
        (&stats["recent_success_count"], &stats["recent_failure_count"]),
        (&json!(4), &json!(1)),
        "{stats}"
    );
}

async fn disabled_ones_end(backend: Backend) {
    let posthorn =
        Posthorn::start_with(backend, &[SETTINGS, &[("LOG_RETENTION_HOURS", "0.001")]].concat()).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(410)).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    client.post(format!("/subscriptions/{id}/pause")).await.expect(200);
    client.ingest(&id, json!(1)).await;
    let held = client.ingest(&id, json!(2)).await;
    client.post(format!("/subscriptions/{id}/resume")).await.expect(200);
    client.subscription_once(&id, "disabled", |shown| shown["status"] == "disabled").await;
    let ended = client.delivery_in(&held, "failed").await;
    assert_eq!(ended["error"], "subscription disabled", "{ended}");
    assert_eq!(receiver.requests().len(), 1);
}
