//! Errors: every refusal is a problem of RFC 9457 whose type leads to a page, the framework's own
//! refusals included. The client checks the shape of each; here stand the cases.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Backend, Client, Posthorn, Receiver, Reply, on_both_databases};

on_both_databases!(refusals_are_problems, oversized_bodies_are_refused, keys_guard_everything_but_the_public);

/// A UUID that names nothing.
const NOBODY: &str = "01890000-0000-7000-8000-000000000000";

async fn refusals_are_problems(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    let subscription = client.subscribe(&receiver.url("/"), json!({})).await.id;
    let mut types = BTreeSet::new();

    for (method, path, statuses) in [
        ("GET", "/nowhere".to_owned(), &[404][..]),
        ("GET", "/subscriptions/not-a-uuid".to_owned(), &[400]),
        ("GET", format!("/subscriptions/{NOBODY}"), &[404]),
        ("DELETE", format!("/subscriptions/{NOBODY}"), &[404]),
        ("POST", format!("/subscriptions/{NOBODY}/pause"), &[404]),
        ("POST", format!("/subscriptions/{NOBODY}/resume"), &[404]),
        ("POST", format!("/subscriptions/{NOBODY}/enable"), &[404]),
        ("POST", format!("/subscriptions/{NOBODY}/disable"), &[404]),
        ("POST", format!("/subscriptions/{NOBODY}/test"), &[404]),
        ("GET", format!("/subscriptions/{NOBODY}/signing-secret"), &[404]),
        ("POST", format!("/subscriptions/{NOBODY}/signing-secret/rotate"), &[404]),
        ("GET", format!("/subscriptions/{NOBODY}/deliveries"), &[404]),
        ("GET", format!("/status/subscriptions/{NOBODY}/attempts"), &[404]),
        ("GET", format!("/status/deliveries/{NOBODY}/status"), &[404]),
        ("GET", format!("/deliveries/{NOBODY}"), &[404]),
        ("GET", format!("/deliveries/{NOBODY}/payload"), &[404]),
        ("POST", format!("/deliveries/{NOBODY}/retry"), &[404]),
        ("POST", format!("/deliveries/{NOBODY}/replay"), &[404]),
        ("POST", format!("/deliveries/{NOBODY}/skip"), &[404]),
        ("GET", "/deliveries/0".to_owned(), &[400]),
        ("GET", "/status/deliveries/%00/status".to_owned(), &[400]),
        ("GET", "/tenants/".to_owned(), &[404]),
        ("GET", "/tenants/two%20words".to_owned(), &[400]),
        ("GET", "/tenants/...".to_owned(), &[400]),
        ("GET", "/tenants/%00".to_owned(), &[400]),
        ("GET", "/tenants/%ff".to_owned(), &[400]),
        ("GET", format!("/tenants/{}", "a".repeat(65)), &[400]),
        ("PUT", "/tenants/gr%C3%B6%C3%9Fe".to_owned(), &[400]),
        ("GET", "/subscriptions/?page=0".to_owned(), &[400, 422]),
        ("GET", "/subscriptions/?page=-1".to_owned(), &[400, 422]),
        ("GET", "/subscriptions/?page=1000000000000000000".to_owned(), &[400, 422]),
        ("GET", "/subscriptions/?page=one".to_owned(), &[400]),
        ("GET", "/subscriptions/?limit=0".to_owned(), &[400, 422]),
        ("GET", "/subscriptions/?limit=101".to_owned(), &[400, 422]),
        ("GET", "/subscriptions/?limit=1e2".to_owned(), &[400]),
        ("GET", "/subscriptions/?status=asleep".to_owned(), &[400, 422]),
        ("GET", "/subscriptions/?tenant=%00".to_owned(), &[400, 422]),
        ("GET", "/status/activity?limit=101".to_owned(), &[400, 422]),
        ("GET", "/status/activity?limit=x".to_owned(), &[400]),
        ("GET", format!("/status/subscriptions/{subscription}/attempts?limit=0"), &[400, 422]),
        ("GET", format!("/subscriptions/{subscription}/deliveries?limit=101"), &[400, 422]),
        ("GET", format!("/subscriptions/{subscription}/deliveries?status=lost"), &[400, 422]),
        ("GET", format!("/subscriptions/{subscription}/deliveries?since=yesterday"), &[400]),
        ("GET", format!("/subscriptions/{subscription}/deliveries?until=2026-13-01T00:00:00Z"), &[400]),
        ("GET", format!("/subscriptions/{subscription}/deliveries?cursor=junk"), &[400]),
        ("GET", format!("/subscriptions/{subscription}/deliveries?cursor=%00"), &[400]),
        ("GET", "/subscriptions/?state=failed".to_owned(), &[400]),
        ("GET", "/subscriptions/?limit=1&limit=2".to_owned(), &[400]),
        ("GET", format!("/subscriptions/{subscription}/deliveries?status=failed&status=success"), &[400]),
        ("GET", "/health?x=y".to_owned(), &[400]),
    ] {
        let answer = client.call(method.parse().unwrap(), path).send().await.expect_any(statuses);
        types.insert(answer.text("type"));
    }
    parameters_are_named(client).await;
    wrong_methods_name_the_right_ones(client, &subscription).await;
    for problem in types {
        check_page(client, &problem).await;
    }
    check_page(client, "/problems/store-unavailable").await;
    check_page(client, "/problems/outcome-unknown").await;
    client.get("/problems/of-no-such-kind").await.expect(404);
}

/// In words that say what is taken.
async fn parameters_are_named(client: &Client) {
    for (query, detail) in [
        ("limit=abc", "limit: expected a whole number"),
        ("limit=1&limit=2", "limit: expected once"),
        ("state=failed", "state: there is no such parameter; this path takes "),
    ] {
        let answer = client.get(format!("/subscriptions/?{query}")).await.expect(400);
        assert!(answer.text("detail").starts_with(detail), "{}", answer.json);
    }
}

async fn wrong_methods_name_the_right_ones(client: &Client, subscription: &str) {
    for (method, path, allowed) in [
        ("PATCH", format!("/subscriptions/{subscription}"), &["GET", "PUT", "DELETE"][..]),
        ("DELETE", "/subscriptions/".to_owned(), &["GET", "POST"]),
        ("GET", format!("/ingest/{subscription}"), &["POST"]),
        ("POST", "/health".to_owned(), &["GET"]),
        ("PUT", "/status/stats".to_owned(), &["GET"]),
        ("DELETE", "/tenants/acme".to_owned(), &["GET", "PUT"]),
    ] {
        let answer = client.call(method.parse().unwrap(), path).send().await.expect(405);
        let allow = answer.header("allow").to_owned();
        for method in allowed {
            let named = allow.split(',').any(|name| name.trim() == *method);
            assert!(named, "{}: Allow should name {method}: {allow}", answer.call);
        }
        check_page(client, &answer.text("type")).await;
    }
}

async fn oversized_bodies_are_refused(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[("POSTHORN_MAX_PAYLOAD_BYTES", "1000")]).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    let subscription = client.subscribe(&receiver.url("/"), json!({})).await.id;
    let path = format!("/ingest/{subscription}");
    let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));

    let exact = client.call(Method::POST, path.clone()).bytes("application/json", text(1000)).send().await;
    exact.expect(202);
    let over = client.call(Method::POST, path.clone()).bytes("application/json", text(1001)).send().await;
    let over = over.expect(413);
    assert!(over.text("detail").contains("1000"), "the limit should be named: {}", over.json);
    check_page(client, &over.text("type")).await;

    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n"
    );
    for (case, rest, status) in [
        ("chunked within", format!("transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n", chunk(&text(1000))), 202),
        ("chunked beyond", format!("transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n", chunk(&text(1001))), 413),
        ("a declared length is refused unread", "content-length: 9999999999\r\n\r\n\"x".to_owned(), 413),
        (
            "no 100 for what will be refused",
            "content-length: 1001\r\nexpect: 100-continue\r\n\r\n".to_owned(),
            413,
        ),
    ] {
        let answer = client.raw(format!("{head}{rest}").as_bytes()).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{case}: {answer}");
    }
    receiver.ended(2).await;
    // Bodies of the API have a limit of their own.
    let long = json!({"target_url": receiver.url("/"), "description": "x".repeat(4 << 20)});
    client.post_json("/subscriptions/", long).await.expect(413);
}

async fn keys_guard_everything_but_the_public(backend: Backend) {
    let posthorn =
        Posthorn::start_with(backend, &[("POSTHORN_ADMIN_KEY", "an-admin-key-of-some-length-0123456789")])
            .await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    let guarded = client.subscribe(&receiver.url("/"), json!({"secret_key": "ingest secret"})).await.id;
    let open = client.subscribe(&receiver.url("/"), json!({})).await.id;
    client.ingest(&open, json!(1)).await;
    let delivery = receiver.ended(1).await[0].delivery_id().to_owned();

    for key in [None, Some(""), Some("another-key"), Some("an-admin-key-of-some-length-012345678")] {
        let stranger = client.with_key(key);
        for (method, path) in [
            ("GET", "/subscriptions/".to_owned()),
            ("POST", "/subscriptions/".to_owned()),
            ("GET", format!("/subscriptions/{open}")),
            ("GET", format!("/subscriptions/{NOBODY}")),
            ("GET", format!("/subscriptions/{open}/signing-secret")),
            ("DELETE", format!("/subscriptions/{open}")),
            ("POST", format!("/subscriptions/{open}/pause")),
            ("GET", "/tenants/default".to_owned()),
            ("PUT", "/tenants/default".to_owned()),
            ("GET", "/status/stats".to_owned()),
            ("GET", "/status/activity".to_owned()),
            ("GET", format!("/deliveries/{delivery}/payload")),
            ("POST", format!("/deliveries/{delivery}/replay")),
            ("POST", format!("/ingest/{open}")),
        ] {
            let refused =
                stranger.call(method.parse().unwrap(), path).json(&json!(1)).send().await.expect(401);
            assert!(!refused.json.to_string().contains("an-admin-key"), "{}", refused.json);
        }
        for path in ["/health", "/health/ready", "/docs", "/redoc", "/openapi.json", "/openapi.yaml"] {
            stranger.get(path).await.expect(200);
        }
    }
    signed_ingest_needs_no_key(client, &guarded).await;
    client.subscription(&open).await;
}

async fn signed_ingest_needs_no_key(client: &Client, subscription: &str) {
    let signature = crate::support::signature::sha256_signature("ingest secret", b"1");
    let stranger = client.with_key(None);
    let call = stranger.call(Method::POST, format!("/ingest/{subscription}"));
    call.bytes("application/json", "1").header("x-webhook-signature-256", signature).send().await.expect(202);
    stranger.post_json(format!("/ingest/{subscription}"), json!(1)).await.expect(401);
}

/// The problem's type leads to a page for people.
pub(crate) async fn check_page(client: &Client, problem: &str) {
    let page: Answer = client.get(problem).await.expect(200);
    assert!(page.kind().starts_with("text/"), "{problem}: {}", page.kind());
    assert!(page.json == Value::Null && page.body.len() > 40, "{problem}: says too little");
}
