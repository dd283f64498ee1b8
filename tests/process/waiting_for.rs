//! `waiting_for`: every reason why a delivery is not being sent, as its reader sees it.

use chrono::Utc;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::outage::hand_in;
use crate::retries::time;
use crate::support::{Backend, Client, Gate, Posthorn, Receiver, Reply, on_both_databases};

on_both_databases!(every_reason_is_told, the_reason_holds_deep_in_a_backlog);

/// Nothing that waits for a time comes due within the test.
const SETTINGS: &[(&str, &str)] = &[
    ("INITIAL_RETRY_DELAY_SECONDS", "600"),
    ("POSTHORN_CIRCUIT_FAILURE_THRESHOLD", "3"),
    ("POSTHORN_CIRCUIT_COOL_DOWN_SECONDS", "300"),
    ("WEBHOOK_DELIVERY_TIMEOUT_SECONDS", "60"),
];

/// One delivery, and what its reader is to be told.
struct Told {
    case: &'static str,
    delivery: String,
    reason: Option<&'static str>,
    /// In how many seconds, where a time is told.
    until: Option<f64>,
    sequence: Option<i64>,
}

async fn every_reason_is_told(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, SETTINGS).await;
    let client = posthorn.client();
    let gate = Gate::shut();
    let held = gate.clone();
    let receiver = Receiver::start(move |request| match request.path.as_str() {
        "/fails" => Reply::status(500),
        "/gone" => Reply::status(410),
        "/hangs" => Reply::status(200).behind(&held),
        _ => Reply::status(200),
    })
    .await;
    let mut cases = Vec::new();
    let tell = |case, delivery: &String, reason| Told {
        case,
        delivery: delivery.clone(),
        reason: Some(reason),
        until: None,
        sequence: None,
    };
    let subscribe = async |path: &str, fields: Value| client.subscribe(&receiver.url(path), fields).await.id;
    let none = |places| json!({"ordering": "none", "max_in_flight": places});

    for (is_paused, reason) in [(false, "earlier_delivery"), (true, "paused")] {
        let id = subscribe("/hangs", json!({})).await;
        let strict = hand_in(client, &id, 3).await;
        client.delivery_in(&strict[0], "processing").await;
        if is_paused {
            client.post(format!("/subscriptions/{id}/pause")).await.expect(200);
        }
        cases.push(tell("strict, in flight", &strict[0], "in_flight"));
        let sequence = (!is_paused).then_some(1);
        cases.extend(strict[1..].iter().map(|behind| Told { sequence, ..tell("behind it", behind, reason) }));
    }

    let id = subscribe("/hangs", json!({"ordering": "key", "max_in_flight": 3})).await;
    let free = client.ingest(&id, json!("free")).await;
    let mut keyed = Vec::new();
    for key in ["a", "b", "a", "b"] {
        keyed.push(client.ingest_keyed(&id, key, json!(key)).await);
    }
    client.delivery_in(&keyed[1], "processing").await;
    for (case, delivery) in [("no key", &free), ("key a", &keyed[0]), ("key b", &keyed[1])] {
        cases.push(tell(case, delivery, "in_flight"));
    }
    for (case, delivery, sequence) in [("behind key a", &keyed[2], 2), ("behind key b", &keyed[3], 3)] {
        cases.push(Told { sequence: Some(sequence), ..tell(case, delivery, "earlier_delivery") });
    }

    let id = subscribe("/fails", json!({})).await;
    let failing = hand_in(client, &id, 2).await;
    client.delivery_in(&failing[0], "failed_attempt").await;
    cases.push(Told { until: Some(600.0), ..tell("strict, failed once", &failing[0], "retry") });
    cases.push(Told { sequence: Some(1), ..tell("behind a retry", &failing[1], "earlier_delivery") });

    // Each fails once, and the third opens the circuit; the fourth was not tried.
    let id = subscribe("/fails", none(1)).await;
    let failing = hand_in(client, &id, 3).await;
    let is_open = |shown: &Value| shown["circuit"]["state"] == "open";
    client.subscription_once(&id, "open", is_open).await;
    let behind = hand_in(client, &id, 1).await;
    cases.push(Told { until: Some(600.0), ..tell("its retry is the later", &failing[2], "retry") });
    cases.push(Told { until: Some(300.0), ..tell("not tried yet", &behind[0], "circuit_open") });

    let limit = json!({"requests_per_second": 0.01, "burst": 1});
    for (case, mut fields) in [("none, limited", none(5)), ("strict, limited", json!({}))] {
        fields["rate_limit"] = limit.clone();
        let id = subscribe("/", fields).await;
        let limited = hand_in(client, &id, 2).await;
        client.delivery_in(&limited[0], "success").await;
        cases.push(Told { reason: None, ..tell("finished", &limited[0], "") });
        cases.push(Told { until: Some(100.0), ..tell(case, &limited[1], "rate_limit") });
    }

    client.put_json("/tenants/slow", json!({"rate_limit": limit})).await.expect(200);
    let mut limited = Vec::new();
    for _ in 0..2 {
        let id = subscribe("/", json!({"tenant": "slow"})).await;
        limited.extend(hand_in(client, &id, 1).await);
        client.delivery_in(&limited[0], "success").await;
    }
    cases.push(Told { until: Some(100.0), ..tell("its tenant's rate", &limited[1], "tenant_rate_limit") });

    let id = subscribe("/hangs", none(2)).await;
    let full = hand_in(client, &id, 4).await;
    client.delivery_in(&full[1], "processing").await;
    cases.push(tell("none, in flight", &full[1], "in_flight"));
    cases.push(tell("no place of its own", &full[3], "capacity"));

    client.put_json("/tenants/narrow", json!({"max_in_flight": 1})).await.expect(200);
    let mut narrow = Vec::new();
    for _ in 0..2 {
        let id = subscribe("/hangs", json!({"tenant": "narrow"})).await;
        narrow.extend(hand_in(client, &id, 1).await);
        client.delivery_in(&narrow[0], "processing").await;
    }
    cases.push(tell("no place of its tenant", &narrow[1], "capacity"));

    let id = subscribe("/", json!({})).await;
    client.post(format!("/subscriptions/{id}/pause")).await.expect(200);
    let paused = hand_in(client, &id, 2).await;
    cases.extend(paused.iter().map(|delivery| tell("paused", delivery, "paused")));

    let id = subscribe("/gone", json!({})).await;
    client.post(format!("/subscriptions/{id}/pause")).await.expect(200);
    let disabled = hand_in(client, &id, 3).await;
    client.post(format!("/subscriptions/{id}/resume")).await.expect(200);
    client.subscription_once(&id, "disabled", |shown| shown["status"] == "disabled").await;
    cases.push(Told { reason: None, ..tell("ended by 410", &disabled[0], "") });
    cases.extend(disabled[1..].iter().map(|delivery| tell("disabled", delivery, "disabled")));

    for case in &cases {
        check(client, case).await;
    }
    gate.open();
}

/// Far more wait before it than a lane holds, and all for the same: the pace.
async fn the_reason_holds_deep_in_a_backlog(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, SETTINGS).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    let rate_limit = json!({"requests_per_second": 0.01, "burst": 1});
    let fields = json!({"ordering": "none", "max_in_flight": 5, "rate_limit": rate_limit});
    let id = client.subscribe(&receiver.url("/"), fields).await.id;
    for _ in 0..15 {
        join_all((0..100).map(|index| client.ingest(&id, json!(index)))).await;
    }
    let deep = client.ingest(&id, json!("deep")).await;
    receiver.ended(1).await;
    let is_told = |shown: &Value| shown["waiting_for"]["reason"] == "rate_limit";
    let shown = client.delivery_once(&deep, "waits for the rate", is_told).await;
    assert_eq!(shown["sequence"], 1501, "{shown}");
    assert!(time(&shown["waiting_for"]["until"]) > Utc::now(), "{shown}");
}

/// The delivery alone, its status and its place in the list tell the same.
async fn check(client: &Client, case: &Told) {
    let Told { case, delivery, reason, until, sequence } = case;
    // A reason is told of a moment, and some take one to begin.
    let told = |shown: &Value| shown["waiting_for"]["reason"].as_str() == *reason;
    let shown = client.delivery_once(delivery, &format!("{case}: {reason:?}"), told).await;
    let waiting_for = &shown["waiting_for"];
    assert_eq!(waiting_for.is_null(), reason.is_none(), "{case}: {shown}");
    assert_eq!(waiting_for["sequence"].as_i64(), *sequence, "{case}: {shown}");
    assert_eq!(waiting_for["until"].is_string(), until.is_some(), "{case}: {shown}");
    if let Some(seconds) = until {
        let left = (time(&waiting_for["until"]) - Utc::now()).as_seconds_f64();
        // The jitter of a retry is a fifth, and the test may have taken its time.
        assert!((0.8 * seconds - 40.0..1.2 * seconds).contains(&left), "{case}: {left} s: {shown}");
    }
    let status = client.get(format!("/status/deliveries/{delivery}/status")).await.expect(200).json;
    let path = format!("/subscriptions/{}/deliveries", shown["subscription_id"].as_str().unwrap());
    let listed = client.get(path).await.expect(200).json;
    let listed = listed["items"].as_array().unwrap().iter().find(|item| item["id"] == delivery.as_str());
    for elsewhere in [&status["delivery"], listed.unwrap()] {
        let other = &elsewhere["waiting_for"];
        assert_eq!(other["reason"], waiting_for["reason"], "{case}: {elsewhere}");
        assert_eq!(other["sequence"], waiting_for["sequence"], "{case}: {elsewhere}");
        assert_eq!(other["until"].is_string(), until.is_some(), "{case}: {elsewhere}");
    }
}
