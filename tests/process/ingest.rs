//! Ingest: what is taken in, what is refused, and that bytes out are bytes in.

use reqwest::Method;
use serde_json::json;

use crate::support::{Answer, Backend, Client, Posthorn, Receiver, Reply, on_both_databases};

on_both_databases!(
    any_json_value_passes_unchanged,
    the_largest_payload_passes_unchanged,
    what_is_no_json_is_refused,
    content_types_are_judged,
    key_headers_are_judged,
    state_forbids,
);

/// Any JSON value, kept byte for byte (I7).
fn odd_payloads() -> Vec<(&'static str, Vec<u8>)> {
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        ("a float that looks whole", text("1.0")),
        ("beyond f64", text("1e400")),
        ("many digits", text("123456789012345678901234567890.123456789012345678901234567890")),
        ("minus zero", text("-0")),
        ("null", text("null")),
        ("false", text("false")),
        ("empty text", text("\"\"")),
        ("duplicate names", text(r#"{"a":1,"a":2,"b":{"a":1,"a":1}}"#)),
        ("order of names", text(r#"{"z":1,"a":2}"#)),
        ("escapes", text(r#""\u0041\/\b\f\n\r\t\"\\\u00e9\ud83e\udd80""#)),
        ("a lone surrogate", text(r#""\ud800""#)),
        ("an escaped NUL", text(r#"{"\u0000":"\u0000"}"#)),
        ("characters of four bytes", text("\"🦀 ü 漢\"")),
        ("leading white space", text(" \t\r\n{}")),
        ("trailing white space", text("{}\n\n  \t ")),
        ("white space within", text("{ \"a\" :\n\t1 , \"b\" : [ ] }")),
        ("deep brackets", ["[".repeat(128 * 1024), "]".repeat(128 * 1024)].concat().into_bytes()),
        ("deep objects", ["{\"a\":".repeat(2_000), "1".into(), "}".repeat(2_000)].concat().into_bytes()),
        ("a long text", format!("\"{}\"", "x".repeat(262_142)).into_bytes()),
    ]
}

async fn any_json_value_passes_unchanged(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    for (index, (case, payload)) in odd_payloads().into_iter().enumerate() {
        let kind =
            ["application/json", "application/json; charset=utf-8", "application/vnd.x+json"][index % 3];
        let answer =
            client.call(Method::POST, format!("/ingest/{id}")).bytes(kind, payload.clone()).send().await;
        assert_eq!(answer.status, 202, "{case}: {}", answer.json);
        let delivery = answer.text("delivery_id");
        assert_eq!(answer.json, json!({"delivery_id": delivery, "status": "pending"}));
        assert!(
            answer.header("location").ends_with(&format!("/status/deliveries/{delivery}/status")),
            "{case}"
        );

        let received = receiver.ended(index + 1).await.pop().unwrap();
        assert!(received.body == payload, "{case}: other bytes arrived");
        assert_eq!(received.header("content-type"), kind, "{case}");
        assert_eq!(received.delivery_id(), delivery, "{case}");
        let kept = client.get(format!("/deliveries/{delivery}/payload")).await.expect(200);
        assert!(kept.body == payload, "{case}: other bytes are shown");
        assert_eq!(kept.kind(), kind, "{case}");
    }
}

/// As large as an operator may allow: GitHub sends up to 25 MB.
async fn the_largest_payload_passes_unchanged(backend: Backend) {
    const LARGEST: usize = 32 * 1024 * 1024;
    let posthorn =
        Posthorn::start_with(backend, &[("POSTHORN_MAX_PAYLOAD_BYTES", &LARGEST.to_string())]).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = client.subscribe(&receiver.url("/"), json!({"timeout_seconds": 60})).await.id;
    let post = async |bytes: usize| {
        let payload = format!("\"{}\"", "x".repeat(bytes - 2));
        let call = client.call(Method::POST, format!("/ingest/{id}"));
        (call.bytes("application/json", payload.clone()).send().await, payload)
    };
    let (accepted, payload) = post(LARGEST).await;
    let delivery = accepted.expect(202).text("delivery_id");
    let received = receiver.ended(1).await.pop().unwrap();
    assert!(received.body == payload.as_bytes(), "other bytes arrived");
    let kept = client.get(format!("/deliveries/{delivery}/payload")).await.expect(200);
    assert!(kept.body == payload.as_bytes(), "other bytes are shown");
    post(LARGEST + 1).await.0.expect(413);
}

async fn what_is_no_json_is_refused(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    for (case, body) in [
        ("empty", &b""[..]),
        ("white space", b"  \n"),
        ("bad UTF-8 in a text", b"\"\xff\""),
        ("bad UTF-8 outside", b"\xff"),
        ("over-long UTF-8", b"\"\xc0\x80\""),
        ("a byte-order mark", b"\xef\xbb\xbf{}"),
        ("a NUL byte", b"\x00"),
        ("a NUL byte after", b"{}\x00"),
        ("a control character in a text", b"\"a\x01b\""),
        ("NaN", b"NaN"),
        ("Infinity", b"-Infinity"),
        ("two values", b"{}{}"),
        ("two lines", b"1\n2"),
        ("a comma too many", b"[1,]"),
        ("single quotes", b"{'a':1}"),
        ("no quotes", b"{a:1}"),
        ("a comment", b"{} // x"),
        ("a leading zero", b"01"),
        ("a plus sign", b"+1"),
        ("a bad escape", b"\"\\x41\""),
        ("cut off", b"{\"a\":"),
        ("open brackets", &[b'['; 10_000]),
    ] {
        let answer = post(client, &id, "application/json", body).await;
        assert_eq!(answer.status, 400, "{case}: {}", answer.json);
    }
    let taken = client.ingest(&id, json!("the next")).await;
    let received = receiver.ended(1).await;
    assert_eq!(received.len(), 1, "nothing of the refused arrives");
    assert_eq!((received[0].delivery_id(), received[0].sequence()), (taken.as_str(), 1), "no number is lost");
}

async fn content_types_are_judged(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    for (kind, status) in [
        ("application/json", 202),
        ("APPLICATION/JSON", 202),
        ("application/json;charset=UTF-8", 202),
        ("application/json;;", 202),
        ("application/cloudevents+json", 202),
        ("model/gltf+json", 202),
        ("text/plain", 415),
        ("text/json-ish", 415),
        ("application/xml", 415),
        ("application/jsonp", 415),
        ("application/x-www-form-urlencoded", 415),
        ("json", 415),
        ("", 415),
    ] {
        let answer = post(client, &id, kind, b"{}").await;
        assert_eq!(answer.status, status, "{kind}: {}", answer.json);
    }
    let path = format!("/ingest/{id}");
    client.call(Method::POST, path.clone()).untyped("{}").send().await.expect(415);
    for (encoding, status) in [
        ("identity", 202),
        ("Identity", 202),
        ("gzip", 415),
        ("br", 415),
        ("deflate, gzip", 415),
        ("identity, gzip", 415),
    ] {
        let call = client.call(Method::POST, path.clone()).bytes("application/json", "{}");
        call.header("content-encoding", encoding).send().await.expect(status);
    }
}

async fn key_headers_are_judged(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = client.subscribe(&receiver.url("/"), json!({"ordering": "key"})).await.id;
    for header in ["idempotency-key", "posthorn-ordering-key"] {
        for (case, value, status) in [
            ("one character", b"k".to_vec(), 202),
            ("the longest", vec![b'k'; 255], 202),
            ("printable", b"!#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ \"".to_vec(), 202),
            ("empty", b"".to_vec(), 400),
            ("too long", vec![b'k'; 256], 400),
            ("not ASCII", "schlüssel".as_bytes().to_vec(), 400),
            ("not UTF-8", b"\xff".to_vec(), 400),
            ("a tab", b"a\tb".to_vec(), 400),
        ] {
            let call = client.call(Method::POST, format!("/ingest/{id}")).json(&json!(case));
            let answer = call.header(header, value).send().await;
            assert_eq!(answer.status, status, "{header}: {case}: {}", answer.json);
        }
        let twice = client.call(Method::POST, format!("/ingest/{id}")).json(&json!(1));
        twice.header(header, "a").header(header, "b").send().await.expect(400);
    }
}

async fn state_forbids(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(410)).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    client.post(format!("/subscriptions/{id}/pause")).await.expect(200);
    client.ingest(&id, json!("held while paused")).await;
    client.post(format!("/subscriptions/{id}/resume")).await.expect(200);
    client.subscription_once(&id, "disabled by the 410", |shown| shown["status"] == "disabled").await;
    client.post_json(format!("/ingest/{id}"), json!({})).await.expect(409);
    client.post_json("/ingest/not-a-uuid", json!({})).await.expect(400);
    client.post_json(format!("/ingest/{}", uuid::Uuid::now_v7()), json!({})).await.expect(404);
}

async fn post(client: &Client, id: &str, kind: &str, body: &[u8]) -> Answer {
    client.call(Method::POST, format!("/ingest/{id}")).bytes(kind, body).send().await
}
