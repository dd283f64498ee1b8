//! What a subscription may not be: each refusal names the field at fault.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Backend, Client, Posthorn, on_both_databases};

on_both_databases!(
    bad_fields_are_named,
    bad_targets_are_refused,
    forbidden_networks_are_named,
    bad_bodies_are_refused,
    odd_text_is_kept_or_refused,
);

const TARGET: &str = "http://127.0.0.1:9/hook";

async fn bad_fields_are_named(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let id = client.subscribe(TARGET, json!({})).await.id;
    let many: serde_json::Map<_, _> = (0..33).map(|index| (format!("x-{index}"), json!("v"))).collect();
    for (field, value) in [
        ("zz", json!(1)),
        ("target_url", json!(7)),
        ("target_url", json!(null)),
        ("tenant", json!("")),
        ("tenant", json!("a".repeat(65))),
        ("tenant", json!("nul\u{0}")),
        ("tenant", json!(7)),
        ("description", json!(["x"])),
        ("description", json!("nul\u{0}inside")),
        ("description", json!("\u{1b}[31m")),
        ("description", json!("x".repeat(1025))),
        ("secret_key", json!("")),
        ("secret_key", json!(1)),
        ("secret_key", json!("x".repeat(513))),
        ("ordering", json!("random")),
        ("ordering", json!(1)),
        ("max_in_flight", json!(0)),
        ("max_in_flight", json!(-1)),
        ("max_in_flight", json!(1.5)),
        ("max_in_flight", json!("3")),
        ("max_in_flight", json!(1_000_000_000_000_u64)),
        // `strict` means one at a time.
        ("max_in_flight", json!(2)),
        ("timeout_seconds", json!(0)),
        ("timeout_seconds", json!(0.05)),
        ("timeout_seconds", json!(121)),
        ("timeout_seconds", json!(1_000_000_000)),
        ("timeout_seconds", json!(1e308)),
        ("timeout_seconds", json!(-1)),
        ("timeout_seconds", json!("5")),
        ("headers", json!([])),
        ("headers", Value::Object(many)),
        ("headers/host", json!("example.com")),
        ("headers/Connection", json!("close")),
        ("headers/transfer-encoding", json!("chunked")),
        ("headers/Content-Length", json!("1")),
        ("headers/content-encoding", json!("gzip")),
        ("headers/Webhook-Id", json!("1")),
        ("headers/x-two", json!("lines\r\nx-three: 3")),
        ("headers/x-nul", json!("\u{0}")),
        ("headers/x-number", json!(1)),
        ("headers/x-long", json!("v".repeat(4097))),
        ("headers/in valid", json!("v")),
        ("rate_limit", json!(5)),
        ("rate_limit/requests_per_second", json!(0)),
        ("rate_limit/requests_per_second", json!(-1)),
        ("rate_limit/requests_per_second", json!(1e308)),
        ("rate_limit/burst", json!(0)),
        ("rate_limit/burst", json!(1.5)),
        ("rate_limit/zz", json!(1)),
        ("retry/max_retries", json!(-1)),
        ("retry/max_retries", json!(101)),
        ("retry/initial_delay_seconds", json!(-0.1)),
        ("retry/max_delay_seconds", json!(1e308)),
        ("retry/on_exhausted", json!("give up")),
        ("retry/zz", json!(1)),
    ] {
        check_refused(client, &id, field, &value).await;
    }
    client.post_json("/subscriptions/", json!({"tenant": "acme"})).await.refuses_field(422, "target_url");
    let put_tenant = client.put_json(format!("/subscriptions/{id}"), json!({"tenant": "other"})).await;
    put_tenant.refuses_field(422, "tenant");
}

/// Refused at creation and at change alike.
async fn check_refused(client: &Client, id: &str, field: &str, value: &Value) {
    let mut body = json!({"target_url": TARGET});
    let (outer, inner) = field.split_once('/').unwrap_or((field, ""));
    match inner {
        "" => body[outer] = value.clone(),
        // The other half of a rate limit is given, so that the fault is the one meant.
        _ if outer == "rate_limit" => {
            body[outer] = json!({"requests_per_second": 1, "burst": 1});
            body[outer][inner] = value.clone();
        }
        _ => body[outer][inner] = value.clone(),
    }
    // Where the fault lies within, its own name or that of the whole will do.
    let named = if inner.is_empty() || outer == "headers" { outer } else { inner };
    for answer in [
        client.post_json("/subscriptions/", body.clone()).await,
        client.put_json(format!("/subscriptions/{id}"), body).await,
    ] {
        let answer = answer.expect(422);
        let errors = answer.json["errors"].to_string();
        assert!(errors.contains(named), "{field} {value}: errors should point to {named}: {}", answer.json);
    }
}

async fn bad_targets_are_refused(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let long = format!("http://127.0.0.1/{}", "x".repeat(2049));
    for target in [
        "",
        "example.com",
        "/relative",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://",
        "http:///path",
        "http:127.0.0.1",
        "http://user@127.0.0.1/",
        "http://user:word@127.0.0.1/",
        "http://127.0.0.1:0/",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1\\path",
        "http://127.0.\t0.1/",
        "http://127.0.0.1/\n",
        " http://127.0.0.1/",
        "http://127.0.0.1/with space",
        "http://%31%32%37.0.0.1/",
        "http://[::1/",
        "http://nul\u{0}.example/",
        long.as_str(),
    ] {
        let answer = client.post_json("/subscriptions/", json!({"target_url": target})).await;
        let answer = answer.refuses_field(422, "target_url");
        assert!(!answer.json.to_string().contains(":word"), "no password is repeated: {}", answer.json);
    }
    let fits = format!("http://127.0.0.1/{}", "x".repeat(2048 - 17));
    client.subscribe(&fits, json!({})).await;
}

async fn forbidden_networks_are_named(backend: Backend) {
    let posthorn =
        Posthorn::start_with(backend, &[("POSTHORN_ALLOWED_PRIVATE_NETWORKS", "10.1.0.0/16")]).await;
    let client = posthorn.client();
    let id = client.subscribe("http://10.1.2.3/", json!({})).await.id;
    for target in [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://0/",
        "http://localhost/",
        "http://localhost./",
        "http://１２７.0.0.1/",
        "http://10.2.0.1/",
        "http://192.168.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://168.63.129.16/",
        "http://100.64.0.1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[fd00:ec2::254]/",
    ] {
        let body = json!({"target_url": target});
        for answer in [
            client.post_json("/subscriptions/", body.clone()).await,
            client.put_json(format!("/subscriptions/{id}"), body).await,
        ] {
            let answer = answer.refuses_field(422, "target_url");
            let named = answer.json.to_string().contains("POSTHORN_ALLOWED_PRIVATE_NETWORKS");
            // No setting opens a metadata address.
            let metadata = ["169.254", "168.63", "ec2"].iter().any(|part| target.contains(part));
            assert!(named || metadata, "{target}: the setting that would help: {}", answer.json);
        }
    }
}

async fn bad_bodies_are_refused(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let id = client.subscribe(TARGET, json!({})).await.id;
    let valid = json!({"target_url": TARGET}).to_string();
    let deep = format!("{{\"target_url\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let twice = format!("{{\"target_url\":\"{TARGET}\",\"target_url\":\"{TARGET}\"}}");
    for (case, kind, body, statuses) in [
        ("empty", "application/json", b"".to_vec(), &[400][..]),
        ("cut off", "application/json", b"{\"target_url\": ".to_vec(), &[400]),
        ("two values", "application/json", format!("{valid}{valid}").into_bytes(), &[400]),
        ("bad UTF-8", "application/json", b"{\"target_url\":\"\xff\"}".to_vec(), &[400]),
        ("deep", "application/json", deep.into_bytes(), &[400, 422]),
        ("one field twice", "application/json", twice.into_bytes(), &[400, 422]),
        ("a list", "application/json", b"[]".to_vec(), &[400, 422]),
        ("null", "application/json", b"null".to_vec(), &[400, 422]),
        ("plain text", "text/plain", valid.clone().into_bytes(), &[415]),
        ("a form", "application/x-www-form-urlencoded", b"target_url=x".to_vec(), &[415]),
    ] {
        for (method, path) in
            [(Method::POST, "/subscriptions/".to_owned()), (Method::PUT, format!("/subscriptions/{id}"))]
        {
            println!("{case}");
            client.call(method, path).bytes(kind, body.clone()).send().await.expect_any(statuses);
        }
    }
    client.call(Method::POST, "/subscriptions/").untyped(valid).send().await.expect_any(&[201, 415]);
}

async fn odd_text_is_kept_or_refused(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    for text in [
        "' OR 1=1--",
        "100 % _x_ \\ \"",
        "\u{202e}abc",
        "</script><script>",
        "\u{1f980}\u{301}",
        "null",
        "two\r\nlines\n\tand a tab",
    ] {
        let created = client.subscribe(TARGET, json!({"description": text})).await;
        assert_eq!(client.subscription(&created.id).await["description"], text);
    }
    for tenant in ["a\u{7f}", "two words", "slash/ed", "\u{1b}[31m", "' OR 1=1--", "..", "größe"] {
        let answer =
            client.post_json("/subscriptions/", json!({"target_url": TARGET, "tenant": tenant})).await;
        if answer.status == 201 {
            assert_eq!(answer.json["tenant"], tenant, "kept as it is");
        } else {
            answer.refuses_field(422, "tenant");
        }
    }
    let log = posthorn.log();
    assert!(!log.iter().any(|line| line.contains('\u{1b}')), "no control characters in the log: {log:?}");
}
