//! The circuit: opens after failures in a row, costs nothing while open, and closes by one probe.

use std::time::Duration;

use serde_json::json;

use crate::support::{Backend, Gate, Posthorn, Receiver, Reply, on_both_databases};

on_both_databases!(
    opens_probes_and_closes,
    one_probe_of_many,
    success_in_between_keeps_it_closed,
    an_open_circuit_outlives_a_crash,
    failing_for_too_long_disables,
);

const COOL_DOWN: f64 = 0.5;

/// Three failures open it; retries are due at once, so that only the circuit holds them.
const SETTINGS: &[(&str, &str)] = &[
    ("POSTHORN_CIRCUIT_FAILURE_THRESHOLD", "3"),
    ("POSTHORN_CIRCUIT_COOL_DOWN_SECONDS", "0.5"),
    ("INITIAL_RETRY_DELAY_SECONDS", "0.001"),
    ("MAX_RETRY_BACKOFF_SECONDS", "60"),
    ("WEBHOOK_MAX_RETRIES", "8"),
];

async fn opens_probes_and_closes(backend: Backend) {
    // The retry delay must not grow beyond the cool-down.
    let posthorn = Posthorn::start_with(backend, SETTINGS).await;
    let client = posthorn.client();
    let gate = Gate::shut();
    let mut replies = vec![Reply::status(500); 5];
    replies.push(Reply::status(200).behind(&gate));
    let receiver = Receiver::script(replies).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    let first = client.ingest(&id, json!(1)).await;
    let second = client.ingest(&id, json!(2)).await;

    let is_open = |state: &'static str| move |shown: &serde_json::Value| shown["circuit"]["state"] == state;
    let open = client.subscription_once(&id, "open", is_open("open")).await;
    assert!(open["circuit"]["retry_at"].is_string(), "{open}");
    assert_eq!(open["circuit"]["consecutive_failures"], 3, "{open}");
    assert_eq!(open["status"], "active", "{open}");
    let waiting = client.delivery(&first).await;
    assert_eq!(waiting["waiting_for"]["reason"], "circuit_open", "{waiting}");
    assert_eq!(waiting["waiting_for"]["until"], open["circuit"]["retry_at"], "{waiting}");
    let stats = client.get("/status/stats").await.expect(200).json;
    assert_eq!(stats["circuits_open"], 1, "{stats}");

    receiver.arrived(6).await;
    client.subscription_once(&id, "half open", is_open("half_open")).await;
    gate.open();
    client.delivery_in(&second, "success").await;
    let closed = client.subscription_once(&id, "closed", is_open("closed")).await;
    let circuit = json!({"state": "closed", "consecutive_failures": 0, "retry_at": null});
    assert_eq!(closed["circuit"], circuit, "{closed}");

    // The third failure opens it for one cool-down, each failed probe for twice the last.
    let received = receiver.requests();
    for (probe, least) in [(3, COOL_DOWN), (4, 2.0 * COOL_DOWN), (5, 4.0 * COOL_DOWN)] {
        let gap = (received[probe].opened - received[probe - 1].closed.unwrap()).as_secs_f64();
        assert!(gap >= least * 0.98 && gap < least + 1.5, "probe {probe} after {gap} s, not {least}");
    }
    let seen: Vec<_> = received.iter().map(|seen| (seen.sequence(), seen.attempt())).collect();
    assert_eq!(seen, [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (1, 6), (2, 1)]);
}

/// Many wait; one goes, the first in order.
async fn one_probe_of_many(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, SETTINGS).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(500)).await;
    let fields = json!({"ordering": "none", "max_in_flight": 5});
    let id = client.subscribe(&receiver.url("/"), fields).await.id;
    let gate = Gate::shut();
    let held = gate.clone();
    receiver.answer(move |_| Reply::status(500).behind(&held));
    let mut deliveries = Vec::new();
    for index in 0..5 {
        deliveries.push(client.ingest(&id, json!(index)).await);
    }
    // All five are in flight when the circuit opens; their failures count as attempts.
    receiver.arrived(5).await;
    gate.pass(5);
    receiver.ended(5).await;
    receiver.arrived(6).await;
    let shown = client.subscription(&id).await;
    assert_eq!(shown["circuit"]["state"], "half_open", "{shown}");
    assert_eq!(receiver.requests().len(), 6, "one probe alone");
    let probe = receiver.requests().pop().unwrap();
    assert_eq!((probe.sequence(), probe.attempt()), (1, 2), "the first in order");
    gate.pass(1);
    let received = receiver.arrived(7).await;
    let gap = received[6].opened - received[5].closed.unwrap();
    assert!(gap >= Duration::from_secs_f64(2.0 * COOL_DOWN * 0.98), "twice the cool-down, not {gap:?}");
    assert_eq!(received.len(), 7);
    receiver.answer(|_| Reply::status(200));
    gate.open();
    // The seventh still answers 500; the probe after it closes the circuit.
    for delivery in &deliveries {
        client.delivery_in(delivery, "success").await;
    }
}

async fn success_in_between_keeps_it_closed(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, SETTINGS).await;
    let client = posthorn.client();
    let receiver =
        Receiver::start(|request| Reply::status(if request.index % 3 == 2 { 200 } else { 500 })).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    let mut last = String::new();
    for index in 0..6 {
        last = client.ingest(&id, json!(index)).await;
    }
    client.delivery_in(&last, "success").await;
    let received = receiver.requests();
    assert_eq!(received.len(), 18);
    let took = received[17].opened - received[0].opened;
    assert!(took < Duration::from_secs(5), "no cool-down in between: {took:?}");
}

async fn an_open_circuit_outlives_a_crash(backend: Backend) {
    let settings = [SETTINGS, &[("POSTHORN_CIRCUIT_COOL_DOWN_SECONDS", "3")]].concat();
    let mut posthorn = Posthorn::start_with(backend, &settings).await;
    let receiver = Receiver::script(vec![Reply::status(500); 3]).await;
    let client = posthorn.client().clone();
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    let delivery = client.ingest(&id, json!(1)).await;
    client.subscription_once(&id, "open", |shown| shown["circuit"]["state"] == "open").await;
    posthorn.kill().await;
    posthorn.start_again().await;
    let client = posthorn.client();
    assert_eq!(client.subscription(&id).await["circuit"]["state"], "open");
    client.delivery_in(&delivery, "success").await;
    let received = receiver.requests();
    let gap = received[3].opened - received[2].closed.unwrap();
    assert!(gap > Duration::from_secs_f64(2.9) && gap < Duration::from_secs(5), "{gap:?}");
    assert_eq!((received.len(), received[3].attempt()), (4, 4));
}

async fn failing_for_too_long_disables(backend: Backend) {
    // 0.0005 hours are 1.8 seconds.
    let settings = [
        ("POSTHORN_DISABLE_AFTER_HOURS", "0.0005"),
        ("INITIAL_RETRY_DELAY_SECONDS", "0.2"),
        ("WEBHOOK_MAX_RETRIES", "100"),
        // An open circuit would let no attempt tell that it is still failing.
        ("POSTHORN_CIRCUIT_FAILURE_THRESHOLD", "1000"),
    ];
    let posthorn = Posthorn::start_with(backend, &settings).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(500)).await;
    let id = client.subscribe(&receiver.url("/"), json!({"retry": {"max_delay_seconds": 0.2}})).await.id;
    let delivery = client.ingest(&id, json!(1)).await;
    let shown = client.subscription_once(&id, "disabled", |shown| shown["status"] == "disabled").await;
    assert_eq!(shown["status_reason"], "failing", "{shown}");
    let received = receiver.requests();
    let took = received.last().unwrap().opened - received[0].opened;
    assert!(took > Duration::from_secs_f64(1.2), "not before its time: {took:?}");
    client.post_json(format!("/ingest/{id}"), json!(2)).await.expect(409);
    receiver.answer(|_| Reply::status(200));
    client.post(format!("/subscriptions/{id}/enable")).await.expect(200);
    client.delivery_in(&delivery, "success").await;
}
