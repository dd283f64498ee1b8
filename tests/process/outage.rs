//! An endpoint that refuses connections for some seconds and returns: meanwhile only probes go, and
//! with its return one of them lets the backlog go, all of it, in order, at the full pace.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::flapping::ended;
use crate::ordering::open_at_once;
use crate::pace::check_rate;
use crate::retries::time;
use crate::support::{
    Backend, Client, Gate, Posthorn, Received, Receiver, Reply, eventually, on_both_databases,
};

on_both_databases!(an_outage_costs_only_probes_and_the_backlog_follows);

const THRESHOLD: usize = 3;
const COOL_DOWN: f64 = 0.5;

/// Probes that find nobody: at 0.5, 1.5 and 3.5 seconds; the next one is due at 7.5.
const PROBES: usize = 3;

/// Retries are due at once, so that only the circuit holds them.
const SETTINGS: &[(&str, &str)] = &[
    ("POSTHORN_CIRCUIT_FAILURE_THRESHOLD", "3"),
    ("POSTHORN_CIRCUIT_COOL_DOWN_SECONDS", "0.5"),
    ("INITIAL_RETRY_DELAY_SECONDS", "0.001"),
    ("MAX_RETRY_BACKOFF_SECONDS", "60"),
    ("WEBHOOK_MAX_RETRIES", "20"),
];

/// What is handed in before the outage, and while it lasts.
const BEFORE: usize = 3;
const BACKLOG: usize = 200;

/// Two seconds where nothing else runs; an unoptimised build on a busy machine needs more.
const DRAINED_WITHIN: Duration = Duration::from_secs(8);

/// For a machine that is busy with other tests.
const SLACK: f64 = 0.5;

async fn an_outage_costs_only_probes_and_the_backlog_follows(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, SETTINGS).await;
    let client = posthorn.client();
    let rate_limit = json!({"requests_per_second": 50, "burst": 5});
    let cases = [
        ("strict", 1, json!({})),
        ("none", 8, json!({"ordering": "none", "max_in_flight": 8})),
        ("strict, 50 a second", 1, json!({"rate_limit": rate_limit})),
        ("none, 50 a second", 8, json!({"ordering": "none", "max_in_flight": 8, "rate_limit": rate_limit})),
    ];
    join_all(cases.map(async |(case, in_flight, fields)| {
        let mut receiver = Receiver::always(Reply::status(200)).await;
        let limited = !fields["rate_limit"].is_null();
        let id = client.subscribe(&receiver.url("/"), fields).await.id;
        let mut deliveries = hand_in(client, &id, BEFORE).await;
        client.delivery_in(&deliveries[BEFORE - 1], "success").await;
        receiver.ended(BEFORE).await;

        receiver.go_away().await;
        deliveries.extend(hand_in(client, &id, BACKLOG).await);
        let failed = failed_during_the_outage(client, &id, in_flight, case).await;

        let gate = Gate::shut();
        let held = gate.clone();
        receiver.answer(move |_| Reply::status(200).behind(&held));
        receiver.come_back().await;
        receiver.arrived(BEFORE + 1).await;
        let is_half_open = |shown: &Value| shown["circuit"]["state"] == "half_open";
        client.subscription_once(&id, "half open", is_half_open).await;
        let received = receiver.requests();
        assert_eq!(received.len(), BEFORE + 1, "{case}: one probe alone");
        let probe = &received[BEFORE];
        assert!(
            probe.attempt() > 1 && probe.delivery_id() == deliveries[BEFORE],
            "{case}: the first in order"
        );

        gate.open();
        let opened = Instant::now();
        let received = receiver.ended(BEFORE + BACKLOG).await.split_off(BEFORE);
        let took = received.iter().filter_map(|seen| seen.closed).max().unwrap() - opened;
        println!("{case}: {BACKLOG} deliveries within {took:?} of the probe's answer");
        check_drained(client, &deliveries, failed, case).await;
        check_in_order(&received, in_flight, case);
        if limited {
            check_full_rate(&received[1..], case);
        } else {
            check_without_a_pause(&received, case);
            assert!(took < DRAINED_WITHIN, "{case}: took {took:?}");
        }
        let circuit = client.subscription(&id).await["circuit"].clone();
        assert_eq!(circuit["state"], "closed", "{case}: {circuit}");
        assert_eq!(receiver.requests().len(), BEFORE + BACKLOG, "{case}: each once");
    }))
    .await;
}

/// So many events, one after the other, and their deliveries.
pub(crate) async fn hand_in(client: &Client, id: &str, count: usize) -> Vec<String> {
    let mut deliveries = Vec::new();
    for index in 0..count {
        deliveries.push(client.ingest(id, json!(index)).await);
    }
    deliveries
}

/// Waits for the failed probes, and says how many attempts failed in all: those that opened the
/// circuit, those in flight then, and after that probes alone, each after twice the last cool-down.
async fn failed_during_the_outage(client: &Client, id: &str, in_flight: usize, case: &str) -> usize {
    let last = COOL_DOWN * f64::from((1 << PROBES) - 1);
    let failed = eventually(&format!("{case}: {PROBES} failed probes"), || async {
        let mut log = failures(client, id).await;
        log.sort_by_key(|attempt| time(&attempt["attempted_at"]));
        let span = log.first().zip(log.last());
        let span = span.map_or(0.0, |(first, last)| {
            (time(&last["attempted_at"]) - time(&first["attempted_at"])).as_seconds_f64()
        });
        if span >= last { Ok(log) } else { Err(format!("{span} s of {last} s: {log:?}")) }
    })
    .await;
    let (opening, probes) = failed.split_at(failed.len() - PROBES);
    let most = THRESHOLD - 1 + in_flight;
    assert!((THRESHOLD..=most).contains(&opening.len()), "{case}: {} before it opened", opening.len());
    let mut ends: Vec<_> = opening.iter().map(ended).collect();
    ends.sort_unstable();
    let mut end = ends[THRESHOLD - 1];
    let mut least = COOL_DOWN;
    for probe in probes {
        let gap = (time(&probe["attempted_at"]) - end).as_seconds_f64();
        // The log's times are whole milliseconds.
        let on_time = gap >= least - 0.003 && gap <= 1.1 * least + SLACK;
        assert!(on_time, "{case}: a probe after {gap} s, not {least}: {failed:?}");
        (end, least) = (ended(probe), 2.0 * least);
    }
    failed.len()
}

/// The attempts that failed.
async fn failures(client: &Client, id: &str) -> Vec<Value> {
    let path = format!("/status/subscriptions/{id}/attempts?limit=100");
    let mut log = client.get(path).await.expect(200).json.as_array().unwrap().clone();
    log.retain(|attempt| attempt["outcome"] != "success");
    log
}

/// Nothing is lost, and what the outage cost is the attempts that failed and no more.
async fn check_drained(client: &Client, deliveries: &[String], failed: usize, case: &str) {
    let mut attempts = 0;
    for delivery in deliveries {
        let done = client.delivery_in(delivery, "success").await;
        attempts += usize::try_from(done["attempt_count"].as_i64().unwrap()).unwrap();
    }
    assert_eq!(attempts, deliveries.len() + failed, "{case}: attempts in all");
}

/// As handed in; requests that are on the way together may pass one another there.
fn check_in_order(received: &[Received], in_flight: usize, case: &str) {
    let sequences: Vec<_> = received.iter().map(|seen| usize::try_from(seen.sequence()).unwrap()).collect();
    for (place, sequence) in (BEFORE + 1..).zip(&sequences) {
        assert!(sequence.abs_diff(place) < in_flight, "{case}: {sequence} in place {place} of {sequences:?}");
    }
    assert!(open_at_once(received) <= in_flight, "{case}");
}

/// Each starts right after the one before it: what drains is held up by nothing.
fn check_without_a_pause(received: &[Received], case: &str) {
    for pair in received.windows(2) {
        let gap = pair[1].opened.saturating_duration_since(pair[0].opened).as_secs_f64();
        assert!(gap < SLACK, "{case}: a pause of {gap} s");
    }
}

/// At most what the limit allows in any window, and over all at least nine tenths of it.
fn check_full_rate(received: &[Received], case: &str) {
    check_rate(received, 50.0, 5.0);
    let span = (received.last().unwrap().opened - received[0].opened).as_secs_f64();
    let rate = f64::from(u32::try_from(received.len() - 1).unwrap()) / span;
    println!("{case}: {rate} requests a second");
    assert!(rate >= 45.0, "{case}: {rate} requests a second");
}
