//! An endpoint that asks for a pause with `Retry-After`: it gets it, and nobody else waits for it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::outage::hand_in;
use crate::retries::{http_date, time};
use crate::support::server::FAST;
use crate::support::{Backend, Posthorn, Received, Receiver, Reply, on_both_databases};

on_both_databases!(
    the_longer_wait_holds,
    strict_waits_behind_it,
    none_and_other_keys_go_on,
    it_counts_as_any_failure,
    a_probe_waits_for_it_too,
);

/// The policy's delay is 1.5 s: a shorter `Retry-After` is ignored, a longer one kept to.
async fn the_longer_wait_holds(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[("INITIAL_RETRY_DELAY_SECONDS", "1.5")]).await;
    let client = posthorn.client();
    let date = |seconds| http_date(Duration::from_secs(seconds));
    let cases = [
        ("429, a second", 429, "1".to_owned(), 1.19..2.8),
        ("503, none", 503, "0".to_owned(), 1.19..2.8),
        ("429, three seconds", 429, "3".to_owned(), 2.99..4.5),
        ("503, three seconds", 503, "3".to_owned(), 2.99..4.5),
        // A date has no fractions of a second, and it was made before the request came.
        ("429, a date", 429, date(5), 3.0..6.5),
        ("503, a date", 503, date(5), 3.0..6.5),
        ("503, a date within the delay", 503, date(1), 1.19..2.8),
        ("503, a past date", 503, "Wed, 21 Oct 2015 07:28:00 GMT".to_owned(), 1.19..2.8),
    ];
    join_all(cases.map(async |(case, status, value, range)| {
        let receiver = Receiver::script([Reply::header(status, "Retry-After", &value)]).await;
        let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
        let delivery = client.ingest(&id, json!(1)).await;
        let waiting = client.delivery_in(&delivery, "failed_attempt").await;
        client.delivery_in(&delivery, "success").await;
        let received = receiver.requests();
        let waited = (received[1].opened - received[0].closed.unwrap()).as_secs_f64();
        // The jitter is drawn once: what was told is what was done.
        let told =
            (time(&waiting["next_attempt_at"]) - DateTime::<Utc>::from(received[0].arrived)).as_seconds_f64();
        for seconds in [waited, told] {
            assert!(range.contains(&seconds), "{case}: {seconds} s, not {range:?}: {waiting}");
        }
        assert_eq!(received.len(), 2, "{case}");
    }))
    .await;
}

async fn strict_waits_behind_it(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let receiver = Receiver::script([Reply::status(200), Reply::header(429, "Retry-After", "2")]).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    hand_in(client, &id, 5).await;
    let received = receiver.ended(6).await;
    let seen: Vec<_> = received.iter().map(|seen| (seen.sequence(), seen.attempt())).collect();
    assert_eq!(seen, [(1, 1), (2, 1), (2, 2), (3, 1), (4, 1), (5, 1)]);
    let gap = (received[2].opened - received[1].closed.unwrap()).as_secs_f64();
    assert!((2.0..3.5).contains(&gap), "after {gap} s");
}

/// What shares no line with the one that waits goes on: all of `none`, and of `key` the other keys.
async fn none_and_other_keys_go_on(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    for (ordering, held) in [("none", &["asks"][..]), ("key", &["asks", "behind it"])] {
        let receiver =
            Receiver::start(|request: &Received| match (request.body.as_slice(), request.attempt()) {
                (b"\"asks\"", 1) => Reply::header(429, "Retry-After", "3"),
                _ => Reply::status(200),
            })
            .await;
        let fields = json!({"ordering": ordering, "max_in_flight": 2});
        let id = client.subscribe(&receiver.url("/"), fields).await.id;
        let asks = client.ingest_keyed(&id, "a", json!("asks")).await;
        client.delivery_in(&asks, "failed_attempt").await;
        let mut others = vec![client.ingest_keyed(&id, "a", json!("behind it")).await];
        for index in 0..10 {
            others.push(client.ingest_keyed(&id, "b", json!(index)).await);
        }
        for delivery in &others[1..] {
            client.delivery_in(delivery, "success").await;
        }
        let received = receiver.requests();
        let took = received.last().unwrap().opened - received[0].closed.unwrap();
        assert!(took < Duration::from_secs(3), "{ordering}: others waited {took:?}");
        client.delivery_in(&others[0], "success").await;
        client.delivery_in(&asks, "success").await;
        let mut received = receiver.requests();
        let asked = received[0].closed.unwrap();
        received.retain(|seen| seen.opened > asked + Duration::from_millis(2900));
        let late: Vec<_> =
            received.iter().map(|seen| String::from_utf8_lossy(&seen.body).replace('"', "")).collect();
        assert_eq!(late, held, "{ordering}");
    }
}

/// Failures in a row open the circuit, whatever they ask for; each uses up a retry.
async fn it_counts_as_any_failure(backend: Backend) {
    let settings = [
        ("INITIAL_RETRY_DELAY_SECONDS", "0.01"),
        ("MAX_RETRY_BACKOFF_SECONDS", "3600"),
        ("POSTHORN_CIRCUIT_FAILURE_THRESHOLD", "3"),
        ("POSTHORN_CIRCUIT_COOL_DOWN_SECONDS", "3600"),
    ];
    let posthorn = Posthorn::start_with(backend, &settings).await;
    let client = posthorn.client();
    for (max_retries, state, failures) in [(5, "open", 3), (2, "open", 3), (1, "closed", 2)] {
        let replies = [(429, "0"), (503, "0"), (429, "0")];
        let receiver =
            Receiver::script(replies.map(|(status, value)| Reply::header(status, "Retry-After", value)))
                .await;
        let retry = json!({"max_retries": max_retries});
        let id = client.subscribe(&receiver.url("/"), json!({"retry": retry})).await.id;
        let delivery = client.ingest(&id, json!(1)).await;
        let tried = |delivery: &Value| delivery["attempt_count"] == failures;
        let delivery = client.delivery_once(&delivery, "tried so often", tried).await;
        let circuit = client.subscription(&id).await["circuit"].clone();
        let seen = (circuit["state"].as_str().unwrap(), circuit["consecutive_failures"].as_i64().unwrap());
        assert_eq!(seen, (state, failures), "{max_retries} retries: {circuit}");
        let ended = if failures > max_retries { "failed" } else { "failed_attempt" };
        assert_eq!(delivery["status"], ended, "{max_retries} retries");
        assert_eq!(receiver.requests().len(), usize::try_from(failures).unwrap());
    }
}

/// The later of the two times: the circuit's, and the one that was asked for.
async fn a_probe_waits_for_it_too(backend: Backend) {
    let settings = [
        ("INITIAL_RETRY_DELAY_SECONDS", "0.01"),
        ("MAX_RETRY_BACKOFF_SECONDS", "60"),
        ("POSTHORN_CIRCUIT_FAILURE_THRESHOLD", "1"),
        ("POSTHORN_CIRCUIT_COOL_DOWN_SECONDS", "1"),
    ];
    let posthorn = Posthorn::start_with(backend, &settings).await;
    let client = posthorn.client();
    join_all([("0", 1.0..2.6), ("3", 3.0..4.6)].map(async |(asked, range)| {
        let receiver = Receiver::script([Reply::header(503, "Retry-After", asked)]).await;
        let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
        let first = client.ingest(&id, json!(1)).await;
        let second = client.ingest(&id, json!(2)).await;
        client.delivery_in(&second, "success").await;
        let received = receiver.requests();
        let gap = (received[1].opened - received[0].closed.unwrap()).as_secs_f64();
        assert!(range.contains(&gap), "asked for {asked} s: after {gap} s, not {range:?}");
        let seen: Vec<_> = received.iter().map(|seen| (seen.delivery_id(), seen.attempt())).collect();
        assert_eq!(seen, [(first.as_str(), 1), (first.as_str(), 2), (second.as_str(), 1)]);
    }))
    .await;
}
