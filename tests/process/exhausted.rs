//! What follows when the retries of a delivery are used up.

use serde_json::json;

use crate::support::server::FAST;
use crate::support::{Backend, Posthorn, Received, Receiver, Reply, on_both_databases};

on_both_databases!(continue_goes_on_with_the_next, pause_waits_for_a_person, a_pause_outlives_a_crash);

/// Fails every request for the event `"poison"`.
fn poison_fails(request: &Received) -> Reply {
    Reply::status(if request.body == b"\"poison\"" { 500 } else { 200 })
}

async fn continue_goes_on_with_the_next(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let receiver = Receiver::start(poison_fails).await;
    let id = client.subscribe(&receiver.url("/"), json!({"retry": {"max_retries": 2}})).await.id;
    let poison = client.ingest(&id, json!("poison")).await;
    let next = client.ingest(&id, json!("next")).await;
    client.delivery_in(&next, "success").await;
    let dead = client.delivery(&poison).await;
    assert_eq!((&dead["status"], &dead["attempt_count"]), (&json!("failed"), &json!(3)), "{dead}");
    let attempts: Vec<_> = receiver.requests().iter().map(|seen| (seen.sequence(), seen.attempt())).collect();
    assert_eq!(attempts, [(1, 1), (1, 2), (1, 3), (2, 1)]);
    assert_eq!(client.subscription(&id).await["status"], "active");
}

async fn pause_waits_for_a_person(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let receiver = Receiver::start(poison_fails).await;
    let retry = json!({"max_retries": 1, "on_exhausted": "pause"});
    let id = client.subscribe(&receiver.url("/"), json!({"retry": retry})).await.id;
    let poison = client.ingest(&id, json!("poison")).await;
    let next = client.ingest(&id, json!("next")).await;
    let paused = client.subscription_once(&id, "paused", |shown| shown["status"] == "paused").await;
    assert_eq!(paused["status_reason"], "retries_exhausted", "{paused}");
    assert_eq!(receiver.requests().len(), 2);
    let head = client.delivery(&poison).await;
    assert!(head["completed_at"].is_null() && head["waiting_for"]["reason"] == "paused", "{head}");
    let held = client.ingest(&id, json!("accepted and held")).await;

    // A fresh set of retries, then paused again.
    let resumed = client.post(format!("/subscriptions/{id}/resume")).await.expect(200).json;
    assert_eq!((&resumed["status"], &resumed["status_reason"]), (&json!("active"), &json!(null)));
    receiver.ended(4).await;
    client.subscription_once(&id, "paused again", |shown| shown["status"] == "paused").await;
    let seen: Vec<_> = receiver.requests().iter().map(|seen| (seen.sequence(), seen.attempt())).collect();
    assert_eq!(seen, [(1, 1), (1, 2), (1, 3), (1, 4)]);

    let skipped = client.post(format!("/deliveries/{poison}/skip")).await.expect(200).json;
    assert_eq!((&skipped["status"], &skipped["error"]), (&json!("failed"), &json!("skipped")), "{skipped}");
    for delivery in [next, held] {
        client.delivery_in(&delivery, "success").await;
    }
    let shown = client.subscription(&id).await;
    assert_eq!((&shown["status"], &shown["status_reason"]), (&json!("active"), &json!(null)), "{shown}");
}

async fn a_pause_outlives_a_crash(backend: Backend) {
    let mut posthorn = Posthorn::start_with(backend, FAST).await;
    let receiver = Receiver::start(poison_fails).await;
    let retry = json!({"max_retries": 1, "on_exhausted": "pause"});
    let client = posthorn.client().clone();
    let id = client.subscribe(&receiver.url("/"), json!({"retry": retry})).await.id;
    let poison = client.ingest(&id, json!("poison")).await;
    client.ingest(&id, json!("next")).await;
    client.subscription_once(&id, "paused", |shown| shown["status"] == "paused").await;
    posthorn.kill().await;
    posthorn.start_again().await;
    let client = posthorn.client();
    let shown = client.subscription(&id).await;
    assert_eq!((&shown["status"], &shown["status_reason"]), (&json!("paused"), &json!("retries_exhausted")));
    receiver.answer(|_| Reply::status(200));
    client.post(format!("/subscriptions/{id}/resume")).await.expect(200);
    client.delivery_in(&poison, "success").await;
    let seen: Vec<_> = receiver.ended(4).await.iter().map(|seen| (seen.sequence(), seen.attempt())).collect();
    assert_eq!(seen, [(1, 1), (1, 2), (1, 3), (2, 1)]);
}
