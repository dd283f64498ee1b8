//! Retries: when they come, what counts as a failure, and what an attempt leaves in the log.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::reply::Ending;
use crate::support::server::FAST;
use crate::support::{Backend, Client, Gate, Posthorn, Received, Receiver, Reply, on_both_databases};

on_both_databases!(
    retries_follow_the_schedule,
    retry_after_is_kept_to,
    failures_of_every_kind_are_recorded,
    head_decides_for_success,
    redirects_are_not_followed,
    gone_disables,
    timeouts_end_the_request,
    due_times_outlive_a_crash,
    what_is_left_out_follows_the_configuration,
);

/// I11: at least 0.8 and at most 1.2 times the delay, and a second for a busy machine.
async fn retries_follow_the_schedule(backend: Backend) {
    let settings = [("INITIAL_RETRY_DELAY_SECONDS", "0.2"), ("MAX_RETRY_BACKOFF_SECONDS", "0.5")];
    let posthorn = Posthorn::start_with(backend, &settings).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(500)).await;
    let id = client.subscribe(&receiver.url("/"), json!({"retry": {"max_retries": 4}})).await.id;
    let delivery = client.ingest(&id, json!(1)).await;
    let ended = client.delivery_in(&delivery, "failed").await;
    assert_eq!((&ended["attempt_count"], &ended["next_attempt_at"]), (&json!(5), &json!(null)));
    let received = receiver.requests();
    assert_eq!(received.len(), 5, "the first and four retries");
    for (index, delay) in [0.2, 0.4, 0.5, 0.5].into_iter().enumerate() {
        let gap = received[index + 1].opened - received[index].closed.unwrap();
        // What the receiver measures includes the answer's way, which only makes it longer.
        let (least, most) =
            (Duration::from_secs_f64(0.79 * delay), Duration::from_secs_f64(1.2 * delay + 1.0));
        assert!(gap >= least && gap <= most, "retry {} after {gap:?}, not {least:?} to {most:?}", index + 1);
    }
}

async fn retry_after_is_kept_to(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let date = http_date(Duration::from_secs(3));
    let cases = [
        ("429 in seconds", 429, "1", 1.0..3.0),
        ("503 in seconds", 503, "1", 1.0..3.0),
        // A date has no fractions of a second.
        ("429 with a date", 429, date.as_str(), 0.8..5.0),
        ("zero is shorter than the delay", 429, "0", 0.015..1.0),
        ("a past date", 503, "Wed, 21 Oct 2015 07:28:00 GMT", 0.015..1.0),
        ("no number", 429, "soon", 0.015..1.0),
        ("negative", 429, "-1", 0.015..1.0),
        ("a list", 429, "5, 6", 0.015..1.0),
        ("500 has no say", 500, "5", 0.015..1.0),
    ];
    join_all(cases.map(async |(case, status, value, gap)| {
        let receiver = Receiver::script([Reply::header(status, "Retry-After", value)]).await;
        let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
        client.ingest(&id, json!(1)).await;
        let received = receiver.ended(2).await;
        let waited = (received[1].opened - received[0].closed.unwrap()).as_secs_f64();
        assert!(gap.contains(&waited), "{case}: waited {waited} s, not {gap:?}");
    }))
    .await;

    let receiver = Receiver::script([Reply::header(429, "Retry-After", "99999999999")]).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    let delivery = client.ingest(&id, json!(1)).await;
    let waiting = client.delivery_in(&delivery, "failed_attempt").await;
    let wait = time(&waiting["next_attempt_at"]) - chrono::Utc::now();
    let day = chrono::TimeDelta::hours(24);
    assert!(wait <= day && wait > day - chrono::TimeDelta::minutes(1), "at most a day: {waiting}");
}

async fn failures_of_every_kind_are_recorded(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let raw = |bytes: &[u8]| Reply::raw(bytes, Ending::Close);
    let long = format!("HTTP/1.1 500 {}\r\ncontent-length: 0\r\n\r\n", "r".repeat(2000));
    let mut cases = vec![
        ("refused".to_owned(), None, Value::Null),
        ("reset".to_owned(), Some(Reply::reset()), Value::Null),
        ("closed without an answer".to_owned(), Some(raw(b"")), Value::Null),
        ("no HTTP".to_owned(), Some(raw(b"220 smtp ready\r\n\r\n")), Value::Null),
        ("half a head".to_owned(), Some(raw(b"HTTP/1.1 200 OK\r\ncontent-")), Value::Null),
        ("a long reason".to_owned(), Some(raw(long.as_bytes())), json!(500)),
    ];
    for status in [300, 304, 307, 400, 401, 404, 408, 418, 429, 500, 502, 503, 504, 599] {
        cases.push((format!("status {status}"), Some(Reply::status(status)), json!(status)));
    }
    join_all(cases.into_iter().map(async |(case, reply, status_code)| {
        let receiver = Receiver::always(reply.clone().unwrap_or(Reply::status(200))).await;
        let url = if reply.is_some() { receiver.url("/") } else { format!("http://{nobody}/") };
        let id = client.subscribe(&url, json!({"retry": {"max_retries": 1}})).await.id;
        let delivery = client.ingest(&id, json!(1)).await;
        let ended = client.delivery_in(&delivery, "failed").await;
        let attempts = client.attempts(&delivery).await;
        let outcomes: Vec<_> = attempts.iter().map(|attempt| attempt["outcome"].as_str().unwrap()).collect();
        assert_eq!(outcomes, ["failed_attempt", "failed"], "{case}: {attempts:?}");
        for (attempt, number) in attempts.iter().zip([1, 2]) {
            assert_eq!(attempt["attempt_number"], number, "{case}");
            assert_eq!(attempt["status_code"], status_code, "{case}: {attempt}");
            assert!(
                attempt["error_message"].as_str().is_some_and(|text| !text.is_empty()),
                "{case}: {attempt}"
            );
            assert!(
                attempt["duration_ms"].as_i64().is_some_and(|duration| duration >= 0),
                "{case}: {attempt}"
            );
        }
        assert_eq!(ended["error"], attempts[1]["error_message"], "{case}: {ended}");
        assert!(ended["completed_at"].is_string(), "{case}: {ended}");
    }))
    .await;
}

/// A 2xx head is success, whatever the body does; of the body 4 KiB are kept, as text.
async fn head_decides_for_success(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\nbegun";
    let unended = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegun\r\n";
    let cases = [
        ("stalls", Reply::raw(head, Ending::Stall), 200, Some("begun")),
        ("is cut off", Reply::raw(head, Ending::Close), 200, None),
        ("is reset", Reply::raw(head, Ending::Reset), 200, None),
        ("a chunk missing", Reply::raw(unended, Ending::Stall), 200, Some("begun")),
        ("has no length", Reply::raw(b"HTTP/1.0 200 OK\r\n\r\nwhole", Ending::Close), 200, Some("whole")),
        (
            "1xx before",
            Reply::raw(
                b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 202 OK\r\ncontent-length: 0\r\n\r\n",
                Ending::Close,
            ),
            202,
            None,
        ),
        ("204", Reply::status(204), 204, None),
        ("299", Reply::body(299, b"fine"), 299, Some("fine")),
        ("a NUL and no UTF-8", Reply::body(200, b"a\0b\xffc\x1b[31m"), 200, None),
        ("long", Reply::body(200, &[b'x'; 10_000]), 200, Some(LONG)),
        ("longer than is read", Reply::body(200, &vec![b'x'; 200_000]), 200, Some(LONG)),
        (
            "compressed",
            Reply::raw(
                b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n\x1f\x8b",
                Ending::Close,
            ),
            200,
            None,
        ),
    ];
    join_all(cases.map(async |(case, reply, status, body)| {
        let receiver = Receiver::always(reply).await;
        let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
        let started = Instant::now();
        let delivery = client.ingest(&id, json!(1)).await;
        let ended = client.delivery_in(&delivery, "success").await;
        assert!(started.elapsed() < Duration::from_secs(6), "{case}: took {:?}", started.elapsed());
        assert_eq!(ended["attempt_count"], 1, "{case}: {ended}");
        let attempt = client.attempts(&delivery).await.remove(0);
        assert_eq!(
            (&attempt["outcome"], &attempt["status_code"]),
            (&json!("success"), &json!(status)),
            "{case}"
        );
        if let Some(body) = body {
            assert_eq!(attempt["response_body"], body, "{case}");
        }
    }))
    .await;
}

/// 4 KiB.
/// What is kept of an answer of many `x`: 4 KiB, with the mark at its end that there was more.
const KEPT: [u8; 4096] = {
    let mut kept = [b'x'; 4096];
    [kept[4093], kept[4094], kept[4095]] = [0xe2, 0x80, 0xa6];
    kept
};
const LONG: &str = match std::str::from_utf8(&KEPT) {
    Ok(text) => text,
    Err(_) => unreachable!(),
};

async fn redirects_are_not_followed(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let elsewhere = Receiver::always(Reply::status(200)).await;
    let away = elsewhere.url("/");
    let replies = [301, 302, 303, 307, 308].map(|status| Reply::header(status, "Location", &away));
    let receiver = Receiver::script(replies).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    let delivery = client.ingest(&id, json!(1)).await;
    client.delivery_in(&delivery, "success").await;
    let codes: Vec<_> =
        client.attempts(&delivery).await.iter().map(|attempt| attempt["status_code"].clone()).collect();
    assert_eq!(codes, [301, 302, 303, 307, 308, 200].map(|code| json!(code)));
    assert_eq!(elsewhere.connections(), 0, "nothing goes elsewhere");
}

async fn gone_disables(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let gate = Gate::shut();
    let receiver = Receiver::script([Reply::status(410).behind(&gate)]).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    let first = client.ingest(&id, json!(1)).await;
    let second = client.ingest(&id, json!(2)).await;
    gate.open();
    let ended = client.delivery_in(&first, "failed").await;
    assert_eq!(ended["attempt_count"], 1, "410 is final: {ended}");
    let shown = client.subscription_once(&id, "disabled", |shown| shown["status"] == "disabled").await;
    assert_eq!(shown["status_reason"], "gone", "{shown}");
    client.post_json(format!("/ingest/{id}"), json!(3)).await.expect(409);
    let held = client.delivery(&second).await;
    assert_eq!(
        (&held["status"], &held["waiting_for"]["reason"]),
        (&json!("pending"), &json!("disabled")),
        "{held}"
    );

    let enabled = client.post(format!("/subscriptions/{id}/enable")).await.expect(200).json;
    assert_eq!((&enabled["status"], &enabled["status_reason"]), (&json!("active"), &json!(null)));
    client.delivery_in(&second, "success").await;
    client.ingest(&id, json!(4)).await;
    let sequences: Vec<_> = receiver.ended(3).await.iter().map(Received::sequence).collect();
    assert_eq!(sequences, [1, 2, 3]);
}

async fn timeouts_end_the_request(backend: Backend) {
    let posthorn =
        Posthorn::start_with(backend, &[("WEBHOOK_DELIVERY_TIMEOUT_SECONDS", "0.4"), FAST[0]]).await;
    let client = posthorn.client();
    let half = Reply::raw(b"HTTP/1.1 200 OK\r\nx-slow: ", Ending::Stall);
    let cases = [
        ("silent", Reply::stall(), json!({}), 400),
        ("half a head", half, json!({}), 400),
        ("its own time-out", Reply::stall(), json!({"timeout_seconds": 1.1}), 1100),
    ];
    join_all(cases.map(async |(case, reply, fields, timeout_ms)| {
        let receiver = Receiver::script([reply]).await;
        let id = client.subscribe(&receiver.url("/"), fields).await.id;
        let delivery = client.ingest(&id, json!(1)).await;
        client.delivery_in(&delivery, "success").await;
        let attempt = client.attempts(&delivery).await.remove(0);
        let took = attempt["duration_ms"].as_i64().unwrap();
        assert!((timeout_ms - 20..timeout_ms + 500).contains(&took), "{case}: {attempt}");
        assert_eq!(
            (&attempt["outcome"], &attempt["status_code"]),
            (&json!("failed_attempt"), &json!(null)),
            "{case}"
        );
        let message = attempt["error_message"].as_str().unwrap();
        assert!(message.contains("time"), "{case}: {message}");
    }))
    .await;
}

/// The retry time is kept over a crash, not started anew nor forgotten.
async fn due_times_outlive_a_crash(backend: Backend) {
    let mut posthorn = Posthorn::start_with(backend, &[("INITIAL_RETRY_DELAY_SECONDS", "3")]).await;
    let receiver = Receiver::script([Reply::status(500)]).await;
    let client: Client = posthorn.client().clone();
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    let delivery = client.ingest(&id, json!(1)).await;
    let before = client.delivery_in(&delivery, "failed_attempt").await;
    posthorn.kill().await;
    posthorn.start_again().await;
    let after = posthorn.client().delivery(&delivery).await;
    assert_eq!(after["next_attempt_at"], before["next_attempt_at"]);
    let received = receiver.ended(2).await;
    let gap = received[1].opened - received[0].closed.unwrap();
    assert!(gap > Duration::from_millis(2350) && gap < Duration::from_millis(5600), "{gap:?}");
    assert_eq!(received[1].attempt(), 2);
}

async fn what_is_left_out_follows_the_configuration(backend: Backend) {
    let mut posthorn = Posthorn::start_with(backend, &[&[("WEBHOOK_MAX_RETRIES", "2")], FAST].concat()).await;
    let receiver = Receiver::always(Reply::status(500)).await;
    let plain = posthorn.client().subscribe(&receiver.url("/"), json!({})).await.id;
    let own = posthorn.client().subscribe(&receiver.url("/"), json!({"retry": {"max_retries": 3}})).await.id;
    check_attempts(posthorn.client(), &plain, 3).await;
    posthorn.restart_with(&[("WEBHOOK_MAX_RETRIES", "0")]).await;
    check_attempts(posthorn.client(), &plain, 1).await;
    check_attempts(posthorn.client(), &own, 4).await;
}

async fn check_attempts(client: &Client, id: &str, attempts: i64) {
    let delivery = client.ingest(id, json!(1)).await;
    let ended = client.delivery_in(&delivery, "failed").await;
    assert_eq!(ended["attempt_count"], attempts, "{ended}");
}

/// The moment that lies so far ahead, as a header tells it (RFC 9110 §5.6.7): whole seconds.
pub(crate) fn http_date(ahead: Duration) -> String {
    (chrono::Utc::now() + ahead).format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// A time of the contract.
pub(crate) fn time(value: &Value) -> chrono::DateTime<chrono::Utc> {
    let text = value.as_str().unwrap_or_else(|| panic!("{value} is no time"));
    text.parse().unwrap_or_else(|_| panic!("{value} is no time"))
}
