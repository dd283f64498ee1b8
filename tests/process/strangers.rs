//! Strangers at ingest: who neither has a key nor proves a signature learns nothing of any subscription, by no
//! answer and by no delay.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use crate::support::server::ADMIN_KEY;
use crate::support::signature::sha256_signature;
use crate::support::{Answer, Backend, Client, Posthorn, on_both_databases};

on_both_databases!(
    unsigned_events_are_refused_unread,
    what_is_not_proved_is_one_answer,
    delays_tell_nothing_of_what_exists,
);

const ADMIN: (&str, &str) = (ADMIN_KEY, "an-admin-key-of-some-length-0123456789");
const BYTES_MAX: usize = 65_536;
const SIGNATURE: &str = "x-webhook-signature-256";
/// Nothing listens there.
const TARGET: &str = "http://127.0.0.1:9/hook";

/// Ids that a stranger may try.
struct Ids {
    guarded: String,
    all: Vec<(&'static str, String)>,
}

async fn started(backend: Backend) -> (Posthorn, Ids) {
    let limit = BYTES_MAX.to_string();
    let posthorn = Posthorn::start_with(backend, &[ADMIN, ("POSTHORN_MAX_PAYLOAD_BYTES", &limit)]).await;
    let admin = posthorn.client();
    let make = async |fields| admin.subscribe(TARGET, fields).await.id;
    let guarded = make(json!({"secret_key": "a secret"})).await;
    let of_another = make(json!({"secret_key": "another secret", "tenant": "globex"})).await;
    let unguarded = make(json!({})).await;
    let deleted = make(json!({"secret_key": "a secret"})).await;
    admin.delete(format!("/subscriptions/{deleted}")).await.expect(204);
    let all = vec![
        ("guarded", guarded.clone()),
        ("another tenant's", of_another),
        ("unguarded", unguarded),
        ("deleted", deleted),
        ("nobody's", "019a2f6e-6d3c-7b1e-9c54-2f1d7a80c6b1".to_owned()),
    ];
    (posthorn, Ids { guarded, all })
}

type Header = (&'static str, &'static str);

/// What a stranger sends, but for the signature: its name, its head, its body.
fn requests() -> Vec<(&'static str, Vec<Header>, Vec<u8>)> {
    let json = ("content-type", "application/json");
    vec![
        ("an event", vec![json], b"1".to_vec()),
        ("no JSON", vec![json], b"{".to_vec()),
        ("nothing", vec![json], Vec::new()),
        ("too much", vec![json], vec![b'1'; BYTES_MAX + 1]),
        ("another type", vec![("content-type", "text/plain")], b"1".to_vec()),
        ("no type", vec![], b"1".to_vec()),
        ("compressed", vec![json, ("content-encoding", "gzip")], b"1".to_vec()),
        ("a bad key", vec![json, ("idempotency-key", "")], b"1".to_vec()),
        ("a wrong API key", vec![json, ("authorization", "Bearer posthorn_wrong")], b"1".to_vec()),
    ]
}

async fn send(client: &Client, id: &str, head: &[(&str, &str)], body: &[u8]) -> Answer {
    // What is refused unread ends the connection, so the next request takes another.
    let call = client.call(Method::POST, format!("/ingest/{id}")).untyped(body).header("connection", "close");
    head.iter().fold(call, |call, (name, value)| call.header(name, value)).send().await
}

/// Status, headers but the date, and body.
fn seen(answer: &Answer) -> String {
    let mut headers = answer.headers.clone();
    headers.remove("date");
    format!("{} {headers:?} {}", answer.status, String::from_utf8_lossy(&answer.body))
}

async fn unsigned_events_are_refused_unread(backend: Backend) {
    let (posthorn, ids) = started(backend).await;
    let stranger = posthorn.client().with_key(None);
    let mut answers = Vec::new();
    for (_, id) in &ids.all {
        for (case, head, body) in requests() {
            let answer = send(&stranger, id, &head, &body).await;
            assert_eq!(answer.status, 401, "{case}: {}", answer.json);
            answers.push(seen(&answer));
        }
        // The body is waited for by nobody.
        let head = format!("POST /ingest/{id} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
        for rest in [
            "content-type: application/json\r\ncontent-length: 1\r\nexpect: 100-continue\r\n\r\n",
            "content-type: application/json\r\ncontent-length: 9999999999\r\nexpect: 100-continue\r\n\r\n",
            "content-length: 1\r\n\r\n",
        ] {
            let answer = stranger.raw(format!("{head}{rest}").as_bytes()).await;
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.starts_with("HTTP/1.1 401 "), "{rest}: {answer}");
        }
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
}

async fn what_is_not_proved_is_one_answer(backend: Backend) {
    let (posthorn, ids) = started(backend).await;
    let stranger = posthorn.client().with_key(None);
    let wrong = sha256_signature("no secret of anybody", b"1");
    let signatures: [&[&str]; 4] = [&[&wrong], &["sha256=short"], &[""], &[&wrong, &wrong]];
    for signatures in signatures {
        for (case, head, body) in requests() {
            let signed = signatures.iter().map(|signature| (SIGNATURE, *signature));
            let head: Vec<_> = head.iter().copied().chain(signed).collect();
            let expected = match case {
                "too much" => 413,
                "another type" | "no type" | "compressed" => 415,
                _ => 401,
            };
            let mut answers = Vec::new();
            // Each twice: then more of them are at hand.
            for (whose, id) in ids.all.iter().chain(&ids.all) {
                let answer = send(&stranger, id, &head, &body).await;
                assert_eq!(answer.status, expected, "{case}, {whose}: {}", answer.json);
                answers.push(seen(&answer));
            }
            assert!(answers.iter().all(|answer| *answer == answers[0]), "{case}: {answers:#?}");
        }
    }
    for (whose, id) in &ids.all {
        for (length, statuses) in [(1, &["100", "401"][..]), (BYTES_MAX + 1, &["413"])] {
            let request = format!(
                "POST /ingest/{id} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                 content-type: application/json\r\n{SIGNATURE}: {wrong}\r\nexpect: 100-continue\r\n\
                 content-length: {length}\r\n\r\n1"
            );
            let answer = stranger.raw(request.as_bytes()).await;
            let answer = String::from_utf8_lossy(&answer);
            let found: Vec<_> =
                answer.lines().filter_map(|line| line.strip_prefix("HTTP/1.1 ")?.split(' ').next()).collect();
            assert_eq!(found, statuses, "{whose}: {answer}");
        }
    }
    // Who proves it is told what is wrong.
    let right = |body: &[u8]| sha256_signature("a secret", body);
    for (body, status) in [(&b"1"[..], 202), (b"{", 400)] {
        let head = [("content-type", "application/json"), (SIGNATURE, &right(body))];
        send(&stranger, &ids.guarded, &head, body).await.expect(status);
    }
}

/// The longer the body, the longer a signature takes that is computed for some of them alone.
async fn delays_tell_nothing_of_what_exists(backend: Backend) {
    let (posthorn, ids) = started(backend).await;
    let stranger = posthorn.client().with_key(None);
    let body = format!("\"{}\"", "x".repeat(BYTES_MAX - 2)).into_bytes();
    let wrong = sha256_signature("no secret of anybody", b"1");
    let head = [("content-type", "application/json"), (SIGNATURE, &*wrong)];
    let mut delays: Vec<Vec<Duration>> = vec![Vec::new(); ids.all.len()];
    // In turns, so that whatever else the machine does falls on all.
    for _ in 0..31 {
        for ((_, id), delays) in ids.all.iter().zip(&mut delays) {
            let began = Instant::now();
            send(&stranger, id, &head, &body).await.expect(401);
            delays.push(began.elapsed());
        }
    }
    let medians: Vec<_> = ids
        .all
        .iter()
        .zip(&mut delays)
        .map(|((whose, _), delays)| {
            delays.sort_unstable();
            (*whose, delays[delays.len() / 2])
        })
        .collect();
    let (least, most) = (
        medians.iter().map(|(_, median)| *median).min().unwrap(),
        medians.iter().map(|(_, median)| *median).max().unwrap(),
    );
    assert!(most < least * 3 / 2, "{medians:?}");
}
