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

/// What is handed in before the outage.
const BEFORE: usize = 3;

/// What is handed in while the outage lasts: to an endpoint without a limit, and to one with.
const BACKLOG: usize = 200;
const LIMITED_BACKLOG: usize = 60;

/// A limit far below what the slowest lane reaches, one strict delivery after another with a commit
/// between them in an unoptimised build on a busy machine: it is the limit that is measured.
const REQUESTS_PER_SECOND: f64 = 10.0;
const BURST: u32 = 5;

/// Two seconds where nothing else runs; an unoptimised build on a busy machine needs more.
const DRAINED_WITHIN: Duration = Duration::from_secs(20);

/// For a machine that is busy with other tests.
const SLACK: f64 = 0.5;

async fn an_outage_costs_only_probes_and_the_backlog_follows(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, SETTINGS).await;
    let client = posthorn.client();
    let rate_limit = json!({"requests_per_second": REQUESTS_PER_SECOND, "burst": BURST});
    let cases = [
        ("strict", 1, json!({})),
        ("none", 8, json!({"ordering": "none", "max_in_flight": 8})),
        ("strict, limited", 1, json!({"rate_limit": rate_limit})),
        ("none, limited", 8, json!({"ordering": "none", "max_in_flight": 8, "rate_limit": rate_limit})),
    ];
    join_all(cases.map(async |(case, in_flight, fields)| {
        let mut receiver = Receiver::always(Reply::status(200)).await;
        let limited = !fields["rate_limit"].is_null();
        let backlog = if limited { LIMITED_BACKLOG } else { BACKLOG };
        let id = client.subscribe(&receiver.url("/"), fields).await.id;
        let mut deliveries = hand_in(client, &id, BEFORE).await;
        client.delivery_in(&deliveries[BEFORE - 1], "success").await;
        receiver.ended(BEFORE).await;

        receiver.go_away().await;
        deliveries.extend(hand_in(client, &id, backlog).await);
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
        let received = receiver.ended(BEFORE + backlog).await.split_off(BEFORE);
        let took = received.iter().filter_map(|seen| seen.closed).max().unwrap() - opened;
        println!("{case}: {backlog} deliveries within {took:?} of the probe's answer");
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
        assert_eq!(receiver.requests().len(), BEFORE + backlog, "{case}: each once");
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

/// All of them, and as handed in where each waits for the one before it; requests that are on the way
/// together pass one another as they like.
fn check_in_order(received: &[Received], in_flight: usize, case: &str) {
    let mut sequences: Vec<_> =
        received.iter().map(|seen| usize::try_from(seen.sequence()).unwrap()).collect();
    if in_flight > 1 {
        sequences.sort_unstable();
    }
    let expected: Vec<_> = (BEFORE + 1..).take(received.len()).collect();
    assert_eq!(sequences, expected, "{case}");
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
    check_rate(received, REQUESTS_PER_SECOND, f64::from(BURST));
    let span = (received.last().unwrap().opened - received[0].opened).as_secs_f64();
    let rate = f64::from(u32::try_from(received.len() - 1).unwrap()) / span;
    println!("{case}: {rate} requests a second");
    assert!(rate >= 0.9 * REQUESTS_PER_SECOND, "{case}: {rate} requests a second");
}
