//! Ingest signatures: who may hand events in where the subscription has a `secret_key` (A25, A26),
//! GitHub included.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::signature::{sha256_signature, verifies};
use crate::support::{Backend, Posthorn, Received, Receiver, Reply, on_both_databases};

on_both_databases!(
    only_the_right_signature_passes,
    replaced_keys_are_taken_for_their_time,
    takes_a_push_from_github,
);

const SECRET: &str = "It's a Secret to Everybody";
const BODY: &str = "{ \"amount\": 10.0 }";
const OURS: &str = "x-webhook-signature-256";
const GITHUBS: &str = "x-hub-signature-256";

async fn only_the_right_signature_passes(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = client.subscribe(&receiver.url("/"), json!({"secret_key": SECRET})).await.id;
    let right = sha256_signature(SECRET, BODY.as_bytes());
    let digits = right.trim_start_matches("sha256=").to_owned();
    let reserialised = serde_json::from_str::<Value>(BODY).unwrap().to_string();
    let other = sha256_signature("another secret", BODY.as_bytes());
    let empty = sha256_signature("", BODY.as_bytes());
    let mut last_wrong = right.clone();
    last_wrong.replace_range(right.len() - 1.., if right.ends_with('0') { "1" } else { "0" });

    for (case, headers, status) in [
        ("right", vec![(OURS, right.clone())], 202),
        ("right, GitHub's name", vec![(GITHUBS, right.clone())], 202),
        ("both right", vec![(OURS, right.clone()), (GITHUBS, right.clone())], 202),
        ("none", vec![], 401),
        ("empty value", vec![(OURS, String::new())], 401),
        ("upper-case hex", vec![(OURS, format!("sha256={}", digits.to_uppercase()))], 401),
        ("upper-case prefix", vec![(OURS, format!("SHA256={digits}"))], 401),
        ("no prefix", vec![(OURS, digits.clone())], 401),
        ("sha1=", vec![(OURS, format!("sha1={}", &digits[..40]))], 401),
        ("a space within", vec![(OURS, format!("sha256= {digits}"))], 401),
        ("63 digits", vec![(OURS, right[..right.len() - 1].to_owned())], 401),
        ("65 digits", vec![(OURS, format!("{right}0"))], 401),
        ("no hex", vec![(OURS, format!("sha256={}", "z".repeat(64)))], 401),
        ("last digit wrong", vec![(OURS, last_wrong)], 401),
        ("the header twice", vec![(OURS, right.clone()), (OURS, right.clone())], 401),
        ("GitHub's twice", vec![(GITHUBS, right.clone()), (GITHUBS, right.clone())], 401),
        ("right and wrong", vec![(OURS, right.clone()), (GITHUBS, other.clone())], 401),
        ("wrong and right", vec![(OURS, other.clone()), (GITHUBS, right.clone())], 401),
        ("another's secret", vec![(OURS, other)], 401),
        ("the empty secret", vec![(OURS, empty)], 401),
        ("over other bytes", vec![(OURS, sha256_signature(SECRET, reserialised.as_bytes()))], 401),
    ] {
        let mut call = client.call(Method::POST, format!("/ingest/{id}")).bytes("application/json", BODY);
        for (name, value) in headers {
            call = call.header(name, value);
        }
        let answer = call.send().await;
        assert_eq!(answer.status, status, "{case}: {}", answer.json);
        assert!(!answer.json.to_string().contains(&digits), "{case}: the right signature is not told");
    }
    // What is refused leaves no trace; what is forwarded is signed alike.
    let received = receiver.ended(3).await;
    assert_eq!(received.iter().map(Received::sequence).collect::<Vec<_>>(), [1, 2, 3]);
    for request in &received {
        assert_eq!(request.header(OURS), right);
        assert!(request.all(GITHUBS).is_empty(), "{:?}", request.headers);
    }
}

async fn replaced_keys_are_taken_for_their_time(backend: Backend) {
    let mut posthorn = Posthorn::start(backend).await;
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = posthorn.client().subscribe(&receiver.url("/"), json!({"secret_key": "key 0"})).await.id;
    let path = format!("/subscriptions/{id}");
    for n in 1..=5 {
        let body = json!({"secret_key": format!("key {n}")});
        posthorn.client().put_json(path.clone(), body).await.expect(200);
    }
    posthorn.restart_with(&[]).await;
    let client = posthorn.client();
    let send = async |key: &str| {
        let call = client.call(Method::POST, format!("/ingest/{id}")).bytes("application/json", BODY);
        call.header(OURS, sha256_signature(key, BODY.as_bytes())).send().await.status
    };
    for (n, status) in [401, 202, 202, 202, 202, 202].into_iter().enumerate() {
        assert_eq!(send(&format!("key {n}")).await, status, "key {n}: five in force at once");
    }
    for request in receiver.ended(5).await {
        assert_eq!(request.header(OURS), sha256_signature("key 5", BODY.as_bytes()), "by the current one");
    }
    // At once, with the next one or by itself; and none guards what nothing guards.
    let change = async |body| client.put_json(path.clone(), body).await.expect(200);
    change(json!({"secret_key": "key 6", "secret_key_overlap_seconds": 0})).await;
    assert_eq!((send("key 5").await, send("key 6").await), (401, 202));
    change(json!({"secret_key": "key 7"})).await;
    assert_eq!((send("key 6").await, send("key 7").await), (202, 202));
    change(json!({"secret_key_overlap_seconds": 0})).await;
    assert_eq!((send("key 6").await, send("key 7").await), (401, 202));
    change(json!({"secret_key": null})).await;
    change(json!({"secret_key": "key 8"})).await;
    assert_eq!((send("key 7").await, send("key 8").await), (401, 202));
}

async fn takes_a_push_from_github(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(204)).await;
    let subscribed = client.subscribe(&receiver.url("/push"), json!({"secret_key": SECRET})).await;
    let push = include_bytes!("github_push.json");
    let answer = client
        .call(Method::POST, format!("/ingest/{}", subscribed.id))
        .bytes("application/json", &push[..])
        .header("user-agent", "GitHub-Hookshot/044aadd")
        .header("x-github-delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958")
        .header("x-github-event", "push")
        .header("x-github-hook-id", "292430182")
        .header("x-hub-signature", "sha1=7d38cdd689735b008b3c702edd92eea23791c5f6")
        .header(GITHUBS, sha256_signature(SECRET, push))
        .send()
        .await
        .expect(202);
    let received = receiver.ended(1).await.remove(0);
    assert_eq!(received.delivery_id(), answer.text("delivery_id"));
    assert!(received.body == push, "byte for byte");
    assert_eq!(received.header(OURS), sha256_signature(SECRET, push));
    verifies(&received, &subscribed.signing_secret).unwrap();
    client.delivery_in(received.delivery_id(), "success").await;
}
