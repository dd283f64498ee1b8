//! One endpoint that hangs and one tenant that floods: nobody else notices.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use crate::support::beside::is_unnoticed;
use crate::support::server::FAST;
use crate::support::{Backend, Client, Gate, Posthorn, Receiver, Reply, eventually, on_both_databases};

on_both_databases!(
    stalled_endpoints_are_not_noticed,
    a_flood_of_another_tenant_is_not_noticed,
    answers_just_before_the_time_out_are_not_noticed,
    a_tenant_keeps_to_its_places
);

/// What a machine that is busy with other tests may add (I20).
const SLACK: Duration = Duration::from_millis(50);

async fn stalled_endpoints_are_not_noticed(backend: Backend) {
    let settings = [FAST, &[("WEBHOOK_DELIVERY_TIMEOUT_SECONDS", "120")]].concat();
    let posthorn = Posthorn::start_with(backend, &settings).await;
    let client = posthorn.client();
    let healthy = Receiver::always(Reply::status(200)).await;
    let mut ids = Vec::new();
    for index in 0..100 {
        ids.push(client.subscribe(&healthy.url(&format!("/{index}")), json!({})).await.id);
    }
    let before = slowest(client, &healthy, &ids, 0).await;
    let gate = Gate::shut();
    let stalled = Receiver::always(Reply::status(200).behind(&gate)).await;
    for _ in 0..25 {
        let stalling = (0..20).map(|_| async {
            let id = client.subscribe(&stalled.url("/"), json!({})).await.id;
            client.ingest(&id, json!(1)).await;
        });
        join_all(stalling).await;
    }
    stalled.arrived(500).await;
    let beside = slowest(client, &healthy, &ids, 300).await;
    println!("p99 from sending in to receipt: {before:?} alone, {beside:?} beside 500 that hang");
    assert!(
        beside <= (before * 2).max(before + SLACK),
        "{before:?} alone, {beside:?} beside those that hang"
    );
    gate.open();
}

/// The 99th of a hundred times from sending an event in to its receipt, over three rounds to each of
/// `ids`.
async fn slowest(client: &Client, receiver: &Receiver, ids: &[String], seen: usize) -> Duration {
    let mut times = Vec::new();
    for round in 0..3 {
        for (index, id) in ids.iter().enumerate() {
            let began = Instant::now();
            client.ingest(id, json!([round, index])).await;
            let request = receiver.arrived(seen + times.len() + 1).await.pop().unwrap();
            times.push(request.opened.saturating_duration_since(began));
        }
    }
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

/// Deliveries of each of the 200 flooding subscriptions: 10,000 in all, and fewer in a build that takes
/// them in slowly.
const FLOOD: usize = if cfg!(debug_assertions) { 10 } else { 50 };

/// Every place that the flood may have is held by an endpoint that hangs.
async fn a_flood_of_another_tenant_is_not_noticed(backend: Backend) {
    let patient = [("POSTHORN_MAX_IN_FLIGHT", "128"), ("WEBHOOK_DELIVERY_TIMEOUT_SECONDS", "120")];
    let settings = [FAST, &patient].concat();
    let posthorn = Posthorn::start_with(backend, &settings).await;
    let client = posthorn.client();
    let gate = Gate::shut();
    let flooded = Receiver::always(Reply::status(200).behind(&gate)).await;
    let quiet = Receiver::always(Reply::status(200)).await;
    for _ in 0..10 {
        let flooding = (0..20).map(|_| async {
            let id = client.subscribe(&flooded.url("/"), json!({"tenant": "flood"})).await.id;
            for index in 0..FLOOD {
                client.ingest(&id, json!(index)).await;
            }
        });
        join_all(flooding).await;
    }
    let held = flooded.arrived(126).await.len();
    assert_eq!(held, 126, "but for those that are kept for other tenants");
    let id = client.subscribe(&quiet.url("/"), json!({"tenant": "quiet"})).await.id;
    let mut times = Vec::new();
    for index in 0..10 {
        let delivery = client.ingest(&id, json!(index)).await;
        let accepted = Instant::now();
        let request = quiet.arrived(index + 1).await.pop().unwrap();
        times.push(request.opened.saturating_duration_since(accepted));
        client.delivery_in(&delivery, "success").await;
    }
    println!("from the 202 to receipt beside {} waiting: {times:?}", 200 * FLOOD);
    times.sort_unstable();
    assert!(times[5] < Duration::from_millis(100), "{times:?}");
    assert_eq!(flooded.requests().len(), 126, "none of the flood went meanwhile");
    gate.open();
}

/// More endpoints of one tenant than there are places answer, always, but just before the time-out. Another tenant
/// comes only then.
async fn answers_just_before_the_time_out_are_not_noticed(backend: Backend) {
    let few = [("POSTHORN_MAX_IN_FLIGHT", "128"), ("WEBHOOK_DELIVERY_TIMEOUT_SECONDS", "3")];
    let settings = [FAST, &few].concat();
    let posthorn = Posthorn::start_with(backend, &settings).await;
    let client = posthorn.client();
    let slow = Receiver::always(Reply::status(200).after(Duration::from_millis(2700))).await;
    let quick = Receiver::always(Reply::status(200)).await;
    let mut flood = Vec::new();
    for _ in 0..7 {
        let waiting = (0..20).map(|_| async {
            let id = client.subscribe(&slow.url("/"), json!({"tenant": "slow"})).await.id;
            client.post(format!("/subscriptions/{id}/pause")).await.expect(200);
            for index in 0..5 {
                client.ingest(&id, json!(index)).await;
            }
            id
        });
        flood.extend(join_all(waiting).await);
    }
    for ids in flood.chunks(20) {
        join_all(ids.iter().map(|id| client.post(format!("/subscriptions/{id}/resume")))).await;
    }
    let open = || slow.requests().iter().filter(|request| request.closed.is_none()).count();
    slow.until("all places are held, but for those that are kept for others", |log| {
        log.iter().filter(|request| request.closed.is_none()).count() == 126
    })
    .await;
    let url = quick.url("/");
    let subscribing = (0..3).map(|_| client.subscribe(&url, json!({"tenant": "quick"})));
    let ids: Vec<String> = join_all(subscribing).await.into_iter().map(|subscribed| subscribed.id).collect();
    let mut beside = bursts(client, &quick, &ids, 20).await;
    eventually("half of the places", || async {
        // None of them starts more than it gives back.
        if open() <= 64 { Ok(()) } else { Err(format!("{} are open", open())) }
    })
    .await;
    beside.extend(bursts(client, &quick, &ids, 20).await);
    assert!((1..=64).contains(&open()), "{} are open", open());

    slow.answer(|_| Reply::status(200));
    eventually("the end of the flood", || async {
        let pending = client.get("/status/stats").await.expect(200).json["pending_deliveries"].clone();
        if pending == 0 { Ok(()) } else { Err(format!("{pending} are pending")) }
    })
    .await;
    let alone = bursts(client, &quick, &ids, 40).await;
    is_unnoticed("from sending in to receipt", &alone, &beside);
}

/// From sending an event in to its receipt: each round sends one to each of `ids` at once.
async fn bursts(client: &Client, receiver: &Receiver, ids: &[String], rounds: usize) -> Vec<Duration> {
    let mut times = Vec::new();
    for round in 0..rounds {
        let seen = receiver.requests().len();
        let sending = ids.iter().map(|id| async move {
            let began = Instant::now();
            (client.ingest(id, json!(round)).await, began)
        });
        let sent = join_all(sending).await;
        let received = receiver.arrived(seen + ids.len()).await;
        times.extend(sent.iter().map(|(delivery, began)| {
            let request = received.iter().rev().find(|request| request.delivery_id() == delivery).unwrap();
            request.opened.saturating_duration_since(*began)
        }));
    }
    times
}

async fn a_tenant_keeps_to_its_places(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    client.put_json("/tenants/narrow", json!({"max_in_flight": 2})).await.expect(200);
    let gate = Gate::shut();
    let receiver = Receiver::always(Reply::status(200).behind(&gate)).await;
    let mut deliveries = Vec::new();
    for _ in 0..6 {
        let id = client.subscribe(&receiver.url("/"), json!({"tenant": "narrow"})).await.id;
        deliveries.push(client.ingest(&id, json!(1)).await);
    }
    receiver.arrived(2).await;
    let waits = |delivery: &serde_json::Value| delivery["waiting_for"]["reason"] == "capacity";
    client.delivery_once(&deliveries[5], "waits for a place of its tenant", waits).await;
    assert_eq!(receiver.requests().len(), 2);
    client.put_json("/tenants/narrow", json!({"max_in_flight": 4})).await.expect(200);
    receiver.arrived(4).await;
    client.delivery_once(&deliveries[5], "still waits", waits).await;
    client.put_json("/tenants/narrow", json!({"max_in_flight": null})).await.expect(200);
    receiver.arrived(6).await;
    gate.open();
    for delivery in &deliveries {
        client.delivery_in(delivery, "success").await;
    }
}
