//! Status: health, statistics, the attempt log and what happened last.

use serde_json::{Value, json};

use crate::support::server::FAST;
use crate::support::{Backend, Posthorn, Receiver, Reply, eventually, on_both_databases};

on_both_databases!(
    health_is_ok,
    statistics_agree_with_the_tables,
    attempts_newest_first,
    activity_newest_first
);

async fn health_is_ok(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let health = client.get("/health").await.expect(200);
    assert_eq!(health.json, json!({"status": "ok"}));
    assert!(health.kind().starts_with("application/json"));
    client.get("/health/ready").await.expect(200);
}

async fn statistics_agree_with_the_tables(backend: Backend) {
    let mut posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client().clone();
    let none = client.get("/status/stats").await.expect(200).json;
    let expected = json!({
        "total_subscriptions": 0, "active_subscriptions": 0, "pending_deliveries": 0, "recent_window_hours": 24,
        "recent_success_count": 0, "recent_failure_count": 0, "success_rate": null, "circuits_open": 0,
    });
    assert_eq!(none, expected);

    let receiver = Receiver::start(|request| match request.body.as_slice() {
        b"\"fails\"" => Reply::status(500),
        b"\"stalls\"" => Reply::stall(),
        _ => Reply::status(200),
    })
    .await;
    let fields = json!({"ordering": "none", "max_in_flight": 10, "retry": {"max_retries": 1}});
    let id = client.subscribe(&receiver.url("/"), fields).await.id;
    let paused = client.subscribe(&receiver.url("/"), json!({})).await.id;
    let deleted = client.subscribe(&receiver.url("/"), json!({})).await.id;
    for subscription in [&paused, &deleted] {
        client.post(format!("/subscriptions/{subscription}/pause")).await.expect(200);
        client.ingest(subscription, json!("waits")).await;
        client.ingest(subscription, json!("waits")).await;
    }
    let mut ending = Vec::new();
    for event in ["succeeds", "succeeds", "succeeds", "succeeds", "succeeds", "succeeds", "fails"] {
        ending.push(client.ingest(&id, json!(event)).await);
    }
    client.ingest(&id, json!("stalls")).await;
    for delivery in &ending {
        client.delivery_once(delivery, "finished", |seen| seen["completed_at"].is_string()).await;
    }
    // Six succeeded, one failed; two more fail with their subscription.
    client.delete(format!("/subscriptions/{deleted}")).await.expect(204);
    check_statistics(&posthorn, json!({
        "total_subscriptions": 2, "active_subscriptions": 1, "pending_deliveries": 3, "recent_window_hours": 24,
        "recent_success_count": 6, "recent_failure_count": 3, "success_rate": 6.0 / 9.0, "circuits_open": 0,
    }))
    .await;
    posthorn.kill().await;
    posthorn.start_again().await;
    check_statistics(
        &posthorn,
        json!({"pending_deliveries": 3, "recent_success_count": 6, "recent_failure_count": 3}),
    )
    .await;
}

/// The statistics come to be these; what is pending is counted beside them.
async fn check_statistics(posthorn: &Posthorn, expected: Value) {
    let stats = eventually("statistics", || async {
        let stats = posthorn.client().get("/status/stats").await.expect(200).json;
        let agrees = |(name, value): (&String, &Value)| match (stats[name].as_f64(), value.as_f64()) {
            (Some(seen), Some(value)) => (seen - value).abs() < 1e-3,
            _ => stats[name] == *value,
        };
        let agree = expected.as_object().unwrap().iter().all(agrees);
        if agree { Ok(stats) } else { Err(format!("{stats}, not {expected}")) }
    });
    let stats = stats.await;
    let unfinished = "SELECT count(*) FROM webhook_deliveries WHERE status NOT IN (3, 4)";
    assert_eq!(stats["pending_deliveries"], posthorn.database.number(unfinished).await);
}

async fn attempts_newest_first(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let receiver =
        Receiver::start(|request| Reply::status(if request.attempt() < 3 { 500 } else { 200 })).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    let other = client.subscribe(&receiver.url("/"), json!({})).await.id;
    let mut deliveries = Vec::new();
    for index in 0..9 {
        deliveries.push(client.ingest(&id, json!(index)).await);
        client.ingest(&other, json!(index)).await;
    }
    client.delivery_in(&deliveries[8], "success").await;
    let mut expected: Vec<_> =
        deliveries.iter().flat_map(|delivery| (1..=3).map(|number| (delivery.clone(), number))).collect();
    expected.reverse();
    for (query, count) in [("", 20), ("?limit=1", 1), ("?limit=100", 27)] {
        let path = format!("/status/subscriptions/{id}/attempts{query}");
        let listed = client.get(path).await.expect(200).json;
        let of = |attempt: &Value| {
            (attempt["delivery_id"].as_str().unwrap().to_owned(), attempt["attempt_number"].as_i64().unwrap())
        };
        let seen: Vec<_> = listed.as_array().unwrap().iter().map(of).collect();
        assert_eq!(seen, expected[..count], "{query}");
    }
}

async fn activity_newest_first(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    assert_eq!(client.get("/status/activity").await.expect(200).json, json!([]));
    let receiver = Receiver::script([Reply::status(500)]).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    let delivery = client.ingest(&id, json!("secret payload")).await;
    client.delivery_in(&delivery, "success").await;
    let newest = client.subscribe(&receiver.url("/secret/path?token=1"), json!({})).await.id;
    let items = client.get("/status/activity").await.expect(200).json;
    let of = |item: &Value| {
        let text = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
        assert!(!text("summary").is_empty() && !text("timestamp").is_empty(), "{item}");
        (text("kind"), text("subscription_id"), text("delivery_id"))
    };
    let seen: Vec<_> = items.as_array().unwrap().iter().map(of).collect();
    let attempt = ("delivery_attempt".to_owned(), id.clone(), delivery.clone());
    let created = |id: &str| ("subscription_created".to_owned(), id.to_owned(), String::new());
    assert_eq!(seen, [created(&newest), attempt.clone(), attempt, created(&id)]);
    for secret in ["secret payload", "token=1"] {
        assert!(!items.to_string().contains(secret), "{items}");
    }
    for index in 0..8 {
        client.subscribe(&receiver.url("/"), json!({"description": index.to_string()})).await;
    }
    for (query, count) in [("", 5), ("?limit=2", 2), ("?limit=100", 12)] {
        let items = client.get(format!("/status/activity{query}")).await.expect(200).json;
        assert_eq!(items.as_array().unwrap().len(), count, "{query}");
    }
}
