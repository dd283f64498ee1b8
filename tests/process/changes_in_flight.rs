//! Changes with requests in flight and others waiting: what is on its way ends as it ends, and all
//! that comes after goes by what was changed.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::outage::hand_in;
use crate::support::{Backend, Client, Gate, Posthorn, Received, Receiver, Reply, on_both_databases};

on_both_databases!(
    a_pause_lets_what_is_in_flight_end,
    a_new_target_leaves_the_old_ones_outcomes,
    what_is_shown_disabled_takes_no_event
);

/// Retries wait for an hour, unless something makes them due.
const SETTINGS: &[(&str, &str)] = &[
    ("INITIAL_RETRY_DELAY_SECONDS", "3600"),
    ("MAX_RETRY_BACKOFF_SECONDS", "3600"),
    ("POSTHORN_CIRCUIT_FAILURE_THRESHOLD", "4"),
    ("POSTHORN_CIRCUIT_COOL_DOWN_SECONDS", "3600"),
];

async fn a_pause_lets_what_is_in_flight_end(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, SETTINGS).await;
    let client = posthorn.client();
    let healthy = Receiver::always(Reply::status(200)).await;
    let beside = client.subscribe(&healthy.url("/"), json!({})).await.id;
    join_all([("strict", 1), ("none", 3)].map(async |(ordering, in_flight)| {
        let gate = Gate::shut();
        let held = gate.clone();
        // The last of those in flight fails.
        let receiver = Receiver::start(move |seen: &Received| match seen.sequence() {
            3 if seen.attempt() == 1 => Reply::status(500).behind(&held),
            _ => Reply::status(200).behind(&held),
        })
        .await;
        let fields = json!({"ordering": ordering, "max_in_flight": in_flight});
        let id = client.subscribe(&receiver.url("/"), fields).await.id;
        let deliveries = hand_in(client, &id, 12).await;
        receiver.arrived(in_flight).await;
        client.post(format!("/subscriptions/{id}/pause")).await.expect(200);
        gate.open();
        for (delivery, status) in deliveries[..in_flight].iter().zip(["success", "success", "failed_attempt"])
        {
            let ended = client.delivery_in(delivery, status).await;
            assert_eq!(ended["attempt_count"], 1, "{ordering}: {ended}");
        }
        // What is handed in later goes, elsewhere; here nothing does.
        let later = client.ingest(&beside, json!(ordering)).await;
        client.delivery_in(&later, "success").await;
        let held = client.delivery(&deliveries[in_flight]).await;
        assert_eq!(held["waiting_for"]["reason"], "paused", "{ordering}: {held}");
        let received = receiver.requests();
        assert_eq!(received.len(), in_flight, "{ordering}: nothing starts");
        assert!(received.iter().all(|seen| seen.answered), "{ordering}: none was cut off");

        client.post(format!("/subscriptions/{id}/resume")).await.expect(200);
        // The third would wait for an hour, and `strict` would wait behind it.
        if ordering == "strict" {
            client.delivery_in(&deliveries[2], "failed_attempt").await;
        }
        client.post(format!("/deliveries/{}/retry", deliveries[2])).await.expect(202);
        for delivery in &deliveries {
            client.delivery_in(delivery, "success").await;
        }
        assert_eq!(receiver.requests().len(), deliveries.len() + 1, "{ordering}");
    }))
    .await;
}

/// Three wait for an hour, others are in flight, the rest has not been tried.
async fn a_new_target_leaves_the_old_ones_outcomes(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, SETTINGS).await;
    let client = posthorn.client();
    let gate = Gate::shut();
    let held = gate.clone();
    // One more failure would open the circuit, and 410 would disable.
    let late = [500, 410, 503, 200];
    let old = Receiver::start(move |seen| match seen.index {
        0..3 => Reply::status(500),
        index => Reply::status(late[index - 3]).behind(&held),
    })
    .await;
    let new = Receiver::always(Reply::status(200)).await;
    let fields = json!({"ordering": "none", "max_in_flight": 4});
    let id = client.subscribe(&old.url("/"), fields).await.id;
    let waiting = hand_in(client, &id, 3).await;
    for delivery in &waiting {
        client.delivery_in(delivery, "failed_attempt").await;
    }
    let open = hand_in(client, &id, 4).await;
    let in_flight: Vec<_> = old.arrived(7).await.split_off(3);
    let untried = hand_in(client, &id, 5).await;
    put_target(client, &id, &new).await;
    // One of the four places in flight is free again, and then all of them are.
    gate.pass(1);
    for delivery in waiting.iter().chain(&untried) {
        client.delivery_in(delivery, "success").await;
    }
    gate.open();
    for request in &in_flight {
        let code = late[request.index - 3];
        let status = if code == 200 { "success" } else { "failed_attempt" };
        let ended = client.delivery_in(request.delivery_id(), status).await;
        let attempts = client.attempts(request.delivery_id()).await;
        assert_eq!((attempts.len(), &attempts[0]["status_code"]), (1, &json!(code)), "as it ended: {ended}");
    }
    let shown = client.subscription(&id).await;
    let closed = json!({"state": "closed", "consecutive_failures": 0, "retry_at": null});
    assert_eq!((&shown["status"], &shown["circuit"]), (&json!("active"), &closed), "of the new target");
    assert!(old.requests().iter().all(|seen| seen.answered), "none was cut off");
    let seen: Vec<_> = new.requests().iter().map(|seen| (seen.sequence(), seen.attempt())).collect();
    assert_eq!(
        seen,
        [(1, 2), (2, 2), (3, 2), (8, 1), (9, 1), (10, 1), (11, 1), (12, 1)],
        "attempts made count"
    );

    // What failed at the old one waits for its own hour, until there is a new one again.
    let newest = Receiver::always(Reply::status(200)).await;
    put_target(client, &id, &newest).await;
    for delivery in &open {
        client.delivery_in(delivery, "success").await;
    }
    assert_eq!((old.requests().len(), new.requests().len(), newest.requests().len()), (7, 8, 3));
}

/// Whoever has seen that it is disabled hands nothing in any more.
async fn what_is_shown_disabled_takes_no_event(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, SETTINGS).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(410)).await;
    let answers = join_all((0..100).map(|_| async {
        let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
        client.ingest(&id, json!("gone")).await;
        client.subscription_once(&id, "disabled", |shown| shown["status"] == "disabled").await;
        client.post_json(format!("/ingest/{id}"), json!("refused")).await.status
    }));
    let accepted = answers.await.iter().filter(|status| **status != 409).count();
    assert_eq!(accepted, 0, "of 100 events to a subscription shown as disabled");
}

async fn put_target(client: &Client, id: &str, receiver: &Receiver) {
    let body = json!({"target_url": receiver.url("/")});
    let shown: Value = client.put_json(format!("/subscriptions/{id}"), body).await.expect(200).json;
    assert_eq!(shown["circuit"]["state"], "closed", "{shown}");
}
