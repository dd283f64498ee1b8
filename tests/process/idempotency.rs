//! `Idempotency-Key`: one key, one delivery (I21).

use std::collections::BTreeSet;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Backend, Client, Posthorn, Received, Receiver, Reply, on_both_databases};

on_both_databases!(
    same_key_answers_the_first_delivery,
    other_bytes_are_refused,
    keys_belong_to_a_subscription,
    simultaneous_posts_store_one,
    replay_survives_a_crash,
);

async fn same_key_answers_the_first_delivery(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    let first = post(client, &id, "order-1", &json!({"a": 1})).await.expect(202);
    assert!(first.headers.get("idempotent-replayed").is_none(), "{:?}", first.headers);
    // Finished or not: while the delivery exists the answer is the same.
    client.delivery_in(&first.text("delivery_id"), "success").await;
    for _ in 0..2 {
        let again = post(client, &id, "order-1", &json!({"a": 1})).await.expect(202);
        assert_eq!(again.text("delivery_id"), first.text("delivery_id"));
        assert_eq!(again.header("idempotent-replayed"), "true");
        assert_eq!(again.header("location"), first.header("location"));
    }
    let other = post(client, &id, "Order-1", &json!({"a": 1})).await.expect(202);
    assert_ne!(other.text("delivery_id"), first.text("delivery_id"), "keys differ by case");
    let received = receiver.ended(2).await;
    assert_eq!(received.iter().map(Received::sequence).collect::<Vec<_>>(), [1, 2]);
}

async fn other_bytes_are_refused(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    let path = format!("/ingest/{id}");
    let send = async |body: &str| -> Answer {
        let call = client.call(Method::POST, path.clone()).bytes("application/json", body);
        call.header("idempotency-key", "k").send().await
    };
    send("{\"a\":1}").await.expect(202);
    send("{\"a\":2}").await.expect(422);
    send("{\"a\": 1}").await.expect(422);
    send("{\"a\":1}").await.expect(202);
    client.ingest(&id, json!("the next")).await;
    let received = receiver.ended(2).await;
    assert_eq!(received.last().unwrap().sequence(), 2, "the refused took no number");
}

async fn keys_belong_to_a_subscription(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    let mut deliveries = BTreeSet::new();
    for _ in 0..3 {
        let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
        let answer = post(client, &id, "same", &json!({})).await.expect(202);
        assert!(answer.headers.get("idempotent-replayed").is_none());
        deliveries.insert(answer.text("delivery_id"));
    }
    assert_eq!(deliveries.len(), 3);
    receiver.ended(3).await;
}

async fn simultaneous_posts_store_one(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    for round in 0..5 {
        let (key, event) = (format!("round-{round}"), json!({"round": round}));
        let answers = join_all((0..20).map(|_| post(client, &id, &key, &event))).await;
        let mut ids = BTreeSet::new();
        let mut replayed = 0;
        for answer in answers {
            let answer = answer.expect(202);
            replayed += usize::from(answer.headers.contains_key("idempotent-replayed"));
            ids.insert(answer.text("delivery_id"));
        }
        assert_eq!((ids.len(), replayed), (1, 19), "one stores, the others are told so");
    }
    receiver.ended(5).await;
    let stored = posthorn.database.number("SELECT count(*) FROM webhook_deliveries").await;
    let events = posthorn.database.number("SELECT count(*) FROM events").await;
    assert_eq!((stored, events), (5, 5), "nothing is stored beside the five");

    // Of unequal ones one wins, and the others are refused.
    let events: Vec<Value> = (0..20).map(|index| json!({"index": index})).collect();
    let answers = join_all(events.iter().map(|event| post(client, &id, "unequal", event))).await;
    let won = answers.iter().filter(|answer| answer.status == 202).count();
    let refused = answers.iter().filter(|answer| answer.status == 422).count();
    assert_eq!((won, refused), (1, 19));
}

async fn replay_survives_a_crash(backend: Backend) {
    let mut posthorn = Posthorn::start(backend).await;
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = posthorn.client().subscribe(&receiver.url("/"), json!({})).await.id;
    let first = post(posthorn.client(), &id, "k", &json!(1)).await.expect(202).text("delivery_id");
    posthorn.kill().await;
    posthorn.start_again().await;
    let again = post(posthorn.client(), &id, "k", &json!(1)).await.expect(202);
    assert_eq!(again.text("delivery_id"), first);
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(posthorn.database.number("SELECT count(*) FROM webhook_deliveries").await, 1);
}

async fn post(client: &Client, id: &str, key: &str, event: &Value) -> Answer {
    let call = client.call(Method::POST, format!("/ingest/{id}")).json(event);
    call.header("idempotency-key", key).send().await
}
