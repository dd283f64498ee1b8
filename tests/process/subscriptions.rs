//! Subscriptions: created, shown, listed, changed and deleted.

use serde_json::{Value, json};

use crate::support::{Answer, Backend, Client, Posthorn, Receiver, Reply, on_both_databases};

on_both_databases!(
    created_with_defaults,
    created_with_every_field,
    listed_in_pages,
    changed_in_part,
    what_is_shown_can_be_put_back,
    what_is_paused_is_resumed_and_not_enabled,
    what_is_disabled_is_held_until_it_is_enabled,
    deleted_for_good,
    slash_at_the_end_makes_no_difference,
    survives_a_restart,
);

const TARGET: &str = "http://127.0.0.1:9/hook";

async fn created_with_defaults(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let created = client.post_json("/subscriptions/", json!({"target_url": TARGET})).await.expect(201);
    let id = created.text("id");
    assert!(created.header("location").ends_with(&format!("/subscriptions/{id}")), "{:?}", created.headers);
    assert_eq!(uuid::Uuid::parse_str(&id).unwrap().get_version_num(), 7, "{id}");
    assert!(created.text("signing_secret").starts_with("whsec_"), "{}", created.json);
    check_fields(
        &created.json,
        &json!({
            "target_url": TARGET, "tenant": "default", "description": null, "ordering": "strict",
            "status": "active", "status_reason": null, "secret_key_set": false, "rate_limit": null,
        }),
    );
    check_fields(
        &created.json["circuit"],
        &json!({"state": "closed", "consecutive_failures": 0, "retry_at": null}),
    );
    check_time(&created.json["created_at"]);
    assert_eq!(created.json["created_at"], created.json["updated_at"]);

    let shown = client.subscription(&id).await;
    assert!(shown.get("signing_secret").is_none(), "shown at creation alone: {shown}");
    let secret = client.get(format!("/subscriptions/{id}/signing-secret")).await.expect(200);
    assert_eq!(secret.json, json!({"signing_secret": created.text("signing_secret")}));
    let another = client.subscribe(TARGET, json!({})).await;
    assert_ne!(another.signing_secret, created.text("signing_secret"));
}

fn everything() -> Value {
    json!({
        "target_url": "https://example.com/hooks?a=1&b=%20",
        "tenant": "acme",
        "description": "Größe, 大きさ and ' OR 1=1 --",
        "headers": {"x-team": "orders", "authorization": "Basic eDp5"},
        "ordering": "key",
        "max_in_flight": 7,
        "rate_limit": {"requests_per_second": 2.5, "burst": 3},
        "retry": {
            "max_retries": 2, "initial_delay_seconds": 0.5, "max_delay_seconds": 8.0, "on_exhausted": "pause",
        },
        "timeout_seconds": 1.5,
    })
}

async fn created_with_every_field(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let mut body = everything();
    body["secret_key"] = json!("hush");
    let created = client.post_json("/subscriptions", body).await.expect(201);
    let id = created.text("id");
    for shown in [created.json, client.subscription(&id).await] {
        check_fields(&shown, &everything());
        assert_eq!(shown["secret_key_set"], true);
        assert!(!shown.to_string().contains("hush"), "never shown again: {shown}");
    }
}

async fn listed_in_pages(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let empty = client.get("/subscriptions/").await.expect(200).json;
    check_fields(&empty, &json!({"items": [], "total": 0, "page": 1, "limit": 10, "pages": 0}));
    let mut ids = Vec::new();
    for index in 0..12 {
        let tenant = if index % 3 == 0 { "a_b" } else { "axb" };
        ids.push(client.subscribe(TARGET, json!({"tenant": tenant})).await.id);
    }
    client.post(format!("/subscriptions/{}/pause", ids[5])).await.expect(200);
    for (query, total, items, pages) in [
        ("", 12, 10, 2),
        ("?page=2", 12, 2, 2),
        ("?page=3", 12, 0, 2),
        ("?limit=5&page=3", 12, 2, 3),
        ("?limit=100", 12, 12, 1),
        ("?tenant=a_b", 4, 4, 1),
        ("?tenant=axb&limit=3", 8, 3, 3),
        ("?tenant=%25", 0, 0, 0),
        ("?tenant=nobody", 0, 0, 0),
        ("?status=paused", 1, 1, 1),
        ("?status=active&limit=100", 11, 11, 1),
        ("?status=disabled", 0, 0, 0),
        ("?status=paused&tenant=a_b", 0, 0, 0),
    ] {
        // A name that no tenant can have may also be refused.
        let listed = client.get(format!("/subscriptions/{query}")).await;
        if query == "?tenant=%25" && listed.status == 422 {
            continue;
        }
        let listed = listed.expect(200).json;
        let counts = (&listed["total"], listed["items"].as_array().unwrap().len(), &listed["pages"]);
        assert_eq!(counts, (&json!(total), items, &json!(pages)), "{query}: {listed}");
    }
    let mut seen: Vec<String> = Vec::new();
    for page in 1..=4 {
        let listed = client.get(format!("/subscriptions/?limit=3&page={page}")).await.expect(200).json;
        seen.extend(
            listed["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()),
        );
    }
    seen.sort();
    assert_eq!(seen, ids, "every one once over the pages");
}

async fn changed_in_part(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let id = client.subscribe(TARGET, json!({"secret_key": "hush"})).await.id;
    let path = format!("/subscriptions/{id}");
    let put = async |body: Value| -> Value { client.put_json(path.clone(), body).await.expect(200).json };

    let before = client.subscription(&id).await;
    let same = put(json!({})).await;
    check_fields(&same, &without(&before, &["updated_at"]));
    let mut change = everything();
    change.as_object_mut().unwrap().remove("tenant");
    check_fields(&put(change.clone()).await, &change.clone());
    check_fields(&client.subscription(&id).await, &change.clone());

    // What is absent stays, null clears.
    check_fields(
        &put(json!({"description": "new"})).await,
        &json!({"description": "new", "ordering": "key"}),
    );
    for (field, cleared) in
        [("description", json!(null)), ("rate_limit", json!(null)), ("secret_key", json!(null))]
    {
        let answer = put(json!({field: null})).await;
        if field == "secret_key" {
            assert_eq!(answer["secret_key_set"], false, "{answer}");
        } else {
            assert_eq!(answer[field], cleared, "{field}: {answer}");
        }
    }
    let fresh = client.subscription(&client.subscribe(TARGET, json!({})).await.id).await;
    for field in ["headers", "retry", "timeout_seconds", "max_in_flight", "ordering"] {
        let answer = client.put_json(path.clone(), json!({field: null})).await;
        // Those that must have a value may refuse null instead.
        if answer.status == 200 {
            // A new one is `strict` and has one in flight; this one is not, and follows the configuration.
            let cleared = if field == "max_in_flight" { &Value::Null } else { &fresh[field] };
            assert_eq!(&answer.json[field], cleared, "{field}: {}", answer.json);
        } else {
            answer.refuses_field(422, field);
        }
    }
    let after = client.subscription(&id).await;
    assert_eq!(after["created_at"], before["created_at"]);
    assert!(after["updated_at"].as_str() >= before["updated_at"].as_str(), "{after}");
}

async fn what_is_shown_can_be_put_back(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    for fields in [json!({"target_url": TARGET}), everything()] {
        let id = client.post_json("/subscriptions", fields).await.expect(201).text("id");
        let path = format!("/subscriptions/{id}");
        let mut shown = client.subscription(&id).await;
        shown["description"] = json!("the second");
        let updated = client.put_json(path.clone(), shown.clone()).await.expect(200).json;
        assert_eq!(updated["description"], "the second");
        shown["updated_at"] = updated["updated_at"].clone();
        assert_eq!(updated, shown, "all else stays");

        // The circuit moves on by itself, and so does what it was read beside.
        shown["circuit"]["consecutive_failures"] = json!(7);
        shown["updated_at"] = json!("2020-01-01T00:00:00.000Z");
        client.put_json(path.clone(), shown.clone()).await.expect(200);
        for (field, value) in [
            ("id", json!("0193a1b2-0000-7000-8000-000000000000")),
            ("tenant", json!("another")),
            ("status", json!("paused")),
            ("secret_key_set", json!(true)),
            ("created_at", json!(null)),
        ] {
            let mut body = shown.clone();
            body[field] = value;
            body["description"] = json!("the third");
            client.put_json(path.clone(), body).await.refuses_field(422, field);
        }
        assert_eq!(
            client.subscription(&id).await["description"],
            "the second",
            "nothing of what was refused"
        );
    }
}

async fn what_is_paused_is_resumed_and_not_enabled(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let id = client.subscribe(TARGET, json!({})).await.id;
    client.post(format!("/subscriptions/{id}/enable")).await.expect(200);
    client.post(format!("/subscriptions/{id}/pause")).await.expect(200);
    let refused = client.post(format!("/subscriptions/{id}/enable")).await.expect(409);
    assert_eq!(refused.json["type"], "/problems/subscription-paused");
    assert!(refused.text("detail").contains("/resume"), "{}", refused.json);
    assert_eq!(client.subscription(&id).await["status"], "paused");
    client.post(format!("/subscriptions/{id}/resume")).await.expect(200);
    client.post(format!("/subscriptions/{id}/enable")).await.expect(200);
}

async fn what_is_disabled_is_held_until_it_is_enabled(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    for before in ["pause", "resume"] {
        let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
        client.post(format!("/subscriptions/{id}/pause")).await.expect(200);
        let delivery = client.ingest(&id, json!(before)).await;
        let seen = receiver.requests().len();
        if before == "resume" {
            client.post(format!("/subscriptions/{id}/resume")).await.expect(200);
            receiver.ended(seen + 1).await;
        }
        for _ in 0..2 {
            let disabled = client.post(format!("/subscriptions/{id}/disable")).await.expect(200).json;
            assert_eq!((&disabled["status"], &disabled["status_reason"]), (&json!("disabled"), &json!(null)));
        }
        let refused = client.post_json(format!("/ingest/{id}"), json!(2)).await.expect(409);
        assert_eq!(refused.json["type"], "/problems/subscription-disabled");
        for act in ["pause", "resume"] {
            client.post(format!("/subscriptions/{id}/{act}")).await.expect(409);
        }
        if before == "pause" {
            let held = client.delivery(&delivery).await;
            assert_eq!(held["waiting_for"]["reason"], "disabled", "{held}");
        }
        client.post(format!("/subscriptions/{id}/enable")).await.expect(200);
        client.delivery_in(&delivery, "success").await;
        client.ingest(&id, json!("after")).await;
        receiver.ended(seen + 2).await;
        let audit = client.get("/audit?limit=100").await.expect(200).json.to_string();
        assert!(audit.contains("subscription.disabled"), "{audit}");
    }
}

async fn deleted_for_good(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let id = client.subscribe(TARGET, json!({})).await.id;
    let other = client.subscribe(TARGET, json!({})).await.id;
    client.post(format!("/subscriptions/{id}/pause")).await.expect(200);
    let delivery = client.ingest(&id, json!(1)).await;
    let deleted: Answer = client.delete(format!("/subscriptions/{id}")).await.expect(204);
    assert!(deleted.body.is_empty());
    client.get(format!("/subscriptions/{id}")).await.expect(404);
    client.put_json(format!("/subscriptions/{id}"), json!({})).await.expect(404);
    client.delete(format!("/subscriptions/{id}")).await.expect(404);
    client.post(format!("/subscriptions/{id}/resume")).await.expect(404);
    client.post(format!("/subscriptions/{id}/test")).await.expect(404);
    client.get(format!("/subscriptions/{id}/signing-secret")).await.expect(404);
    client.post_json(format!("/ingest/{id}"), json!({})).await.expect(404);
    client.get(format!("/deliveries/{delivery}")).await.expect(200);
    let refused = client.post(format!("/deliveries/{delivery}/replay")).await.expect(409);
    assert_eq!(refused.json["type"], "/problems/subscription-deleted");
    let listed = client.get("/subscriptions/").await.expect(200).json;
    assert_eq!(listed["total"], 1, "{listed}");
    assert_eq!(listed["items"][0]["id"], other.as_str());
}

async fn slash_at_the_end_makes_no_difference(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client: &Client = posthorn.client();
    let id = client.subscribe(TARGET, json!({})).await.id;
    client.post(format!("/subscriptions/{id}/pause/")).await.expect(200);
    let delivery =
        client.post_json(format!("/ingest/{id}/"), json!({})).await.expect(202).text("delivery_id");
    for path in [
        "/health".to_owned(),
        "/health/ready".to_owned(),
        "/subscriptions".to_owned(),
        format!("/subscriptions/{id}"),
        format!("/subscriptions/{id}/deliveries"),
        format!("/subscriptions/{id}/signing-secret"),
        format!("/deliveries/{delivery}"),
        format!("/deliveries/{delivery}/payload"),
        format!("/status/deliveries/{delivery}/status"),
        format!("/status/subscriptions/{id}/attempts"),
        "/status/stats".to_owned(),
        "/status/activity?limit=3".to_owned(),
        "/openapi.json".to_owned(),
        "/docs".to_owned(),
    ] {
        let (bare, query) = path.split_once('?').map_or((path.as_str(), ""), |(bare, query)| (bare, query));
        let without = client.get(format!("{bare}?{query}")).await.expect(200);
        let with = client.get(format!("{bare}/?{query}")).await.expect(200);
        assert!(with.body == without.body || with.json.is_object(), "{path}");
    }
}

async fn survives_a_restart(backend: Backend) {
    let mut posthorn = Posthorn::start(backend).await;
    let created = posthorn.client().post_json("/subscriptions/", everything()).await.expect(201);
    let id = created.text("id");
    let before = posthorn.client().subscription(&id).await;
    posthorn.kill().await;
    posthorn.start_again().await;
    assert_eq!(posthorn.client().subscription(&id).await, before);
    let secret = posthorn.client().get(format!("/subscriptions/{id}/signing-secret")).await.expect(200);
    assert_eq!(secret.text("signing_secret"), created.text("signing_secret"));
}

/// Every field of `expected` stands so in `shown`.
fn check_fields(shown: &Value, expected: &Value) {
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&shown[name], value, "{name} of {shown}");
    }
}

fn without(value: &Value, names: &[&str]) -> Value {
    let mut value = value.clone();
    value.as_object_mut().unwrap().retain(|name, _| !names.contains(&name.as_str()));
    value
}

/// RFC 3339, UTC, with milliseconds.
fn check_time(value: &Value) {
    let text = value.as_str().unwrap_or_default();
    let shaped = text.len() == "2026-01-01T00:00:00.000Z".len() && text.ends_with('Z');
    assert!(
        shaped && chrono::DateTime::parse_from_rfc3339(text).is_ok(),
        "{value} is no time of the contract"
    );
}
