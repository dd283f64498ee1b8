//! Order: `strict`, `key` and `none`, as the receiver sees it.

use std::collections::BTreeMap;
use std::time::Instant;

use rand::RngExt;
use serde_json::json;

use crate::support::random::seeded;
use crate::support::server::FAST;
use crate::support::{Backend, Gate, Posthorn, Received, Receiver, Reply, on_both_databases};

on_both_databases!(
    strict_never_overlaps_nor_goes_back,
    one_failure_holds_all_behind_it,
    keys_wait_for_their_own_only,
    none_fills_its_places,
    limit_of_a_key_subscription,
);

/// I4: never two open at once, never an earlier one after a later.
async fn strict_never_overlaps_nor_goes_back(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let mut random = seeded("strict_never_overlaps_nor_goes_back");
    let answers: Vec<u16> = (0..400).map(|_| if random.random_bool(0.4) { 500 } else { 200 }).collect();
    let receiver = Receiver::start(move |request| Reply::status(answers[request.index % 400])).await;
    let id = client.subscribe(&receiver.url("/"), json!({"retry": {"max_retries": 100}})).await.id;
    let mut last = String::new();
    for index in 0..60 {
        last = client.ingest(&id, json!(index)).await;
    }
    client.delivery_in(&last, "success").await;
    check_order(&receiver.requests(), 60);
}

async fn one_failure_holds_all_behind_it(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let receiver = Receiver::script([Reply::status(500)]).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    let other = client.subscribe(&receiver.url("/other"), json!({})).await.id;
    let first = client.ingest(&id, json!(1)).await;
    let waiting = client.delivery_in(&first, "failed_attempt").await;
    assert_eq!(waiting["waiting_for"]["reason"], "retry", "{waiting}");
    assert_eq!(waiting["waiting_for"]["until"], waiting["next_attempt_at"], "{waiting}");
    let second = client.ingest(&id, json!(2)).await;
    let behind = client.delivery(&second).await;
    assert_eq!(behind["waiting_for"]["reason"], "earlier_delivery", "{behind}");
    assert_eq!(behind["waiting_for"]["sequence"], 1, "{behind}");
    // Another subscription is not held.
    let elsewhere = client.ingest(&other, json!(1)).await;
    client.delivery_in(&elsewhere, "success").await;
    assert_eq!(receiver.requests_at("/").len(), 1);

    let retried = client.post(format!("/deliveries/{first}/retry")).await.expect(202).json;
    assert_eq!(retried["id"], first.as_str());
    client.delivery_in(&second, "success").await;
    let seen: Vec<_> =
        receiver.requests_at("/").iter().map(|seen| (seen.sequence(), seen.attempt())).collect();
    assert_eq!(seen, [(1, 1), (1, 2), (2, 1)]);
}

async fn keys_wait_for_their_own_only(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let gate = Gate::shut();
    let held = gate.clone();
    let receiver = Receiver::start(move |request| match request.body.as_slice() {
        b"\"a1\"" => Reply::status(200).behind(&held),
        _ => Reply::status(200),
    })
    .await;
    let fields = json!({"ordering": "key", "max_in_flight": 10});
    let id = client.subscribe(&receiver.url("/"), fields).await.id;
    let a1 = client.ingest_keyed(&id, "a", json!("a1")).await;
    let a2 = client.ingest_keyed(&id, "a", json!("a2")).await;
    let b1 = client.ingest_keyed(&id, "b", json!("b1")).await;
    let free = client.ingest(&id, json!("free")).await;
    let b2 = client.ingest_keyed(&id, "b", json!("b2")).await;
    for delivery in [&b1, &free, &b2] {
        client.delivery_in(delivery, "success").await;
    }
    let waiting = client.delivery(&a2).await;
    assert_eq!((&waiting["ordering_key"], &waiting["status"]), (&json!("a"), &json!("pending")), "{waiting}");
    let wait = &waiting["waiting_for"];
    assert_eq!((&wait["reason"], &wait["sequence"]), (&json!("earlier_delivery"), &json!(1)), "{waiting}");
    let open = client.delivery(&a1).await;
    assert_eq!(open["waiting_for"]["reason"], "in_flight", "{open}");
    assert!(client.delivery(&free).await["ordering_key"].is_null());
    gate.open();
    client.delivery_in(&a2, "success").await;
    let place = |event: &str| {
        let bytes = json!(event).to_string().into_bytes();
        receiver.requests().iter().position(|request| request.body == bytes).unwrap()
    };
    assert!(place("b1") < place("b2") && place("a2") == 4, "{:?}", receiver.requests());
}

async fn none_fills_its_places(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let gate = Gate::shut();
    let receiver = Receiver::always(Reply::status(200).behind(&gate)).await;
    let fields = json!({"ordering": "none", "max_in_flight": 3});
    let id = client.subscribe(&receiver.url("/"), fields).await.id;
    let mut deliveries = Vec::new();
    for index in 0..9 {
        deliveries.push(client.ingest(&id, json!(index)).await);
    }
    receiver.arrived(3).await;
    let waiting = client.delivery(&deliveries[8]).await;
    assert_eq!(waiting["waiting_for"]["reason"], "capacity", "{waiting}");
    for passed in 1..=6 {
        gate.pass(1);
        receiver.arrived(3 + passed).await;
    }
    gate.open();
    for delivery in &deliveries {
        client.delivery_in(delivery, "success").await;
    }
    let received = receiver.requests();
    assert_eq!((received.len(), open_at_once(&received)), (9, 3));
}

async fn limit_of_a_key_subscription(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let mut random = seeded("limit_of_a_key_subscription");
    let answers: Vec<u16> = (0..400).map(|_| if random.random_bool(0.3) { 500 } else { 200 }).collect();
    let receiver = Receiver::start(move |request| Reply::status(answers[request.index % 400])).await;
    let fields = json!({"ordering": "key", "max_in_flight": 2, "retry": {"max_retries": 100}});
    let id = client.subscribe(&receiver.url("/"), fields).await.id;
    let mut by_key: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for index in 0..60 {
        let key = format!("key-{}", random.random_range(0..5));
        let delivery = client.ingest_keyed(&id, &key, json!(index)).await;
        by_key.entry(key).or_default().push(delivery);
    }
    for deliveries in by_key.values() {
        client.delivery_in(deliveries.last().unwrap(), "success").await;
    }
    let received = receiver.requests();
    assert!(open_at_once(&received) <= 2, "{} open at once", open_at_once(&received));
    for deliveries in by_key.values() {
        let of_key =
            |request: &&Received| deliveries.iter().any(|delivery| delivery == request.delivery_id());
        check_order(&received.iter().filter(of_key).cloned().collect::<Vec<_>>(), deliveries.len());
    }
}

/// So many deliveries, none overlapping another, none before an earlier one.
pub(crate) fn check_order(received: &[Received], deliveries: usize) {
    for pair in received.windows(2) {
        assert!(pair[0].closed.is_some_and(|closed| closed <= pair[1].opened), "two open at once: {pair:?}");
        assert!(pair[0].sequence() <= pair[1].sequence(), "goes backwards: {pair:?}");
    }
    let mut sequences: Vec<_> = received.iter().map(Received::sequence).collect();
    sequences.dedup();
    assert_eq!(sequences.len(), deliveries);
}

/// How many were open at the same moment, at most.
pub(crate) fn open_at_once(received: &[Received]) -> usize {
    let open = |at: Instant| {
        received
            .iter()
            .filter(|request| request.opened <= at && request.closed.is_none_or(|closed| closed > at))
            .count()
    };
    received.iter().map(|request| open(request.opened)).max().unwrap_or(0)
}
