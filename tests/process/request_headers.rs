//! What of the request that an event came with means something: headers that travel on, and the one that serves as
//! idempotency key; and answers after which a delivery is given up.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::server::FAST;
use crate::support::{Answer, Backend, Client, Posthorn, Receiver, Reply, on_both_databases};

on_both_databases!(
    named_headers_travel_on,
    a_header_of_ones_own_serves_as_idempotency_key,
    answers_that_mean_never_end_a_delivery,
);

async fn named_headers_travel_on(backend: Backend) {
    let mut posthorn = Posthorn::start_with(backend, FAST).await;
    let receiver =
        Receiver::start(|request| Reply::status(if request.attempt() == 1 { 500 } else { 200 })).await;
    let fields = json!({
        "headers": {"x-team": "orders"},
        "forward_headers": ["X-GitHub-Event", "x-team", "X-List", "X-Absent", "x-github-event"],
    });
    let client = posthorn.client().clone();
    let id = client.subscribe(&receiver.url("/"), fields).await.id;
    let shown = client.subscription(&id).await;
    assert_eq!(shown["forward_headers"], json!(["x-absent", "x-github-event", "x-list", "x-team"]));
    let sent = [
        ("X-GitHub-Event", "push"),
        ("X-Team", "another"),
        ("X-List", "a"),
        ("X-List", "b"),
        ("X-Not-Named", "x"),
        ("Cookie", "canary"),
    ];
    let delivery = hand_in(&client, &id, &json!(1), &sent).await.expect(202).text("delivery_id");
    client.delivery_in(&delivery, "success").await;
    // From the database, and for good.
    posthorn.kill().await;
    posthorn.start_again().await;
    let client = posthorn.client().clone();
    let replay = client.post(format!("/deliveries/{delivery}/replay")).await.expect(202).text("delivery_id");
    client.delivery_in(&replay, "success").await;
    client.ingest(&id, json!(2)).await;
    let requests = receiver.ended(6).await;
    for request in &requests[..4] {
        assert_eq!(request.header("x-github-event"), "push");
        assert_eq!(request.header("x-list"), "a, b");
        assert_eq!(request.header("x-team"), "orders", "what the subscription says");
    }
    for request in &requests {
        for name in ["x-not-named", "x-absent", "cookie"] {
            assert!(request.all(name).is_empty(), "{name}: {:?}", request.headers);
        }
    }
    for request in &requests[4..] {
        assert!(request.all("x-github-event").is_empty(), "that of another event: {:?}", request.headers);
    }
}

async fn a_header_of_ones_own_serves_as_idempotency_key(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    let id =
        client.subscribe(&receiver.url("/"), json!({"idempotency_header": "X-GitHub-Delivery"})).await.id;
    assert_eq!(client.subscription(&id).await["idempotency_header"], "x-github-delivery");
    let first = hand_in(client, &id, &json!(1), &[("x-github-delivery", "g-1")]).await.expect(202);
    let again = hand_in(client, &id, &json!(1), &[("X-GitHub-Delivery", "g-1")]).await.expect(202);
    assert_eq!(again.text("delivery_id"), first.text("delivery_id"));
    assert_eq!(again.header("idempotent-replayed"), "true");
    hand_in(client, &id, &json!(2), &[("x-github-delivery", "g-1")]).await.expect(422);
    // Its own header wins, and a bad key is told by the name that it came under.
    let both = [("x-github-delivery", "g-1"), ("idempotency-key", "k-1")];
    let other = hand_in(client, &id, &json!(1), &both).await.expect(202);
    assert_ne!(other.text("delivery_id"), first.text("delivery_id"));
    let long = "x".repeat(256);
    let refused = hand_in(client, &id, &json!(1), &[("x-github-delivery", &long)]).await.expect(400);
    assert!(refused.text("detail").starts_with("x-github-delivery: "), "{}", refused.json);
    hand_in(client, &id, &json!(1), &[]).await.expect(202);
    receiver.ended(3).await;
    client.put_json(format!("/subscriptions/{id}"), json!({"idempotency_header": null})).await.expect(200);
    let without = hand_in(client, &id, &json!(1), &[("x-github-delivery", "g-1")]).await.expect(202);
    assert_ne!(without.text("delivery_id"), first.text("delivery_id"));
}

async fn answers_that_mean_never_end_a_delivery(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let receiver = Receiver::start(|request| {
        let asked: u16 = String::from_utf8_lossy(&request.body).parse().unwrap();
        Reply::status(if request.attempt() == 1 { asked } else { 200 })
    })
    .await;
    let retry = json!({"give_up_on": ["404", "422", "5xx"], "max_retries": 3});
    let id = client.subscribe(&receiver.url("/"), json!({"retry": retry})).await.id;
    assert_eq!(client.subscription(&id).await["retry"]["give_up_on"], json!(["404", "422", "5xx"]));
    for (status, ended, attempts) in
        [(404, "failed", 1), (400, "success", 2), (422, "failed", 1), (503, "failed", 1), (429, "success", 2)]
    {
        let delivery = client.ingest(&id, json!(status)).await;
        let shown = client.delivery_in(&delivery, ended).await;
        assert_eq!(shown["attempt_count"], attempts, "{status}: {shown}");
    }
    client.put_json(format!("/subscriptions/{id}"), json!({"retry": {"give_up_on": null}})).await.expect(200);
    let delivery = client.ingest(&id, json!(404)).await;
    client.delivery_in(&delivery, "success").await;
}

async fn hand_in(client: &Client, id: &str, event: &Value, headers: &[(&str, &str)]) -> Answer {
    let call = client.call(Method::POST, format!("/ingest/{id}")).json(event);
    headers.iter().fold(call, |call, (name, value)| call.header(name, *value)).send().await
}
