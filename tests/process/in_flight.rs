//! How many requests go to one endpoint at once, where nobody gave a number.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::ordering::open_at_once;
use crate::outage::hand_in;
use crate::support::server::FAST;
use crate::support::{Backend, Gate, Posthorn, Receiver, Reply, on_both_databases};

on_both_databases!(
    more_for_an_endpoint_that_bears_more,
    fewer_for_one_that_has_too_much_to_do,
    a_given_number_is_kept,
    what_comes_while_a_lane_opens_is_sent
);

const START: u64 = 8;

fn limit(subscription: &Value) -> u64 {
    subscription["in_flight_limit"].as_u64().unwrap()
}

async fn more_for_an_endpoint_that_bears_more(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let gate = Gate::shut();
    let receiver = Receiver::always(Reply::status(200).behind(&gate)).await;
    let id = client.subscribe(&receiver.url("/"), json!({"ordering": "none"})).await.id;
    assert_eq!(limit(&client.subscription(&id).await), START, "before it is known");
    hand_in(client, &id, 150).await;
    let held = receiver.arrived(8).await;
    assert_eq!(held.len(), 8);
    // Each round of 32 answers that find the limit reached lets one more go.
    for answered in 1..=100 {
        gate.pass(1);
        receiver.arrived((8 + answered).min(150)).await;
    }
    let shown = client.subscription_once(&id, "a limit that grew", |shown| limit(shown) == START + 3).await;
    assert_eq!(shown["max_in_flight"], Value::Null);
    receiver.arrived(100 + 11).await;
    gate.open();
    receiver.ended(150).await;
}

async fn fewer_for_one_that_has_too_much_to_do(backend: Backend) {
    for reply in [Reply::status(503), Reply::status(429), Reply::stall()] {
        let settings = [
            FAST,
            &[("POSTHORN_CIRCUIT_FAILURE_THRESHOLD", "1000"), ("WEBHOOK_DELIVERY_TIMEOUT_SECONDS", "0.3")],
        ]
        .concat();
        let posthorn = Posthorn::start_with(backend, &settings).await;
        let client = posthorn.client();
        let receiver = Receiver::always(reply).await;
        let id = client.subscribe(&receiver.url("/"), json!({"ordering": "none"})).await.id;
        hand_in(client, &id, 20).await;
        client.subscription_once(&id, "one at a time", |shown| limit(shown) == 1).await;
    }
}

async fn a_given_number_is_kept(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let gate = Gate::shut();
    let receiver = Receiver::always(Reply::status(503).behind(&gate)).await;
    let strict = client.subscribe(&receiver.url("/strict"), json!({})).await.id;
    assert_eq!(limit(&client.subscription(&strict).await), 1);
    let fields = json!({"ordering": "none", "max_in_flight": 5});
    let id = client.subscribe(&receiver.url("/"), fields).await.id;
    hand_in(client, &id, 10).await;
    receiver.arrived(5).await;
    gate.pass(20);
    receiver.ended(20).await;
    assert_eq!(limit(&client.subscription(&id).await), 5);
    assert_eq!(open_at_once(&receiver.requests()), 5);
    gate.open();
}

/// Each subscription's first events come at once: its lane is opened by the first of them, and more than its first page
/// holds are stored while it reads.
async fn what_comes_while_a_lane_opens_is_sent(backend: Backend) {
    const SUBSCRIPTIONS: usize = 60;
    const EVENTS: usize = 20;
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    for index in 0..SUBSCRIPTIONS {
        let id = client.subscribe(&receiver.url("/"), json!({"ordering": "none"})).await.id;
        join_all((0..EVENTS).map(|event| client.ingest(&id, json!(event)))).await;
        receiver.arrived((index + 1) * EVENTS).await;
    }
}
