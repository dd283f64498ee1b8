//! The audit log: every change leaves a line, with who made it; each tenant sees its own.

use serde_json::{Value, json};

use crate::support::command::run;
use crate::support::server::ADMIN_KEY;
use crate::support::{Backend, Client, Posthorn, Receiver, Reply, eventually, on_both_databases};

on_both_databases!(
    every_change_leaves_a_line,
    each_tenant_sees_its_own,
    pages_lead_on,
    lines_are_kept_for_a_time
);

const ADMIN: (&str, &str) = (ADMIN_KEY, "an-admin-key-of-some-length-0123456789");

/// Whether a line tells of the right actor.
type By<'a> = &'a dyn Fn(&Value) -> bool;

async fn every_change_leaves_a_line(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[ADMIN]).await;
    let admin = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    let made = admin.post_json("/keys", json!({"tenant": "acme"})).await.expect(201).json;
    let (key, key_id) = (made["key"].as_str().unwrap(), made["id"].as_str().unwrap().to_owned());
    let acme = admin.with_key(Some(key));
    let id = acme.subscribe(&receiver.url("/"), json!({"secret_key": null})).await.id;
    let change = json!({"description": "canary-text", "secret_key": "canary-secret", "max_in_flight": 1});
    acme.put_json(format!("/subscriptions/{id}"), change).await.expect(200);
    acme.put_json(format!("/subscriptions/{id}"), json!({"description": null, "secret_key": null}))
        .await
        .expect(200);
    // Enabling what is enabled changes nothing.
    for act in ["pause", "resume", "enable", "signing-secret/rotate"] {
        acme.post(format!("/subscriptions/{id}/{act}")).await.expect(200);
    }
    let sent = acme.ingest(&id, json!("canary-payload")).await;
    receiver.ended(1).await;
    acme.delivery_in(&sent, "success").await;
    let replayed = acme.post(format!("/deliveries/{sent}/replay")).await.expect(202).text("delivery_id");
    acme.delivery_in(&replayed, "success").await;
    acme.post(format!("/subscriptions/{id}/pause")).await.expect(200);
    let held = acme.ingest(&id, json!(2)).await;
    acme.post(format!("/deliveries/{held}/retry")).await.expect(202);
    acme.post(format!("/deliveries/{held}/skip")).await.expect(200);
    admin.put_json("/tenants/acme", json!({"max_in_flight": 5})).await.expect(200);
    acme.delete(format!("/subscriptions/{id}")).await.expect(204);
    run(&posthorn.database, &["keys", "revoke", &key_id], &[]).await.succeeded();
    // What is refused, and what only reads, leaves none.
    admin.delete(format!("/subscriptions/{id}")).await.expect(404);
    admin.post(format!("/deliveries/{held}/skip")).await.expect(409);
    admin.post_json("/subscriptions/", json!({"target_url": "nonsense"})).await.expect(422);
    admin.get("/subscriptions/").await.expect(200);

    let listed = admin.get("/audit?limit=100").await.expect(200);
    assert!(
        !String::from_utf8_lossy(&listed.body).contains("canary"),
        "values are not told: {}",
        listed.json
    );
    let lines: Vec<_> = listed.json["items"].as_array().unwrap().iter().rev().cloned().collect();
    let by_key = |line: &Value| line["actor"] == "api_key" && line["key_id"] == key_id;
    let by_admin = |line: &Value| line["actor"] == "admin_key" && line["key_id"].is_null();
    let by_command = |line: &Value| line["actor"] == "command" && line["key_id"].is_null();
    let expected: [(&str, &str, By<'_>, &[&str]); 13] = [
        ("key.created", &key_id, &by_admin, &[]),
        ("subscription.created", &id, &by_key, &[]),
        ("subscription.updated", &id, &by_key, &["description", "max_in_flight", "secret_key"]),
        ("subscription.updated", &id, &by_key, &["description", "secret_key"]),
        ("subscription.paused", &id, &by_key, &[]),
        ("subscription.resumed", &id, &by_key, &[]),
        ("signing_secret.rotated", &id, &by_key, &[]),
        ("delivery.replayed", &sent, &by_key, &[]),
        ("subscription.paused", &id, &by_key, &[]),
        ("delivery.skipped", &held, &by_key, &[]),
        ("tenant.updated", "acme", &by_admin, &["max_in_flight"]),
        ("subscription.deleted", &id, &by_key, &[]),
        ("key.revoked", &key_id, &by_command, &[]),
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, (action, subject, by, fields)) in lines.iter().zip(expected) {
        assert_eq!((&line["action"], &line["subject"]), (&json!(action), &json!(subject)), "{line}");
        assert!(by(line), "{line}");
        assert_eq!(line["fields"], json!(fields), "{line}");
        assert_eq!(line["tenant"], "acme", "{line}");
    }
}

async fn each_tenant_sees_its_own(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[ADMIN]).await;
    let admin = posthorn.client();
    let key = |tenant: &'static str| async move {
        let made = admin.post_json("/keys", json!({"tenant": tenant})).await.expect(201).json;
        admin.with_key(made["key"].as_str())
    };
    let (acme, globex) = (key("acme").await, key("globex").await);
    admin.post_json("/keys", json!({})).await.expect(201);
    acme.subscribe("http://127.0.0.1:9/", json!({})).await;
    let tenants = async |client: &Client, query: &str| -> Vec<Value> {
        let listed = client.get(format!("/audit{query}")).await.expect(200).json;
        listed["items"].as_array().unwrap().iter().map(|line| line["tenant"].clone()).collect()
    };
    assert_eq!(tenants(&acme, "").await, ["acme", "acme"]);
    assert_eq!(tenants(&globex, "").await, ["globex"]);
    assert_eq!(tenants(&globex, "?tenant=acme").await, [""; 0]);
    assert_eq!(tenants(&globex, "?tenant=nobody").await, [""; 0]);
    assert_eq!(tenants(admin, "?tenant=acme").await, ["acme", "acme"]);
    let all = tenants(admin, "").await;
    assert_eq!(all, [json!("acme"), Value::Null, json!("globex"), json!("acme")]);
    admin.with_key(None).get("/audit").await.expect(401);
}

async fn pages_lead_on(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let client = posthorn.client();
    let id = client.subscribe("http://127.0.0.1:9/", json!({})).await.id;
    for act in ["pause", "resume"].into_iter().cycle().take(6) {
        client.post(format!("/subscriptions/{id}/{act}")).await.expect(200);
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = client.get(format!("/audit?limit=3{cursor}")).await.expect(200).json;
        seen.extend(
            page["items"].as_array().unwrap().iter().map(|line| line["id"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen.len(), 7);
    assert!(seen.is_sorted_by(|newer, older| newer > older), "{seen:?}");
    let line = client.get("/audit?limit=1").await.expect(200).json;
    assert_eq!(
        (&line["items"][0]["actor"], &line["items"][0]["tenant"]),
        (&json!("anyone"), &json!("default"))
    );
    for cursor in ["junk", "AAAA", ""] {
        client.get(format!("/audit?cursor={cursor}")).await.expect(400);
    }
    client.get("/audit?limit=101").await.expect(422);
}

async fn lines_are_kept_for_a_time(backend: Backend) {
    let settings = [("POSTHORN_AUDIT_RETENTION_HOURS", "0.001"), ("CLEANUP_INTERVAL_SECONDS", "0.2")];
    let posthorn = Posthorn::start_with(backend, &settings).await;
    let client = posthorn.client();
    client.subscribe("http://127.0.0.1:9/", json!({})).await;
    assert_eq!(client.get("/audit").await.expect(200).json["items"].as_array().unwrap().len(), 1);
    eventually("the line is old enough", async || {
        let listed = client.get("/audit").await.expect(200).json;
        if listed["items"] == json!([]) { Ok(()) } else { Err(listed.to_string()) }
    })
    .await;
}
