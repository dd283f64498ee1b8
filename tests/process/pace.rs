//! Pace: rate limits hold deliveries back and lose none; one bad endpoint costs the others nothing.

use std::time::Duration;

use serde_json::json;

use crate::support::busyness::Busyness;
use crate::support::server::FAST;
use crate::support::{Backend, Gate, Posthorn, Received, Receiver, Reply, on_both_databases};

on_both_databases!(rate_limit_holds_back, a_changed_limit_applies, stalled_endpoints_cost_the_others_nothing);

async fn rate_limit_holds_back(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let receiver = Receiver::start(|request| Reply::status(if request.index == 3 { 500 } else { 200 })).await;
    let fields = json!({"rate_limit": {"requests_per_second": 10, "burst": 3}});
    let id = client.subscribe(&receiver.url("/"), fields).await.id;
    let mut deliveries = Vec::new();
    for index in 0..20 {
        deliveries.push(client.ingest(&id, json!(index)).await);
    }
    let waiting = |delivery: &serde_json::Value| delivery["waiting_for"]["reason"] == "rate_limit";
    let head = receiver.arrived(4).await.len();
    client.delivery_once(&deliveries[head + 1], "waits for the rate", waiting).await;
    for delivery in &deliveries {
        client.delivery_in(delivery, "success").await;
    }
    let received = receiver.requests();
    assert_eq!(received.len(), 21, "none lost, and one was tried twice");
    check_rate(&received, 10.0, 3.0);
    for delivery in &deliveries {
        let attempts = client.delivery(delivery).await["attempt_count"].as_i64().unwrap();
        assert!(attempts == 1 || *delivery == deliveries[3], "waiting uses up no retry");
    }
}

/// I6: starts in any window of w seconds are at most burst + rate · w; one more, since arrivals
/// may bunch up on the way.
pub(crate) fn check_rate(received: &[Received], rate: f64, burst: f64) {
    for (first, from) in received.iter().enumerate() {
        for (last, to) in received.iter().enumerate().skip(first) {
            let window = (to.opened - from.opened).as_secs_f64();
            let most = burst + rate * window + 1.0;
            let starts = f64::from(u32::try_from(last - first + 1).unwrap());
            assert!(starts <= most, "{starts} starts in {window} s, at most {most}");
        }
    }
}

async fn a_changed_limit_applies(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    let fields = json!({"rate_limit": {"requests_per_second": 0.01, "burst": 1}});
    let id = client.subscribe(&receiver.url("/"), fields).await.id;
    let first = client.ingest(&id, json!(1)).await;
    let second = client.ingest(&id, json!(2)).await;
    client.delivery_in(&first, "success").await;
    let waiting = client.delivery(&second).await;
    assert_eq!(waiting["waiting_for"]["reason"], "rate_limit", "{waiting}");
    assert!(waiting["waiting_for"]["until"].is_string(), "{waiting}");
    client.put_json(format!("/subscriptions/{id}"), json!({"rate_limit": null})).await.expect(200);
    client.delivery_in(&second, "success").await;
}

async fn stalled_endpoints_cost_the_others_nothing(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let gate = Gate::shut();
    let stalled = Receiver::always(Reply::status(200).behind(&gate)).await;
    let healthy = Receiver::always(Reply::status(200)).await;
    let mut held = Vec::new();
    for _ in 0..40 {
        let id = client.subscribe(&stalled.url("/"), json!({})).await.id;
        held.push(client.ingest(&id, json!(1)).await);
    }
    stalled.arrived(40).await;
    let id = client.subscribe(&healthy.url("/"), json!({})).await.id;
    let busyness = Busyness::watch();
    for index in 0..20 {
        let before = std::time::Instant::now();
        client.ingest(&id, json!(index)).await;
        healthy.ended(index + 1).await;
        let took = before.elapsed();
        assert!(took < busyness.allows(Duration::from_secs(1)), "took {took:?}");
    }
    gate.open();
    for delivery in &held {
        client.delivery_in(delivery, "success").await;
    }
}
