//! What changes while deliveries are under way: pause, a new target, deletion.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::server::FAST;
use crate::support::{Backend, Gate, Posthorn, Received, Receiver, Reply, on_both_databases};

on_both_databases!(
    pause_holds_and_resume_goes_on,
    nothing_starts_after_a_pause,
    new_target_makes_retries_due,
    old_targets_gone_disables_nothing,
    deletion_ends_what_is_unfinished,
    changed_policy_applies_to_the_next_attempt,
);

async fn pause_holds_and_resume_goes_on(backend: Backend) {
    let mut posthorn = Posthorn::start(backend).await;
    let client = posthorn.client().clone();
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    let other = client.subscribe(&receiver.url("/other"), json!({})).await.id;
    let paused = client.post(format!("/subscriptions/{id}/pause")).await.expect(200).json;
    assert_eq!((&paused["status"], &paused["status_reason"]), (&json!("paused"), &json!(null)));
    client.post(format!("/subscriptions/{id}/pause")).await.expect(200);
    let mut held = Vec::new();
    for index in 0..3 {
        held.push(client.ingest(&id, json!(index)).await);
    }
    let waiting = client.delivery(&held[0]).await;
    assert_eq!(
        (&waiting["status"], &waiting["waiting_for"]["reason"]),
        (&json!("pending"), &json!("paused"))
    );
    let goes = client.ingest(&other, json!("goes")).await;
    // Recorded, so that the kill repeats nothing.
    client.delivery_in(&goes, "success").await;

    posthorn.kill().await;
    posthorn.start_again().await;
    let client = posthorn.client();
    assert_eq!(client.subscription(&id).await["status"], "paused");
    client.ingest(&other, json!("goes again")).await;
    assert_eq!(receiver.ended(2).await.len(), 2, "a restart resumes nothing");
    let resumed = client.post(format!("/subscriptions/{id}/resume")).await.expect(200).json;
    assert_eq!(resumed["status"], "active");
    client.post(format!("/subscriptions/{id}/resume")).await.expect(200);
    receiver.ended(5).await;
    let sequences: Vec<_> = receiver.requests_at("/").iter().map(Received::sequence).collect();
    assert_eq!(sequences, [1, 2, 3]);
}

/// Nothing starts later than a second after the answer to a pause.
async fn nothing_starts_after_a_pause(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200).after(Duration::from_millis(5))).await;
    let fields = json!({"ordering": "none", "max_in_flight": 2});
    let id = client.subscribe(&receiver.url("/"), fields).await.id;
    let ingests = (0..400).map(|index| client.ingest(&id, json!(index)));
    futures_util::future::join_all(ingests).await;
    receiver.arrived(10).await;
    client.post(format!("/subscriptions/{id}/pause")).await.expect(200);
    let answered = Instant::now();
    let seen = receiver.requests().len();
    assert!(seen < 400, "the machine is too fast for this test: all {seen} went before the pause");
    tokio::time::sleep_until((answered + Duration::from_millis(1300)).into()).await;
    let resumed = Instant::now();
    client.post(format!("/subscriptions/{id}/resume")).await.expect(200);
    let received = receiver.ended(400).await;
    let limit = answered + Duration::from_secs(1);
    let late = received.iter().filter(|seen| seen.opened > limit && seen.opened < resumed);
    assert_eq!(late.count(), 0, "started while paused");
    assert_eq!(received.len(), 400, "each once");
}

async fn new_target_makes_retries_due(backend: Backend) {
    // Retries are an hour away, and the circuit opens at once.
    let settings = [
        ("INITIAL_RETRY_DELAY_SECONDS", "3600"),
        ("MAX_RETRY_BACKOFF_SECONDS", "3600"),
        ("POSTHORN_CIRCUIT_FAILURE_THRESHOLD", "1"),
        ("POSTHORN_CIRCUIT_COOL_DOWN_SECONDS", "3600"),
    ];
    let posthorn = Posthorn::start_with(backend, &settings).await;
    let client = posthorn.client();
    let old = Receiver::always(Reply::status(500)).await;
    let new = Receiver::always(Reply::status(200)).await;
    let id = client.subscribe(&old.url("/"), json!({})).await.id;
    let delivery = client.ingest(&id, json!(1)).await;
    client.delivery_in(&delivery, "failed_attempt").await;
    let shown = client.subscription(&id).await;
    assert_eq!(shown["circuit"]["state"], "open", "{shown}");
    let changed = client.put_json(format!("/subscriptions/{id}"), json!({"target_url": new.url("/")})).await;
    let changed = changed.expect(200).json;
    assert_eq!(changed["circuit"]["state"], "closed", "{changed}");
    let received = new.ended(1).await.remove(0);
    assert_eq!((received.delivery_id(), received.attempt()), (delivery.as_str(), 2), "made attempts count");
    client.delivery_in(&delivery, "success").await;
    assert_eq!(old.requests().len(), 1);
}

async fn old_targets_gone_disables_nothing(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let gate = Gate::shut();
    let old = Receiver::always(Reply::status(410).behind(&gate)).await;
    let new = Receiver::always(Reply::status(200)).await;
    let id = client.subscribe(&old.url("/"), json!({})).await.id;
    let first = client.ingest(&id, json!(1)).await;
    old.arrived(1).await;
    client.put_json(format!("/subscriptions/{id}"), json!({"target_url": new.url("/")})).await.expect(200);
    gate.open();
    let ended = client.delivery_once(&first, "finished", |seen| seen["completed_at"].is_string()).await;
    assert_eq!(client.attempts(&first).await[0]["status_code"], 410, "recorded as it ended: {ended}");
    let second = client.ingest(&id, json!(2)).await;
    client.delivery_in(&second, "success").await;
    let shown = client.subscription(&id).await;
    assert_eq!(
        (&shown["status"], &shown["circuit"]["state"]),
        (&json!("active"), &json!("closed")),
        "{shown}"
    );
}

async fn deletion_ends_what_is_unfinished(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let gate = Gate::shut();
    let receiver = Receiver::script([Reply::status(200), Reply::status(200).behind(&gate)]).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    let done = client.ingest(&id, json!(1)).await;
    let before = client.delivery_in(&done, "success").await;
    let open = client.ingest(&id, json!(2)).await;
    let waiting = client.ingest(&id, json!(3)).await;
    receiver.arrived(2).await;
    client.delete(format!("/subscriptions/{id}")).await.expect(204);
    for delivery in [&open, &waiting] {
        let ended = client.delivery(delivery).await;
        let seen = (&ended["status"], &ended["error"]);
        assert_eq!(seen, (&json!("failed"), &json!("subscription deleted")), "{ended}");
        assert!(ended["completed_at"].is_string() && ended["waiting_for"].is_null(), "{ended}");
    }
    assert_eq!(client.delivery(&done).await, before, "what was finished is as it was");
    gate.open();
    receiver.ended(2).await;
    // The request in flight adds its attempt to the log; its delivery stays as it is.
    let probe = || async {
        let attempts = client.attempts(&open).await;
        if attempts.len() == 1 { Ok(attempts) } else { Err(format!("{attempts:?}")) }
    };
    let attempts = crate::support::eventually("the attempt of the request in flight", probe).await;
    assert_eq!(attempts[0]["status_code"], 200, "{attempts:?}");
    assert_eq!(client.delivery(&open).await["status"], "failed");
    assert!(client.attempts(&waiting).await.is_empty());
    assert_eq!(client.get(format!("/deliveries/{waiting}/payload")).await.expect(200).body, b"3");
    client.post(format!("/deliveries/{open}/replay")).await.expect_any(&[404, 409]);
    client.post(format!("/deliveries/{open}/retry")).await.expect(409);
    let unfinished = "webhook_deliveries WHERE status NOT IN (3, 4)";
    posthorn.database.check_none("I24: unfinished ones of a deleted subscription", unfinished).await;
    assert_eq!(receiver.requests().len(), 2);
}

async fn changed_policy_applies_to_the_next_attempt(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let gate = Gate::shut();
    let receiver = Receiver::always(Reply::status(500).behind(&gate)).await;
    let id = client.subscribe(&receiver.url("/"), json!({"retry": {"max_retries": 50}})).await.id;
    let path = format!("/subscriptions/{id}");
    let put =
        async |change: Value| client.call(Method::PUT, path.clone()).json(&change).send().await.expect(200);
    let delivery = client.ingest(&id, json!(1)).await;
    receiver.arrived(1).await;
    put(json!({"retry": {"max_retries": 2}})).await;
    put(json!({"headers": {"x-changed": "yes"}})).await;
    gate.open();
    let ended = client.delivery_in(&delivery, "failed").await;
    assert_eq!(ended["attempt_count"], 3, "{ended}");
    let changed: Vec<_> = receiver.requests().iter().map(|request| request.all("x-changed").len()).collect();
    assert_eq!(changed, [0, 1, 1], "the one in flight is not cut");
}
