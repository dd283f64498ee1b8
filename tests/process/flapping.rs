//! An endpoint that fails and recovers all the time: every retry comes when it should, nothing
//! overtakes, and its circuit stays closed.

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::outage::hand_in;
use crate::retries::time;
use crate::support::{Backend, Client, Posthorn, Received, Receiver, Reply, on_both_databases};

on_both_databases!(strict_keeps_to_the_schedule, none_keeps_to_the_schedule_of_each);

/// Before the first retry and before the second, in seconds.
const DELAYS: [f64; 2] = [0.15, 0.3];

/// Three failures in a row open the circuit, and then for longer than any test waits.
const SETTINGS: &[(&str, &str)] = &[
    ("INITIAL_RETRY_DELAY_SECONDS", "0.15"),
    ("MAX_RETRY_BACKOFF_SECONDS", "3600"),
    ("POSTHORN_CIRCUIT_FAILURE_THRESHOLD", "3"),
    ("POSTHORN_CIRCUIT_COOL_DOWN_SECONDS", "3600"),
];

async fn strict_keeps_to_the_schedule(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, SETTINGS).await;
    let client = posthorn.client();
    let cases: [(&str, &'static [u16], &[i64]); 4] = [
        ("every second fails", &[200, 500], &[1, 2, 2, 2, 2, 2, 2, 2]),
        ("every second fails, the first too", &[500, 200], &[2; 8]),
        ("two fail, then one succeeds", &[500, 503, 200], &[3; 8]),
        ("two fail, then two succeed", &[500, 500, 200, 200], &[3, 1, 3, 1, 3, 1, 3, 1]),
    ];
    join_all(cases.map(async |(case, answers, attempts)| {
        let receiver =
            Receiver::start(move |request| Reply::status(answers[request.index % answers.len()])).await;
        let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
        let deliveries = hand_in(client, &id, attempts.len()).await;
        client.delivery_in(deliveries.last().unwrap(), "success").await;
        let received = receiver.requests();
        let seen: Vec<_> = received.iter().map(|seen| (seen.sequence(), seen.attempt())).collect();
        let expected =
            (1..).zip(attempts).flat_map(|(sequence, count)| (1..=*count).map(move |k| (sequence, k)));
        assert_eq!(seen, expected.collect::<Vec<_>>(), "{case}: one delivery after the other");
        for delivery in &deliveries {
            check_attempts(client, delivery, &received, case).await;
        }
        check_never_opened(client, &id, case).await;
    }))
    .await;
}

/// Three of each four at once fail twice; the others, between them, break up the failures in a row.
async fn none_keeps_to_the_schedule_of_each(backend: Backend) {
    let settings = [SETTINGS, &[("POSTHORN_CIRCUIT_FAILURE_THRESHOLD", "1000")]].concat();
    let posthorn = Posthorn::start_with(backend, &settings).await;
    let client = posthorn.client();
    let fails = |request: &Received| request.sequence() % 4 != 0 && request.attempt() <= 2;
    let receiver =
        Receiver::start(move |request| Reply::status(if fails(request) { 500 } else { 200 })).await;
    let fields = json!({"ordering": "none", "max_in_flight": 4});
    let id = client.subscribe(&receiver.url("/"), fields).await.id;
    let deliveries = join_all((0..40).map(|index| client.ingest(&id, json!(index)))).await;
    for delivery in &deliveries {
        let done = client.delivery_in(delivery, "success").await;
        let failures = if done["sequence"].as_i64().unwrap() % 4 == 0 { 0 } else { 2 };
        assert_eq!(done["attempt_count"], failures + 1, "{done}");
    }
    let received = receiver.requests();
    assert_eq!(received.len(), 10 + 30 * 3);
    let first_sights: Vec<_> =
        received.iter().filter(|seen| seen.attempt() == 1).map(Received::sequence).collect();
    let furthest = first_sights.iter().zip(1..).map(|(sequence, place)| (sequence - place).abs()).max();
    // Four requests on the way at once may pass one another there, and nothing else may.
    assert!(furthest <= Some(4), "a retry holds up no first attempt: {first_sights:?}");
    for delivery in &deliveries {
        check_attempts(client, delivery, &received, "none").await;
    }
    check_never_opened(client, &id, "none").await;
}

/// Of one delivery: as many attempts as were counted, logged and received, each at its time (I10, I11).
async fn check_attempts(client: &Client, delivery: &str, received: &[Received], case: &str) {
    let counted = client.delivery(delivery).await["attempt_count"].clone();
    let attempts = client.attempts(delivery).await;
    let received: Vec<_> = received.iter().filter(|seen| seen.delivery_id() == delivery).collect();
    assert_eq!((counted, attempts.len()), (json!(received.len()), received.len()), "{case}: {attempts:?}");
    for (index, pair) in attempts.windows(2).enumerate() {
        // As the log tells, and as the receiver saw: the answer's way only makes that longer.
        let logged = (time(&pair[1]["attempted_at"]) - ended(&pair[0])).as_seconds_f64();
        let seen = (received[index + 1].opened - received[index].closed.unwrap()).as_secs_f64();
        let delay = DELAYS[index];
        for gap in [logged, seen] {
            // The log's times are whole milliseconds, of which there are three.
            let on_time = gap >= 0.8 * delay - 0.003 && gap <= 1.2 * delay + 1.0;
            assert!(on_time, "{case}: retry {} after {gap} s, not {delay}: {attempts:?}", index + 1);
        }
    }
}

/// An open circuit would have held everything until the test's end; nor did it come near.
async fn check_never_opened(client: &Client, id: &str, case: &str) {
    let circuit = client.subscription(id).await["circuit"].clone();
    let closed = json!({"state": "closed", "consecutive_failures": 0, "retry_at": null});
    assert_eq!(circuit, closed, "{case}");
}

/// When the attempt ended, by the log.
pub(crate) fn ended(attempt: &Value) -> DateTime<Utc> {
    time(&attempt["attempted_at"]) + TimeDelta::milliseconds(attempt["duration_ms"].as_i64().unwrap())
}
