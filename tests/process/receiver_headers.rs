//! What the receiver gets: headers, signatures, rotation, the test event.

use std::time::{Duration, UNIX_EPOCH};

use reqwest::Method;
use serde_json::json;

use crate::support::server::{ADMIN_KEY, FAST};
use crate::support::signature::{sha256_signature, verifies, verifies_asymmetrically};
use crate::support::{Backend, Posthorn, Received, Receiver, Reply, on_both_databases};

on_both_databases!(
    every_header_is_right,
    static_headers_are_sent_along,
    retries_keep_the_id,
    public_keys_verify,
    replaced_secrets_sign_for_their_time,
    test_event_takes_the_normal_path,
    replay_goes_to_the_end_of_the_line,
);

async fn every_header_is_right(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    let subscribed = client.subscribe(&receiver.url("/hook?x=%20y"), json!({"secret_key": "s"})).await;
    let body = "{ \"a\" : 1 }";
    let call = client.call(Method::POST, format!("/ingest/{}", subscribed.id));
    let call = call.bytes("application/json", body).header("x-travels", "never").header("cookie", "a=b");
    let signature = sha256_signature("s", body.as_bytes());
    let answer = call.header("x-webhook-signature-256", &signature).send().await.expect(202);

    let received = receiver.ended(1).await.remove(0);
    assert_eq!((received.method.as_str(), received.path.as_str()), ("POST", "/hook?x=%20y"));
    let address = receiver.url("");
    for (name, value) in [
        ("host", address.trim_start_matches("http://")),
        ("content-type", "application/json"),
        ("content-length", "11"),
        ("webhook-id", &answer.text("delivery_id")),
        ("x-webhook-signature-256", &signature),
        ("posthorn-sequence", "1"),
        ("posthorn-attempt", "1"),
        ("user-agent", concat!("Posthorn/", env!("CARGO_PKG_VERSION"))),
    ] {
        assert_eq!(received.header(name), value, "{name}");
    }
    for name in ["x-travels", "cookie", "posthorn-replay-of", "authorization", "accept-encoding"] {
        assert!(received.all(name).is_empty(), "{name} among {:?}", received.headers);
    }
    check_timestamp(&received);
    assert_eq!(received.header("webhook-signature").split(' ').count(), 1);
    verifies(&received, &subscribed.signing_secret).unwrap();
    let stranger = client.subscribe(&receiver.url("/"), json!({})).await;
    verifies(&received, &stranger.signing_secret).unwrap_err();

    client.ingest(&stranger.id, json!(1)).await;
    let unsigned = receiver.ended(2).await.remove(1);
    assert!(unsigned.all("x-webhook-signature-256").is_empty(), "{:?}", unsigned.headers);
}

async fn static_headers_are_sent_along(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    let headers = json!({"X-Team": "orders", "authorization": "Basic eDp5", "accept": "a, b;q=0.5"});
    let id = client.subscribe(&receiver.url("/"), json!({"headers": headers})).await.id;
    client.ingest(&id, json!(1)).await;
    let received = receiver.ended(1).await.remove(0);
    for (name, value) in [("x-team", "orders"), ("authorization", "Basic eDp5"), ("accept", "a, b;q=0.5")] {
        assert_eq!(received.header(name), value);
    }
    client
        .put_json(format!("/subscriptions/{id}"), json!({"headers": {"x-team": "other"}}))
        .await
        .expect(200);
    client.ingest(&id, json!(2)).await;
    let received = receiver.ended(2).await.remove(1);
    assert_eq!(received.header("x-team"), "other");
    assert!(received.all("authorization").is_empty());
}

async fn retries_keep_the_id(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let receiver = Receiver::script([Reply::status(500), Reply::status(404), Reply::reset()]).await;
    let subscribed = client.subscribe(&receiver.url("/"), json!({})).await;
    let delivery = client.ingest(&subscribed.id, json!({"a": 1})).await;
    let received = receiver.ended(4).await;
    // What is broken off on a kept connection goes once more on a new one, as the same attempt.
    for (request, attempt) in received.iter().zip([1, 2, 3, 3]) {
        let seen = (request.delivery_id(), request.sequence(), request.attempt());
        assert_eq!(seen, (delivery.as_str(), 1, attempt));
        assert_eq!(request.body, received[0].body);
        check_timestamp(request);
        verifies(request, &subscribed.signing_secret).unwrap();
    }
}

/// What a receiver verifies with nothing but a public key.
async fn public_keys_verify(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[(ADMIN_KEY, "canary-admin-key-0123456789abcdef")]).await;
    let client = posthorn.client();
    let stranger = client.with_key(None);
    let receiver = Receiver::always(Reply::status(200)).await;
    let subscribed = client.subscribe(&receiver.url("/"), json!({})).await;
    let (shown, keys) =
        (format!("/subscriptions/{}", subscribed.id), format!("/.well-known/webhook-keys/{}", subscribed.id));
    assert_eq!(client.get(shown.clone()).await.expect(200).json["asymmetric_signature"], false);
    client.ingest(&subscribed.id, json!(1)).await;
    assert!(!receiver.ended(1).await[0].header("webhook-signature").contains("v1a,"));
    // As for one that does not exist.
    let hidden = stranger.get(keys.clone()).await.expect(404);
    let absent =
        stranger.get(format!("/.well-known/webhook-keys/{}", uuid::Uuid::now_v7())).await.expect(404);
    assert_eq!(hidden.json["detail"], absent.json["detail"]);

    client.put_json(shown.clone(), json!({"asymmetric_signature": true})).await.expect(200);
    let set = stranger.get(keys.clone()).await.expect(200).json;
    let old = set["keys"][0]["public_key"].as_str().unwrap().to_owned();
    assert_eq!(set, json!({"keys": [{"public_key": old, "signs_until": null}]}));
    client.ingest(&subscribed.id, json!({"n": 2})).await;
    let received = receiver.ended(2).await.remove(1);
    verifies(&received, &subscribed.signing_secret).unwrap();
    assert!(verifies_asymmetrically(&received, &old));
    assert!(!verifies_asymmetrically(&Received { body: b"{}".to_vec(), ..received }, &old));

    client.post(format!("{shown}/signing-secret/rotate")).await.expect(200);
    let set = stranger.get(keys.clone()).await.expect(200).json;
    let new = set["keys"][0]["public_key"].as_str().unwrap().to_owned();
    assert_ne!(new, old);
    assert_eq!(set["keys"][1]["public_key"], old.as_str());
    let until =
        set["keys"][1]["signs_until"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    let left = until - chrono::Utc::now();
    assert!((chrono::TimeDelta::hours(23)..=chrono::TimeDelta::hours(24)).contains(&left), "{left}");
    client.ingest(&subscribed.id, json!(3)).await;
    let received = receiver.ended(3).await.remove(2);
    assert!(verifies_asymmetrically(&received, &old) && verifies_asymmetrically(&received, &new));
    client.put_json(shown, json!({"asymmetric_signature": null})).await.expect(200);
    stranger.get(keys).await.expect(404);
}

async fn replaced_secrets_sign_for_their_time(backend: Backend) {
    let mut posthorn = Posthorn::start(backend).await;
    let client = posthorn.client().clone();
    let receiver = Receiver::always(Reply::status(200)).await;
    let subscribed = client.subscribe(&receiver.url("/"), json!({})).await;
    let path = format!("/subscriptions/{}/signing-secret", subscribed.id);
    let new = client.post(format!("{path}/rotate")).await.expect(200).text("signing_secret");
    assert_ne!(new, subscribed.signing_secret);
    assert_eq!(client.get(path.clone()).await.expect(200).text("signing_secret"), new);
    let delivery = client.ingest(&subscribed.id, json!(1)).await;
    let received = receiver.ended(1).await.remove(0);
    assert_eq!(received.header("webhook-signature").split(' ').count(), 2, "{:?}", received.headers);
    verifies(&received, &subscribed.signing_secret).unwrap();
    verifies(&received, &new).unwrap();
    // Recorded, so that the kill repeats nothing.
    client.delivery_in(&delivery, "success").await;

    // All outlive a crash, and each signs for its time, however many are replaced; of six the oldest goes.
    posthorn.kill().await;
    posthorn.start_again().await;
    let client = posthorn.client();
    let mut secrets = vec![subscribed.signing_secret, new];
    for n in 3..=6 {
        secrets.push(client.post(format!("{path}/rotate")).await.expect(200).text("signing_secret"));
        client.ingest(&subscribed.id, json!(n)).await;
        let received = receiver.ended(n - 1).await.remove(n - 2);
        let signatures = received.header("webhook-signature").split(' ').count();
        assert_eq!(signatures, n.min(5), "{:?}", received.headers);
        for (age, secret) in secrets.iter().rev().enumerate() {
            assert_eq!(verifies(&received, secret).is_ok(), age < 5, "the {age}th before the newest");
        }
    }
    posthorn.restart_with(&[]).await;
    let client = posthorn.client();
    client.ingest(&subscribed.id, json!(7)).await;
    verifies(&receiver.ended(6).await[5], &secrets[2]).unwrap();

    // A secret from elsewhere, and an end at once.
    let own = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let given = json!({"signing_secret": own, "overlap_seconds": 0});
    for _ in 0..2 {
        let rotated = client.post_json(format!("{path}/rotate"), given.clone()).await.expect(200);
        assert_eq!(rotated.text("signing_secret"), own);
    }
    client.ingest(&subscribed.id, json!(8)).await;
    let received = receiver.ended(7).await.remove(6);
    assert_eq!(received.header("webhook-signature").split(' ').count(), 1, "{:?}", received.headers);
    verifies(&received, own).unwrap();
    for (body, pointer) in [
        (json!({"signing_secret": "whsec_short"}), "/signing_secret"),
        (json!({"overlap_seconds": 604_801}), "/overlap_seconds"),
        (json!({"overlap_seconds": -1}), "/overlap_seconds"),
        (json!({"overlap": 0}), "/overlap"),
    ] {
        let refused = client.post_json(format!("{path}/rotate"), body).await.expect(422);
        assert_eq!(refused.json["errors"][0]["pointer"], pointer);
    }
}

async fn test_event_takes_the_normal_path(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let receiver = Receiver::script([Reply::status(500)]).await;
    let subscribed = client.subscribe(&receiver.url("/"), json!({"secret_key": "s"})).await;
    client.post(format!("/subscriptions/{}/test", subscribed.id)).await.expect(202);
    let received = receiver.ended(2).await.remove(1);
    assert!(String::from_utf8_lossy(&received.body).contains("posthorn.test"), "{received:?}");
    assert!(received.header("content-type").starts_with("application/json"));
    assert_eq!((received.sequence(), received.attempt()), (1, 2));
    assert_eq!(received.header("x-webhook-signature-256"), sha256_signature("s", &received.body));
    verifies(&received, &subscribed.signing_secret).unwrap();
    let delivery = client.delivery_in(received.delivery_id(), "success").await;
    assert_eq!(delivery["subscription_id"], subscribed.id.as_str());
}

async fn replay_goes_to_the_end_of_the_line(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    let call = client.call(Method::POST, format!("/ingest/{id}")).bytes("application/x+json", "{\"a\":  1}");
    let first = call.send().await.expect(202).text("delivery_id");
    let second = client.ingest(&id, json!(2)).await;
    client.delivery_in(&second, "success").await;
    let replay = client.post(format!("/deliveries/{first}/replay")).await.expect(202).text("delivery_id");
    assert_ne!(replay, first);
    let received = receiver.ended(3).await.remove(2);
    assert_eq!((received.delivery_id(), received.sequence(), received.attempt()), (replay.as_str(), 3, 1));
    assert_eq!(received.header("posthorn-replay-of"), first);
    assert_eq!(
        (received.body.as_slice(), received.header("content-type")),
        (&b"{\"a\":  1}"[..], "application/x+json")
    );
    // The delivery repeated is as it was, and a replay can be replayed.
    let original = client.delivery_in(&first, "success").await;
    assert_eq!(original["attempt_count"], 1);
    client.delivery_in(&replay, "success").await;
    client.post(format!("/deliveries/{replay}/replay")).await.expect(202);
    let received = receiver.ended(4).await.remove(3);
    assert_eq!((received.header("posthorn-replay-of"), received.sequence()), (replay.as_str(), 4));
}

/// Within the second of its arrival, or the one before.
fn check_timestamp(request: &Received) {
    let stamp = Duration::from_secs(request.header("webhook-timestamp").parse().expect("whole seconds"));
    let arrived = request.arrived.duration_since(UNIX_EPOCH).unwrap();
    let age = arrived.checked_sub(stamp).unwrap_or_else(|| panic!("{stamp:?} lies after {arrived:?}"));
    assert!(age < Duration::from_secs(3), "{stamp:?} is not the time of {arrived:?}");
}
