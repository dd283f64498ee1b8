//! Tenants: what each may use is shown, changed, kept, and holds.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::errors::check_page;
use crate::support::server::ADMIN_KEY;
use crate::support::signature::sha256_signature;
use crate::support::{Answer, Backend, Client, Posthorn, eventually, on_both_databases};

on_both_databases!(
    shown_and_changed_in_part,
    bad_fields_are_named,
    survive_a_restart,
    quota_is_told_and_comes_back,
    quota_is_the_tenants_own,
    everything_handed_in_counts,
    what_is_refused_before_spends_nothing,
    changed_quota_holds_at_once,
    replays_count_as_handed_in,
    subscriptions_are_counted,
    stored_bytes_are_counted,
    calls_of_a_tenants_keys_are_counted,
);

/// Nothing is sent there: the subscriptions are paused.
const TARGET: &str = "http://127.0.0.1:9/hook";

async fn shown_and_changed_in_part(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    assert_eq!(client.get("/tenants/acme").await.expect(200).json, unlimited("acme"), "nobody configured it");
    let name = "Acme-7.eu_west";
    let put = async |body: Value| client.put_json(format!("/tenants/{name}/"), body).await.expect(200).json;
    assert_eq!(put(json!({})).await, unlimited(name));

    let mut expected = everything(name);
    // As it is shown.
    assert_eq!(put(expected.clone()).await, expected);
    let mut body = expected.clone();
    body["tenant"] = json!("another");
    client.put_json(format!("/tenants/{name}"), body.clone()).await.refuses_field(422, "tenant");
    body.as_object_mut().unwrap().remove("tenant");
    assert_eq!(put(body).await, expected);
    assert_eq!(client.get(format!("/tenants/{name}")).await.expect(200).json, expected);
    // What is absent stays, null clears.
    for (field, value) in [
        ("rate_limit", json!(null)),
        ("max_in_flight", json!(1)),
        ("ingest_limit", json!({"requests_per_second": 100_000.0, "burst": 100_000})),
        ("max_in_flight", json!(null)),
        ("ingest_limit", json!(null)),
        ("max_subscriptions", json!(0)),
        ("max_stored_bytes", json!(0)),
        ("control_limit", json!({"requests_per_second": 1.0, "burst": 1})),
        ("max_subscriptions", json!(null)),
        ("max_stored_bytes", json!(null)),
        ("control_limit", json!(null)),
    ] {
        expected[field] = value.clone();
        assert_eq!(put(json!({field: value})).await, expected, "{field}");
    }
    assert_eq!(expected, unlimited(name));
    assert_eq!(
        client.get("/tenants/acme").await.expect(200).json,
        unlimited("acme"),
        "another stays as it is"
    );
}

async fn bad_fields_are_named(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let limit = |rate: Value, burst: Value| json!({"requests_per_second": rate, "burst": burst});
    let good = limit(json!(1), json!(1));
    for (field, value, pointer) in [
        ("zz", json!(1), "/zz"),
        ("tenant", json!("another"), "/tenant"),
        ("version", json!(1), "/version"),
        ("max_in_flight", json!(0), "/max_in_flight"),
        ("max_in_flight", json!(-1), "/max_in_flight"),
        ("max_in_flight", json!(1.5), "/max_in_flight"),
        ("max_in_flight", json!("3"), "/max_in_flight"),
        ("max_in_flight", json!(true), "/max_in_flight"),
        ("max_in_flight", json!(65_537), "/max_in_flight"),
        ("max_in_flight", json!(1_000_000_000_000_u64), "/max_in_flight"),
        ("rate_limit", json!(5), "/rate_limit"),
        ("rate_limit", json!("5"), "/rate_limit"),
        ("rate_limit", json!([1, 1]), "/rate_limit"),
        ("rate_limit", json!({"burst": 1}), "/rate_limit/requests_per_second"),
        ("rate_limit", limit(json!(0), json!(1)), "/rate_limit/requests_per_second"),
        ("ingest_limit", json!({}), "/ingest_limit/requests_per_second"),
        ("ingest_limit", json!({"requests_per_second": 1}), "/ingest_limit/burst"),
        ("ingest_limit", limit(json!("1"), json!(1)), "/ingest_limit/requests_per_second"),
        ("ingest_limit", limit(json!(null), json!(1)), "/ingest_limit/requests_per_second"),
        ("ingest_limit", limit(json!(-1), json!(1)), "/ingest_limit/requests_per_second"),
        ("ingest_limit", limit(json!(1e308), json!(1)), "/ingest_limit/requests_per_second"),
        ("ingest_limit", limit(json!(1), json!("1")), "/ingest_limit/burst"),
        ("ingest_limit", limit(json!(1), json!(0)), "/ingest_limit/burst"),
        ("ingest_limit", limit(json!(1), json!(1.5)), "/ingest_limit/burst"),
        ("ingest_limit", limit(json!(1), json!(100_001)), "/ingest_limit/burst"),
        ("ingest_limit", json!({"requests_per_second": 1, "burst": 1, "zz": 1}), "/ingest_limit/zz"),
        ("max_subscriptions", json!(-1), "/max_subscriptions"),
        ("max_subscriptions", json!(1_000_001), "/max_subscriptions"),
        ("max_stored_bytes", json!(-1), "/max_stored_bytes"),
        ("max_stored_bytes", json!((1_u64 << 50) + 1), "/max_stored_bytes"),
        ("control_limit", json!({"requests_per_second": 1}), "/control_limit/burst"),
    ] {
        // Beside a good field, which must not be stored either.
        let mut body = json!({"rate_limit": good.clone()});
        body[field] = value.clone();
        let answer = client.put_json("/tenants/acme", body).await.expect(422);
        let pointers: Vec<_> =
            answer.json["errors"].as_array().unwrap().iter().map(|error| error["pointer"].clone()).collect();
        assert_eq!(pointers, [pointer], "{field} {value}: {}", answer.json);
    }
    assert_eq!(client.get("/tenants/acme").await.expect(200).json, unlimited("acme"), "nothing was stored");
    client.put_json("/tenants/acme", json!([])).await.expect(422);
    let call = client.call(Method::PUT, "/tenants/acme");
    call.bytes("application/json", "{").send().await.expect(400);
    let call = client.call(Method::PUT, "/tenants/acme");
    call.bytes("text/plain", "{}").send().await.expect(415);
}

async fn survive_a_restart(backend: Backend) {
    let mut posthorn = Posthorn::start(backend).await;
    let mut body = everything("acme");
    body.as_object_mut().unwrap().remove("tenant");
    posthorn.client().put_json("/tenants/acme", body).await.expect(200);
    // A node that was killed would keep its share of the limits for a lease.
    posthorn.restart_with(&[]).await;
    let client = posthorn.client();
    assert_eq!(client.get("/tenants/acme").await.expect(200).json, everything("acme"));
    let id = subscribe(client, "acme", json!({})).await;
    for _ in 0..20 {
        hand_in(client, &id).await.expect(202);
    }
    hand_in(client, &id).await.expect(429);
}

async fn quota_is_told_and_comes_back(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let id = subscribe(client, "acme", json!({})).await;
    limit(client, "acme", json!({"requests_per_second": 0.5, "burst": 3})).await;
    let before = Instant::now();
    let mut accepted = 0;
    let refused = loop {
        let answer = hand_in(client, &id).await.expect_any(&[202, 429]);
        if answer.status == 429 {
            break answer;
        }
        accepted += 1;
        let most = 3.0 + 0.5 * before.elapsed().as_secs_f64();
        assert!(f64::from(accepted) <= most, "{accepted} events in {:?}", before.elapsed());
    };
    assert!(accepted >= 3, "all of the burst: {accepted}");
    assert_eq!(refused.text("type"), "/problems/quota-spent");
    assert!(refused.text("detail").contains("ingest_limit"), "{}", refused.json);
    check_page(client, "/problems/quota-spent").await;
    check_page(client, "/problems/backlog-full").await;
    let retry_after: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=2).contains(&retry_after), "{retry_after}");

    // As long as the client was told to.
    tokio::time::sleep(Duration::from_secs(retry_after)).await;
    let next = hand_in(client, &id).await.expect(202).text("delivery_id");
    let sequence = client.delivery(&next).await["sequence"].clone();
    assert_eq!(sequence, accepted + 1, "what was refused took no number");
}

async fn quota_is_the_tenants_own(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    limit(client, "acme", slow(4)).await;
    let (one, two) = (subscribe(client, "acme", json!({})).await, subscribe(client, "acme", json!({})).await);
    let other = subscribe(client, "other", json!({})).await;
    for id in [&one, &two, &two, &one] {
        hand_in(client, id).await.expect(202);
    }
    for id in [&one, &two] {
        let refused = hand_in(client, id).await.expect(429);
        let retry_after: u64 = refused.header("retry-after").parse().unwrap();
        assert!((86_000..=86_400).contains(&retry_after), "a day: {retry_after}");
    }
    for _ in 0..20 {
        hand_in(client, &other).await.expect(202);
    }
}

async fn everything_handed_in_counts(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let id = subscribe(client, "acme", json!({})).await;
    limit(client, "acme", slow(4)).await;
    let idempotent = async || {
        let call = client.call(Method::POST, format!("/ingest/{id}")).json(&json!(1));
        call.header("idempotency-key", "the same").send().await
    };
    let first = idempotent().await.expect(202);
    let again = idempotent().await.expect(202);
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.text("delivery_id"), first.text("delivery_id"));
    client.post(format!("/subscriptions/{id}/test")).await.expect(202);
    hand_in(client, &id).await.expect(202);
    client.post(format!("/subscriptions/{id}/test")).await.expect(429);
    idempotent().await.expect(429);
}

async fn what_is_refused_before_spends_nothing(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[(ADMIN_KEY, "an-admin-key-of-some-length")]).await;
    let client = posthorn.client();
    let id = subscribe(client, "acme", json!({"secret_key": "hush"})).await;
    limit(client, "acme", slow(2)).await;
    let stranger = client.with_key(None);
    let send = async |from: &Client, kind: &str, body: &str, signature: String| {
        let call = from.call(Method::POST, format!("/ingest/{id}")).bytes(kind, body.to_owned());
        call.header("x-webhook-signature-256", signature).send().await
    };
    let signed = |body: &str| sha256_signature("hush", body.as_bytes());
    for _ in 0..3 {
        stranger.post_json(format!("/ingest/{id}"), json!(1)).await.expect(401);
        client.post_json(format!("/ingest/{id}"), json!(1)).await.expect(401);
        send(&stranger, "application/json", "1", signed("2")).await.expect(401);
        send(&stranger, "application/json", "{", signed("{")).await.expect(400);
        send(&stranger, "text/plain", "1", signed("1")).await.expect(415);
    }
    for status in [202, 202, 429] {
        send(&stranger, "application/json", "1", signed("1")).await.expect(status);
    }
    // Whether the quota is spent is nothing that a stranger learns.
    stranger.post_json(format!("/ingest/{id}"), json!(1)).await.expect(401);
}

async fn changed_quota_holds_at_once(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let id = subscribe(client, "acme", json!({})).await;
    // In use before anybody configures it.
    hand_in(client, &id).await.expect(202);
    for (ingest_limit, statuses) in [
        (slow(1), &[202, 429][..]),
        // The same goes on where it is.
        (slow(1), &[429]),
        (slow(3), &[202, 202, 202, 429]),
        (json!(null), &[202, 202, 202, 202, 202]),
        (slow(2), &[202, 202, 429]),
    ] {
        limit(client, "acme", ingest_limit).await;
        for status in statuses {
            hand_in(client, &id).await.expect(*status);
        }
    }
    client.put_json("/tenants/acme", json!({"max_in_flight": 1})).await.expect(200);
    hand_in(client, &id).await.expect(429);
}

async fn replays_count_as_handed_in(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let id = subscribe(client, "acme", json!({})).await;
    limit(client, "acme", slow(3)).await;
    let delivery = hand_in(client, &id).await.expect(202).text("delivery_id");
    for status in [202, 202, 429] {
        let answer = client.post(format!("/deliveries/{delivery}/replay")).await.expect(status);
        assert!(status == 202 || answer.text("type") == "/problems/quota-spent", "{}", answer.json);
    }
    hand_in(client, &id).await.expect(429);
}

async fn subscriptions_are_counted(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[("POSTHORN_TENANT_MAX_SUBSCRIPTIONS", "2")]).await;
    let client = posthorn.client();
    let create = |tenant: &str| {
        let body = json!({"target_url": TARGET, "tenant": tenant});
        async move { client.post_json("/subscriptions/", body).await }
    };
    // However many ask at once.
    let answers = futures_util::future::join_all((0..6).map(|_| create("acme"))).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
    assert_eq!(made.len(), 2, "as the configuration says");
    for answer in refused {
        let answer = answer.refuses_field(422, "tenant");
        assert_eq!(answer.text("type"), "/problems/too-many-subscriptions");
        assert!(answer.text("detail").contains("max_subscriptions"), "{}", answer.json);
    }
    check_page(client, "/problems/too-many-subscriptions").await;
    create("other").await.expect(201);
    // The tenant's own number goes before the configuration's; what is deleted does not count.
    let put = async |max: Value| {
        client.put_json("/tenants/acme", json!({"max_subscriptions": max})).await.expect(200);
    };
    put(json!(3)).await;
    create("acme").await.expect(201);
    create("acme").await.expect(422);
    client.delete(format!("/subscriptions/{}", made[0].text("id"))).await.expect(204);
    create("acme").await.expect(201);
    put(json!(0)).await;
    create("acme").await.expect(422);
    put(json!(null)).await;
    create("acme").await.expect(422);
}

async fn stored_bytes_are_counted(backend: Backend) {
    let settings = [("LOG_RETENTION_HOURS", "0.0005"), ("CLEANUP_INTERVAL_SECONDS", "0.2")];
    let posthorn = Posthorn::start_with(backend, &settings).await;
    let client = posthorn.client();
    let id = subscribe(client, "acme", json!({})).await;
    let other = subscribe(client, "other", json!({})).await;
    // Ten bytes each, before there is a limit.
    let ten = async |id: &str| client.post_json(format!("/ingest/{id}"), json!("12345678")).await;
    let mut deliveries = Vec::new();
    for _ in 0..5 {
        deliveries.push(ten(&id).await.expect(202).text("delivery_id"));
    }
    client.put_json("/tenants/acme", json!({"max_stored_bytes": 100})).await.expect(200);
    // What was there counts, and of those that come at once no more are let in than have room.
    let answers = futures_util::future::join_all((0..20).map(|_| ten(&id))).await;
    let accepted = answers.iter().filter(|answer| answer.status == 202).count();
    assert_eq!(accepted, 5, "{:?}", answers.iter().map(|answer| answer.status).collect::<Vec<_>>());
    let refused = ten(&id).await.expect(429);
    assert_eq!(refused.text("type"), "/problems/storage-full");
    assert!(refused.text("detail").contains("max_stored_bytes"), "{}", refused.json);
    check_page(client, "/problems/storage-full").await;
    ten(&other).await.expect(202);
    // A replay has no bytes of its own.
    client.post(format!("/deliveries/{}/replay", deliveries[1])).await.expect(202);
    // What retention removes makes room.
    client.post(format!("/deliveries/{}/skip", deliveries[0])).await.expect(200);
    eventually("there is room again", async || {
        let answer = ten(&id).await.expect_any(&[202, 429]);
        if answer.status == 202 { Ok(()) } else { Err(answer.json.to_string()) }
    })
    .await;
    ten(&id).await.expect(429);
    client.put_json("/tenants/acme", json!({"max_stored_bytes": null})).await.expect(200);
    ten(&id).await.expect(202);
}

async fn calls_of_a_tenants_keys_are_counted(backend: Backend) {
    let settings = [
        (ADMIN_KEY, "an-admin-key-of-some-length"),
        ("POSTHORN_TENANT_CONTROL_REQUESTS_PER_SECOND", "0.001"),
        ("POSTHORN_TENANT_CONTROL_BURST", "3"),
    ];
    let posthorn = Posthorn::start_with(backend, &settings).await;
    let admin = posthorn.client();
    let key = async |tenant: &str| {
        let made = admin.post_json("/keys", json!({"tenant": tenant})).await.expect(201).text("key");
        admin.with_key(Some(&made))
    };
    let id = subscribe(admin, "acme", json!({})).await;
    let (acme, again, other) = (key("acme").await, key("acme").await, key("other").await);
    acme.get(format!("/subscriptions/{id}")).await.expect(200);
    again.post(format!("/subscriptions/{id}/pause")).await.expect(200);
    acme.get("/subscriptions/").await.expect(200);
    for client in [&acme, &again] {
        let refused = client.get("/status/stats").await.expect(429);
        assert_eq!(refused.text("type"), "/problems/control-limit-spent");
        assert!(refused.text("detail").contains("control_limit"), "{}", refused.json);
    }
    check_page(admin, "/problems/control-limit-spent").await;
    other.get("/subscriptions/").await.expect(200);
    // Neither an admin's calls nor events count.
    for _ in 0..5 {
        admin.get(format!("/subscriptions/{id}")).await.expect(200);
        hand_in(&acme, &id).await.expect(202);
    }
    admin.put_json("/tenants/acme", json!({"control_limit": slow(1)})).await.expect(200);
    acme.get("/subscriptions/").await.expect(200);
    acme.get("/subscriptions/").await.expect(429);
}

/// A paused subscription of the tenant.
async fn subscribe(client: &Client, tenant: &str, mut fields: Value) -> String {
    fields["tenant"] = json!(tenant);
    let id = client.subscribe(TARGET, fields).await.id;
    client.post(format!("/subscriptions/{id}/pause")).await.expect(200);
    id
}

async fn limit(client: &Client, tenant: &str, ingest_limit: Value) {
    let body = json!({"ingest_limit": ingest_limit});
    client.put_json(format!("/tenants/{tenant}"), body).await.expect(200);
}

/// So many events, and one more in a day.
fn slow(burst: u32) -> Value {
    json!({"requests_per_second": 1.0 / 86_400.0, "burst": burst})
}

async fn hand_in(client: &Client, id: &str) -> Answer {
    client.post_json(format!("/ingest/{id}"), json!(1)).await
}

fn unlimited(name: &str) -> Value {
    json!({
        "tenant": name,
        "rate_limit": null,
        "max_in_flight": null,
        "ingest_limit": null,
        "max_subscriptions": null,
        "max_stored_bytes": null,
        "control_limit": null,
    })
}

fn everything(name: &str) -> Value {
    json!({
        "tenant": name,
        "rate_limit": {"requests_per_second": 2.5, "burst": 3},
        "max_in_flight": 65_536,
        "ingest_limit": {"requests_per_second": 0.1, "burst": 20},
        "max_subscriptions": 1_000_000,
        "max_stored_bytes": 1_u64 << 50,
        "control_limit": {"requests_per_second": 0.5, "burst": 100},
    })
}
