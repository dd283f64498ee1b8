//! Deliveries: listed, shown, retried, replayed and skipped by hand.

use serde_json::{Value, json};

use crate::support::server::FAST;
use crate::support::{Backend, Client, Gate, Posthorn, Received, Receiver, Reply, on_both_databases};

on_both_databases!(
    a_delivery_is_shown_whole,
    listed_newest_first_by_cursor,
    filtered_by_status_and_time,
    retry_is_for_what_waits,
    skip_is_for_the_unfinished,
    replay_of_what_waits,
);

async fn a_delivery_is_shown_whole(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let gate = Gate::shut();
    let receiver =
        Receiver::script([Reply::body(500, b"broken"), Reply::body(201, b"made").behind(&gate)]).await;
    let id = client.subscribe(&receiver.url("/"), json!({"ordering": "key"})).await.id;
    let delivery = client.ingest_keyed(&id, "order 7", json!({"n": 1})).await;
    receiver.arrived(2).await;
    let open = client.delivery_in(&delivery, "processing").await;
    assert_eq!(open["waiting_for"]["reason"], "in_flight", "{open}");
    gate.open();
    let done = client.delivery_in(&delivery, "success").await;
    for (name, value) in [
        ("id", json!(delivery)),
        ("subscription_id", json!(id)),
        ("sequence", json!(1)),
        ("ordering_key", json!("order 7")),
        ("attempt_count", json!(2)),
        ("next_attempt_at", json!(null)),
        ("waiting_for", json!(null)),
        ("error", json!(null)),
    ] {
        assert_eq!(done[name], value, "{name} of {done}");
    }
    assert!(done["created_at"].as_str() <= done["completed_at"].as_str(), "{done}");

    let status = client.get(format!("/status/deliveries/{delivery}/status")).await.expect(200).json;
    assert_eq!(status["delivery"], done);
    let attempts = status["attempts"].as_array().unwrap();
    for (attempt, (number, outcome, code, body)) in
        attempts.iter().zip([(1, "failed_attempt", 500, "broken"), (2, "success", 201, "made")])
    {
        let seen = (
            &attempt["attempt_number"],
            &attempt["outcome"],
            &attempt["status_code"],
            &attempt["response_body"],
        );
        assert_eq!(seen, (&json!(number), &json!(outcome), &json!(code), &json!(body)), "{attempt}");
        let of = (&attempt["delivery_id"], &attempt["subscription_id"]);
        assert_eq!(of, (&json!(delivery), &json!(id)), "{attempt}");
    }
    assert_eq!(attempts.len(), 2);
    assert!(attempts[1]["error_message"].is_null(), "{status}");
}

async fn listed_newest_first_by_cursor(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    let other = client.subscribe(&receiver.url("/"), json!({})).await.id;
    client.post(format!("/subscriptions/{id}/pause")).await.expect(200);
    let mut deliveries = Vec::new();
    for index in 0..45 {
        deliveries.push(client.ingest(&id, json!(index)).await);
        client.ingest(&other, json!(index)).await;
    }
    deliveries.reverse();
    let path = format!("/subscriptions/{id}/deliveries");
    let first = client.get(path.clone()).await.expect(200).json;
    assert_eq!(ids(&first), deliveries[..20], "20 when no limit is given");
    assert!(!first.to_string().contains("payload") && first["total"].is_null(), "{first}");
    for limit in [1, 7, 45, 100] {
        let mut seen = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let next = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
            let page = client.get(format!("{path}?limit={limit}{next}")).await.expect(200).json;
            seen.extend(ids(&page));
            assert!(ids(&page).len() <= limit, "{page}");
            match page["next_cursor"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => break,
            }
            assert!(seen.len() < 45, "a cursor that leads nowhere: {page}");
        }
        assert_eq!(seen, deliveries, "limit {limit}");
    }
    let empty = client.subscribe(&receiver.url("/"), json!({})).await.id;
    let listed = client.get(format!("/subscriptions/{empty}/deliveries")).await.expect(200).json;
    assert_eq!(listed, json!({"items": [], "next_cursor": null}));
}

async fn filtered_by_status_and_time(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[("INITIAL_RETRY_DELAY_SECONDS", "3600")]).await;
    let client = posthorn.client();
    let receiver = Receiver::start(|request| match request.body.as_slice() {
        b"\"fails\"" => Reply::status(500),
        b"\"stalls\"" => Reply::stall(),
        _ => Reply::status(200),
    })
    .await;
    let fields = json!({"ordering": "none", "max_in_flight": 10});
    let id = client.subscribe(&receiver.url("/"), fields).await.id;
    let success = client.ingest(&id, json!("succeeds")).await;
    let waiting = client.ingest(&id, json!("fails")).await;
    let open = client.ingest(&id, json!("stalls")).await;
    client.delivery_in(&success, "success").await;
    client.delivery_in(&waiting, "failed_attempt").await;
    client.delivery_in(&open, "processing").await;
    client.post(format!("/subscriptions/{id}/pause")).await.expect(200);
    let pending = client.ingest(&id, json!("waits")).await;
    let skipped = client.ingest(&id, json!("is skipped")).await;
    client.post(format!("/deliveries/{skipped}/skip")).await.expect(200);
    for (status, delivery) in [
        ("success", &success),
        ("failed_attempt", &waiting),
        ("processing", &open),
        ("pending", &pending),
        ("failed", &skipped),
    ] {
        let listed =
            client.get(format!("/subscriptions/{id}/deliveries?status={status}")).await.expect(200).json;
        assert_eq!(ids(&listed), std::slice::from_ref(delivery), "{status}: {listed}");
        assert_eq!(listed["items"][0]["status"], status);
    }
    let created = client.delivery(&open).await["created_at"].as_str().unwrap().to_owned();
    let list = async |query: String| -> Vec<String> {
        ids(&client.get(format!("/subscriptions/{id}/deliveries?{query}")).await.expect(200).json)
    };
    assert_eq!(list("until=2020-01-01T00:00:00Z".to_owned()).await, [] as [&str; 0]);
    assert_eq!(list("since=2020-01-01T00:00:00%2B02:00".to_owned()).await.len(), 5);
    assert!(list(format!("since={created}")).await.contains(&open), "since takes its own moment in");
    assert_eq!(list("since=2999-01-01T00:00:00.000Z".to_owned()).await.len(), 0);
    let both = list(format!("since={created}&status=success")).await;
    assert!(both.is_empty() || client.delivery(&success).await["created_at"] == created.as_str(), "{both:?}");
}

async fn retry_is_for_what_waits(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[("INITIAL_RETRY_DELAY_SECONDS", "3600")]).await;
    let client = posthorn.client();
    let receiver = Receiver::script([Reply::status(500)]).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    let delivery = client.ingest(&id, json!(1)).await;
    client.delivery_in(&delivery, "failed_attempt").await;
    let retried = client.post(format!("/deliveries/{delivery}/retry")).await.expect(202).json;
    assert_eq!(retried["id"], delivery.as_str());
    client.delivery_in(&delivery, "success").await;
    check_finished(client, &delivery).await;

    // What is held stays held: order and pause stand above it.
    client.post(format!("/subscriptions/{id}/pause")).await.expect(200);
    let held = client.ingest(&id, json!(2)).await;
    client.post(format!("/deliveries/{held}/retry")).await.expect(202);
    assert_eq!(client.delivery(&held).await["waiting_for"]["reason"], "paused");
    client.post(format!("/subscriptions/{id}/resume")).await.expect(200);
    client.delivery_in(&held, "success").await;
    assert_eq!(receiver.requests().len(), 3);
}

async fn skip_is_for_the_unfinished(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[("INITIAL_RETRY_DELAY_SECONDS", "3600")]).await;
    let client = posthorn.client();
    let receiver = Receiver::script([Reply::status(500)]).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    let mut deliveries = Vec::new();
    for index in 0..4 {
        deliveries.push(client.ingest(&id, json!(index)).await);
    }
    client.delivery_in(&deliveries[0], "failed_attempt").await;
    // One in the middle, then the head: the two others go, in order.
    for skipped in [&deliveries[2], &deliveries[0]] {
        let answer = client.post(format!("/deliveries/{skipped}/skip")).await.expect(200).json;
        assert_eq!((&answer["status"], &answer["error"]), (&json!("failed"), &json!("skipped")), "{answer}");
        assert!(answer["completed_at"].is_string() && answer["next_attempt_at"].is_null(), "{answer}");
    }
    client.delivery_in(&deliveries[3], "success").await;
    client.delivery_in(&deliveries[1], "success").await;
    let sequences: Vec<_> = receiver.requests().iter().map(Received::sequence).collect();
    assert_eq!(sequences, [1, 2, 4]);
    check_finished(client, &deliveries[2]).await;
    check_finished(client, &deliveries[1]).await;
}

/// Neither retried nor skipped; replayed it can be.
async fn check_finished(client: &Client, delivery: &str) {
    let before = client.delivery(delivery).await;
    client.post(format!("/deliveries/{delivery}/retry")).await.expect(409);
    client.post(format!("/deliveries/{delivery}/skip")).await.expect(409);
    assert_eq!(client.delivery(delivery).await, before);
}

async fn replay_of_what_waits(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let gate = Gate::shut();
    let receiver = Receiver::always(Reply::status(200).behind(&gate)).await;
    let id = client.subscribe(&receiver.url("/"), json!({"ordering": "key"})).await.id;
    let first = client.ingest_keyed(&id, "k", json!(1)).await;
    let second = client.ingest_keyed(&id, "k", json!(2)).await;
    receiver.arrived(1).await;
    let replay = client.post(format!("/deliveries/{first}/replay")).await.expect(202).text("delivery_id");
    let waiting = client.delivery(&replay).await;
    assert_eq!((&waiting["sequence"], &waiting["ordering_key"]), (&json!(3), &json!("k")), "{waiting}");
    gate.open();
    client.delivery_in(&replay, "success").await;
    let seen: Vec<_> = receiver.requests().iter().map(|request| request.delivery_id().to_owned()).collect();
    assert_eq!(seen, [first, second, replay], "the replay keeps to the order of its key");
}

fn ids(page: &Value) -> Vec<String> {
    page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}
