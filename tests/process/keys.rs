//! API keys: made, listed, revoked, expired and guessed; and what a tenant's key does not see.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::command::run;
use crate::support::database::Database;
use crate::support::server::{ADMIN_KEY, ENCRYPTION_KEY};
use crate::support::{Answer, Backend, Client, Posthorn, Receiver, Reply, eventually, on_both_databases};

on_both_databases!(
    keys_are_made_listed_and_revoked,
    a_tenants_key_finds_nothing_of_another,
    a_tenants_key_opens_what_is_its_own,
    lists_and_counts_are_the_tenants_own,
    admins_things_are_forbidden,
    events_are_handed_in_by_the_right_tenant,
    keys_end,
    guesses_are_kept_waiting,
    right_keys_pass_where_others_guess,
    the_first_key_closes_the_door_for_good,
    a_key_made_elsewhere_closes_the_door,
    the_last_admin_key_of_production_stays,
    keys_are_made_without_the_service,
    nobody_reads_a_key_in_the_database,
);

const ADMIN: (&str, &str) = (ADMIN_KEY, "an-admin-key-of-some-length-0123456789");
/// For the command and for a server on loopback.
const PRODUCTION: [(&str, &str); 2] =
    [("POSTHORN_PROFILE", "production"), (ENCRYPTION_KEY, "SSrcNMXR3Nljf/YQXgQnV3SIWXhN93O1/v6FfILmk14=")];
/// Nothing listens there.
const TARGET: &str = "http://127.0.0.1:9/hook";
const RANDOM: &str = "019a2f6e-6d3c-7b1e-9c54-2f1d7a80c6b1";

async fn keys_are_made_listed_and_revoked(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[ADMIN]).await;
    let admin = posthorn.client();
    let made =
        admin.post_json("/keys", json!({"name": "CI, ‹acme›", "tenant": "acme"})).await.expect(201).json;
    let key = made["key"].as_str().unwrap();
    assert!(key.starts_with("posthorn_") && key.len() == 73, "{key}");
    let second = admin.post_json("/keys/", json!({"name": null, "tenant": null})).await.expect(201).json;
    assert_ne!(second["key"], made["key"]);
    assert_eq!(second["tenant"], Value::Null);

    let listed = admin.get("/keys").await.expect(200).json;
    assert_eq!(listed["total"], 2);
    assert_eq!(listed["items"][0]["id"], second["id"], "the newest first");
    assert!(listed["items"][1].get("key").is_none(), "never shown again: {listed}");
    assert_eq!(listed["items"][1]["name"], "CI, ‹acme›");
    assert_eq!(listed["items"][1]["last_used_at"], Value::Null);
    let of_acme = admin.get("/keys?tenant=acme").await.expect(200).json;
    assert_eq!((&of_acme["total"], &of_acme["items"][0]["id"]), (&json!(1), &made["id"]));
    let page = admin.get("/keys?page=2&limit=1").await.expect(200).json;
    assert_eq!((&page["items"][0]["id"], &page["pages"]), (&made["id"], &json!(2)));

    let tenant = admin.with_key(Some(key));
    tenant.get("/subscriptions/").await.expect(200);
    eventually("the use is noted", async || {
        let listed = admin.get("/keys?tenant=acme").await.expect(200).json;
        let used = &listed["items"][0]["last_used_at"];
        if used.is_null() { Err(listed.to_string()) } else { Ok(()) }
    })
    .await;
    // The second opens everything, the listing of keys, too.
    let second_admin = admin.with_key(second["key"].as_str());
    second_admin.get("/keys").await.expect(200);
    let id = made["id"].as_str().unwrap();
    second_admin.delete(format!("/keys/{id}")).await.expect(204);
    tenant.get("/subscriptions/").await.expect(401);
    admin.delete(format!("/keys/{id}")).await.expect(404);
    assert_eq!(admin.get("/keys").await.expect(200).json["total"], 1);

    for (body, pointer) in [
        (json!({"tenant": "a b"}), "/tenant"),
        (json!({"name": "a\nb"}), "/name"),
        (json!({"name": "a".repeat(101)}), "/name"),
        (json!({"expires_at": "2020-01-01T00:00:00Z"}), "/expires_at"),
        (json!({"expires_at": "tomorrow"}), "/expires_at"),
        (json!({"key": "mine"}), "/key"),
    ] {
        let refused = admin.post_json("/keys", body).await.expect(422).json;
        assert_eq!(refused["errors"][0]["pointer"], pointer, "{refused}");
    }
}

/// On every operation of the document that names a subscription or a delivery, another's id answers as one that is
/// nobody's: status, headers and body.
async fn a_tenants_key_finds_nothing_of_another(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[ADMIN]).await;
    let admin = posthorn.client();
    let other = Others::make(admin).await;
    let acme = key_of(admin, "acme").await;
    let mut compared = 0;
    for (method, template) in admin.document().operations().into_keys() {
        let method: Method = method.to_uppercase().parse().unwrap();
        let Some((before, rest)) = template.split_once('{') else { continue };
        let (name, after) = rest.split_once('}').unwrap();
        let others: &[&str] = match name {
            "subscription_id" => &[&other.subscription],
            "delivery_id" => &[&other.delivery, &other.of_deleted],
            "id" if before.contains("subscriptions") => &[&other.subscription],
            "id" if before.contains("deliveries") => &[&other.delivery, &other.of_deleted],
            "tenant" => &["globex"],
            _ => continue,
        };
        let random = if name == "tenant" { "nobody" } else { RANDOM };
        let ask = async |of: &str| {
            let call = acme.call(method.clone(), format!("{before}{of}{after}"));
            let body = matches!(method, Method::PUT) || before.contains("ingest");
            let call = if body { call.json(&json!({})) } else { call };
            call.send().await
        };
        let nobodys = ask(random).await.expect_any(&[404, 403]);
        for of in others {
            let answer = ask(of).await;
            assert_eq!(seen(&answer), seen(&nobodys), "{method} {template}");
            compared += 1;
        }
    }
    assert!(compared >= 20, "{compared} operations are too few to be all");
    // And nothing of it did anything.
    let untouched = admin.subscription(&other.subscription).await;
    assert_eq!((&untouched["status"], &untouched["description"]), (&json!("active"), &json!("theirs")));
    assert_eq!(admin.delivery(&other.delivery).await["status"], "success");
}

/// Status, headers but the date, and body.
fn seen(answer: &Answer) -> String {
    let mut headers = answer.headers.clone();
    headers.remove("date");
    format!("{} {headers:?} {}", answer.status, String::from_utf8_lossy(&answer.body))
}

/// What another tenant has.
struct Others {
    subscription: String,
    delivery: String,
    /// A delivery whose subscription was deleted.
    of_deleted: String,
}

impl Others {
    async fn make(admin: &Client) -> Self {
        let receiver = Receiver::always(Reply::status(200)).await;
        let make = async || {
            let fields = json!({"tenant": "globex", "description": "theirs"});
            let subscription = admin.subscribe(&receiver.url("/"), fields).await.id;
            let delivery = admin.ingest(&subscription, json!({"secret": "of globex"})).await;
            ended(admin, &delivery).await;
            (subscription, delivery)
        };
        let (subscription, delivery) = make().await;
        let (deleted, of_deleted) = make().await;
        admin.delete(format!("/subscriptions/{deleted}")).await.expect(204);
        Self { subscription, delivery, of_deleted }
    }
}

async fn a_tenants_key_opens_what_is_its_own(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[ADMIN]).await;
    let admin = posthorn.client();
    let acme = key_of(admin, "acme").await;
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = acme.subscribe(&receiver.url("/"), json!({})).await.id;
    assert_eq!(acme.subscription(&id).await["tenant"], "acme", "its own where none is named");
    acme.subscribe(&receiver.url("/"), json!({"tenant": "acme"})).await;
    let refused = json!({"target_url": TARGET, "tenant": "globex"});
    acme.post_json("/subscriptions/", refused).await.expect(403);

    acme.put_json(format!("/subscriptions/{id}"), json!({"description": "mine"})).await.expect(200);
    for act in ["pause", "resume", "disable", "enable", "signing-secret/rotate"] {
        acme.post(format!("/subscriptions/{id}/{act}")).await.expect(200);
    }
    acme.get(format!("/subscriptions/{id}/signing-secret")).await.expect(200);
    acme.post(format!("/subscriptions/{id}/test")).await.expect(202);
    let delivery = acme.ingest(&id, json!(1)).await;
    ended(&acme, &delivery).await;
    for path in [
        format!("/subscriptions/{id}/deliveries"),
        format!("/deliveries/{delivery}/payload"),
        format!("/status/deliveries/{delivery}/status"),
        format!("/status/subscriptions/{id}/attempts"),
        "/tenants/acme".to_owned(),
    ] {
        acme.get(path).await.expect(200);
    }
    acme.post(format!("/deliveries/{delivery}/replay")).await.expect(202);
    acme.post(format!("/deliveries/{delivery}/retry")).await.expect(409);
    acme.delete(format!("/subscriptions/{id}")).await.expect(204);
    acme.get(format!("/deliveries/{delivery}")).await.expect(200);
}

async fn lists_and_counts_are_the_tenants_own(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[ADMIN]).await;
    let admin = posthorn.client();
    let other = Others::make(admin).await;
    let (acme, globex) = (key_of(admin, "acme").await, key_of(admin, "globex").await);
    let nothing = acme.get("/status/stats").await.expect(200).json;
    for field in ["total_subscriptions", "pending_deliveries", "recent_success_count", "circuits_open"] {
        assert_eq!(nothing[field], 0, "{nothing}");
    }
    assert_eq!(nothing["success_rate"], Value::Null);
    assert_eq!(acme.get("/status/activity?limit=100").await.expect(200).json, json!([]));
    for query in ["", "?tenant=acme", "?tenant=globex", "?tenant=nobody", "?tenant=globex&status=active"] {
        let listed = acme.get(format!("/subscriptions/{query}")).await.expect(200).json;
        assert_eq!((&listed["total"], &listed["items"]), (&json!(0), &json!([])), "{query}");
    }

    let id = acme.subscribe(TARGET, json!({"retry": {"max_retries": 0}})).await.id;
    let failed = acme.ingest(&id, json!(1)).await;
    ended(&acme, &failed).await;
    acme.post(format!("/subscriptions/{id}/pause")).await.expect(200);
    acme.ingest(&id, json!(2)).await;
    let expected = [
        ("total_subscriptions", 1),
        ("active_subscriptions", 0),
        ("pending_deliveries", 1),
        ("recent_success_count", 0),
        ("recent_failure_count", 1),
    ];
    // What was counted is kept for a while.
    eventually("the tenant's own are counted", async || {
        let own = acme.get("/status/stats").await.expect(200).json;
        if expected.iter().all(|(field, count)| own[field] == *count) { Ok(()) } else { Err(own.to_string()) }
    })
    .await;
    let theirs = globex.get("/status/stats").await.expect(200).json;
    assert_eq!((&theirs["total_subscriptions"], &theirs["recent_success_count"]), (&json!(1), &json!(2)));
    let all = admin.get("/status/stats").await.expect(200).json;
    assert_eq!((&all["total_subscriptions"], &all["recent_success_count"]), (&json!(2), &json!(2)));

    let activity = acme.get("/status/activity?limit=100").await.expect(200).json;
    let kinds: Vec<_> =
        activity.as_array().unwrap().iter().map(|item| item["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["delivery_attempt", "subscription_created"]);
    assert!(activity.as_array().unwrap().iter().all(|item| item["subscription_id"] == *id), "{activity}");
    let listed = globex.get("/subscriptions/").await.expect(200).json;
    assert_eq!((&listed["total"], &listed["items"][0]["id"]), (&json!(1), &json!(other.subscription)));
}

async fn admins_things_are_forbidden(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[ADMIN]).await;
    let acme = key_of(posthorn.client(), "acme").await;
    for (method, path) in [
        (Method::GET, "/cluster"),
        (Method::GET, "/keys"),
        (Method::POST, "/keys"),
        (Method::DELETE, &format!("/keys/{RANDOM}")),
        (Method::PUT, "/tenants/acme"),
        (Method::PUT, "/tenants/globex"),
    ] {
        let call = acme.call(method.clone(), path);
        let call =
            if method == Method::GET || method == Method::DELETE { call } else { call.json(&json!({})) };
        let refused = call.send().await.expect(403);
        assert_eq!(refused.json["type"], "/problems/forbidden", "{method} {path}");
    }
}

async fn events_are_handed_in_by_the_right_tenant(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[ADMIN]).await;
    let admin = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    let fields = json!({"tenant": "globex", "secret_key": "of globex"});
    let signed = admin.subscribe(&receiver.url("/"), fields).await.id;
    let (acme, globex) = (key_of(admin, "acme").await, key_of(admin, "globex").await);
    let body = b"{}";
    let signature = crate::support::signature::sha256_signature("of globex", body);
    let send = async |client: &Client, signature: Option<&str>| {
        let call = client.call(Method::POST, format!("/ingest/{signed}")).bytes("application/json", body);
        let call = match signature {
            Some(signature) => call.header("x-webhook-signature-256", signature),
            None => call,
        };
        call.send().await.status
    };
    let stranger = admin.with_key(None);
    let wrong = admin.with_key(Some("posthorn_wrong"));
    for (client, signature, status) in [
        (&globex, Some(&*signature), 202),
        (&globex, None, 401),
        (&stranger, Some(&*signature), 202),
        (&stranger, None, 401),
        (&wrong, Some(&*signature), 202),
        (&wrong, None, 401),
        (&acme, None, 404),
        (&acme, Some(&*signature), 404),
    ] {
        assert_eq!(send(client, signature).await, status);
    }
}

async fn keys_end(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[ADMIN]).await;
    let admin = posthorn.client();
    let soon = chrono::Utc::now() + Duration::from_secs(2);
    let made = admin.post_json("/keys", json!({"expires_at": soon.to_rfc3339()})).await.expect(201).json;
    let brief = admin.with_key(made["key"].as_str());
    brief.get("/keys").await.expect(200);
    let ended = eventually("the key ends", async || {
        let status = brief.get("/keys").await.expect_any(&[200, 401]).status;
        if status == 401 { Ok(chrono::Utc::now()) } else { Err(status.to_string()) }
    })
    .await;
    assert!((ended - soon).abs() < chrono::TimeDelta::seconds(1), "{soon} {ended}");

    // Behind the server's back: found out in time although nobody tells it.
    let made = admin.post_json("/keys", json!({})).await.expect(201).json;
    let revoked = admin.with_key(made["key"].as_str());
    revoked.get("/keys").await.expect(200);
    let id = made["id"].as_str().unwrap();
    run(&posthorn.database, &["keys", "revoke", id], &[]).await.succeeded();
    let began = Instant::now();
    eventually("the key is revoked", async || is(401, &revoked.get("/keys").await)).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

async fn guesses_are_kept_waiting(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[ADMIN]).await;
    let admin = posthorn.client();
    let acme = key_of(admin, "acme").await;
    acme.get("/subscriptions/").await.expect(200);
    let mut refused = 0;
    // One that is wrong over and over guesses nothing.
    for _ in 0..100 {
        admin.with_key(Some("posthorn_wrong")).get("/subscriptions/").await.expect(401);
    }
    for n in 0..100 {
        let guess = admin.with_key(Some(&format!("posthorn_{n:064}")));
        let answer = guess.get("/subscriptions/").await.expect_any(&[401, 429]);
        if answer.status == 429 {
            assert_eq!(answer.json["type"], "/problems/too-many-wrong-keys");
            assert_eq!(answer.headers["retry-after"], "5");
            refused += 1;
        } else {
            assert_eq!(refused, 0, "one that waits is let in");
        }
    }
    assert!((20..=60).contains(&refused), "{refused} of 100");
    // Who has a right key goes on, and what needs none, too.
    acme.get("/subscriptions/").await.expect(200);
    admin.get("/subscriptions/").await.expect(200);
    admin.with_key(Some("wrong")).get("/health").await.expect(200);
    admin.with_key(None).get("/subscriptions/").await.expect(401);
    eventually("the wait is over", async || {
        is(401, &admin.with_key(Some("posthorn_late")).get("/subscriptions/").await)
    })
    .await;
}

/// Of others, who share the address of who guesses.
async fn right_keys_pass_where_others_guess(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[ADMIN]).await;
    let admin = posthorn.client();
    let acme = key_of(admin, "acme").await;
    let never_used = key_of(admin, "acme").await;
    acme.get("/subscriptions/").await.expect(200);
    let used_at = Instant::now();
    let guesses = AtomicU32::new(0);
    let guess = async || {
        let n = guesses.fetch_add(1, Ordering::Relaxed);
        admin.with_key(Some(&format!("posthorn_{n:064}"))).get("/subscriptions/").await.status
    };
    // By then the key is looked up again.
    while used_at.elapsed() < Duration::from_millis(4_300) {
        guess().await;
    }
    eventually("right keys are looked up while wrong ones are not", async || {
        while guess().await != 429 {}
        let (known, new) = (acme.get("/subscriptions/").await, never_used.get("/subscriptions/").await);
        let still = guess().await;
        // Another moment is tried where the wait ended meanwhile.
        if (new.status, still) != (429, 429) {
            return Err(format!("{} {still}", new.status));
        }
        known.expect(200);
        Ok(())
    })
    .await;
    // It is a key for all that: once revoked, it opens nothing, and guesses no better than others.
    let listed = admin.get("/keys?tenant=acme").await.expect(200).json;
    for key in listed["items"].as_array().unwrap() {
        admin.delete(format!("/keys/{}", key["id"].as_str().unwrap())).await.expect(204);
    }
    acme.get("/subscriptions/").await.expect_any(&[401, 429]);
}

async fn the_first_key_closes_the_door_for_good(backend: Backend) {
    let mut posthorn = Posthorn::start(backend).await;
    let open = posthorn.client().clone();
    open.get("/keys").await.expect(200);
    let soon = chrono::Utc::now() + Duration::from_secs(1);
    let first = json!({"name": "the first", "expires_at": soon.to_rfc3339()});
    let made = open.post_json("/keys", first).await.expect(201).json;
    open.get("/keys").await.expect(401);
    open.get("/health").await.expect(200);
    let brief = open.with_key(made["key"].as_str());
    let last = brief.post_json("/keys", json!({})).await.expect(201).json;
    let admin = open.with_key(last["key"].as_str());
    eventually("the first key ends", async || is(401, &brief.get("/keys").await)).await;
    open.get("/keys").await.expect(401);
    for made in [made, last] {
        admin.delete(format!("/keys/{}", made["id"].as_str().unwrap())).await.expect(204);
    }
    assert_eq!(posthorn.database.number("SELECT count(*) FROM api_keys").await, 0);
    // Longer than anything about keys is known without being looked up.
    let revoked_at = Instant::now();
    while revoked_at.elapsed() < Duration::from_millis(4_500) {
        for stranger in [&open, &admin] {
            stranger.get("/keys").await.expect(401);
            stranger.post_json("/keys", json!({})).await.expect(401);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    posthorn.restart_with(&[]).await;
    posthorn.client().get("/keys").await.expect(200);
}

/// By a command beside the service, which tells it nothing.
async fn a_key_made_elsewhere_closes_the_door(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let open = posthorn.client();
    open.get("/keys").await.expect(200);
    let key = run(&posthorn.database, &["keys", "create"], &[]).await.succeeded().stdout;
    // So long it may not know yet. Nobody asks meanwhile, and the very first request afterwards is refused.
    tokio::time::sleep(Duration::from_millis(500)).await;
    open.get("/keys").await.expect(401);
    let listed = open.with_key(Some(&key)).get("/keys").await.expect(200).json;
    let id = listed["items"][0]["id"].as_str().unwrap();
    run(&posthorn.database, &["keys", "revoke", id], &[]).await.succeeded();
    tokio::time::sleep(Duration::from_millis(600)).await;
    open.get("/keys").await.expect(401);
}

async fn the_last_admin_key_of_production_stays(backend: Backend) {
    let database = std::sync::Arc::new(Database::create(backend).await);
    let create = async |arguments: &[&str]| {
        let arguments = [&["keys", "create"][..], arguments].concat();
        run(&database, &arguments, &PRODUCTION).await.succeeded().stdout
    };
    let first = create(&[]).await;
    let posthorn = Posthorn::start_on(database.clone(), &PRODUCTION).await;
    let admin = posthorn.client().with_key(Some(&first));
    let id_of = async |n: usize| {
        let listed = admin.get("/keys?limit=100").await.expect(200).json;
        listed["items"][n]["id"].as_str().unwrap().to_owned()
    };
    let id = id_of(0).await;
    // Neither a tenant's key counts nor one that has ended.
    key_of(&admin, "acme").await;
    let soon = chrono::Utc::now() + Duration::from_secs(1);
    let brief = admin.post_json("/keys", json!({"expires_at": soon.to_rfc3339()})).await.expect(201).json;
    let brief_key = admin.with_key(brief["key"].as_str());
    eventually("the brief key ends", async || is(401, &brief_key.get("/keys").await)).await;
    let refused = admin.delete(format!("/keys/{id}")).await.expect(409);
    assert_eq!(refused.json["type"], "/problems/last-admin-key");
    run(&database, &["keys", "revoke", &id], &PRODUCTION).await.refused("posthorn keys create");
    admin.delete(format!("/keys/{}", brief["id"].as_str().unwrap())).await.expect(204);
    admin.delete(format!("/keys/{}", id_of(0).await)).await.expect(204);
    admin.get("/keys").await.expect(200);

    // Of two that are revoked at once one is left, whoever asks.
    for _ in 0..5 {
        let second = create(&[]).await;
        let (ours, theirs) = (id_of(1).await, id_of(0).await);
        let other = admin.with_key(Some(&second));
        let arguments = ["keys", "revoke", &theirs];
        let by_command = run(&database, &arguments, &PRODUCTION);
        let (by_api, by_command) = tokio::join!(other.delete(format!("/keys/{ours}")), by_command);
        let left = "SELECT count(*) FROM api_keys WHERE tenant IS NULL";
        assert_eq!(database.number(left).await, 1, "{} {by_command:?}", by_api.status);
        if by_api.status == 204 {
            // Ours is gone: the other one is the last now.
            other.delete(format!("/keys/{theirs}")).await.expect(409);
            let again = create(&[]).await;
            let again = other.with_key(Some(&again));
            again.delete(format!("/keys/{theirs}")).await.expect(204);
            return;
        }
    }
    // With a key in the settings there is always one.
    let with_key = [&PRODUCTION[..], &[ADMIN]].concat();
    run(&database, &["keys", "revoke", &id], &with_key).await.succeeded();
    admin.get("/health").await.expect(200);
}

async fn keys_are_made_without_the_service(backend: Backend) {
    let database = std::sync::Arc::new(Database::create(backend).await);
    let production = [PRODUCTION[0], ("POSTHORN_BEHIND_PROXY", "true"), PRODUCTION[1]];
    // A tenant's key alone governs nothing.
    let tenant = run(&database, &["keys", "create", "--tenant", "acme", "--name", "shop"], &production).await;
    let tenant = tenant.succeeded().stdout;
    run(&database, &["serve"], &production).await.refused("POSTHORN_ADMIN_KEY");
    let admin = run(&database, &["keys", "create", "--expires-in-hours", "1"], &production).await.succeeded();
    assert_eq!(admin.stdout.lines().count(), 1, "the key and nothing else: {admin:?}");

    let listed = run(&database, &["keys", "list"], &production).await.succeeded().stdout;
    let lines: Vec<_> = listed.lines().collect();
    assert_eq!(lines.len(), 2, "{listed}");
    assert!(lines[0].contains("admin") && !lines[0].contains("expires never"), "{listed}");
    assert!(lines[1].contains("tenant acme") && lines[1].ends_with("shop"), "{listed}");

    let posthorn = Posthorn::start_on(
        database.clone(),
        &[("POSTHORN_LISTEN", "0.0.0.0:0"), production[0], production[1], production[2]],
    )
    .await;
    let client = posthorn.client();
    client.get("/subscriptions/").await.expect(401);
    client.with_key(Some(&admin.stdout)).get("/keys").await.expect(200);
    client.with_key(Some(&tenant)).get("/subscriptions/").await.expect(200);
    // Beside the running service, too.
    let later = run(&database, &["keys", "create"], &[]).await.succeeded().stdout;
    client.with_key(Some(&later)).get("/keys").await.expect(200);

    run(&database, &["keys", "revoke", RANDOM], &[]).await.refused(RANDOM);
    for (arguments, names) in
        [(&["keys", "create", "--tenant", "a b"][..], "--tenant"), (&["keys", "revoke", "7"], "<ID>")]
    {
        let refused = run(&database, arguments, &[]).await;
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr[0].contains(names), "{refused:?}");
    }
}

async fn nobody_reads_a_key_in_the_database(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[ADMIN]).await;
    let made = posthorn.client().post_json("/keys", json!({})).await.expect(201).json;
    let key = made["key"].as_str().unwrap();
    let digits = key.strip_prefix("posthorn_").unwrap();
    let stored = match backend {
        Backend::Postgres => "SELECT count(*) FROM api_keys k WHERE k::text LIKE",
        Backend::Sqlite => "SELECT count(*) FROM api_keys k WHERE hex(k.digest) || k.name LIKE",
    };
    assert_eq!(posthorn.database.number("SELECT count(*) FROM api_keys").await, 1);
    for of in [key.to_owned(), digits.to_owned(), digits.to_uppercase()] {
        assert_eq!(posthorn.database.number(&format!("{stored} '%{of}%'")).await, 0);
    }
    assert!(posthorn.log().iter().all(|line| !line.contains(digits)));
}

/// A client with a new key of the tenant.
async fn key_of(admin: &Client, tenant: &str) -> Client {
    let made = admin.post_json("/keys", json!({"tenant": tenant})).await.expect(201).json;
    admin.with_key(made["key"].as_str())
}

async fn ended(client: &Client, delivery: &str) {
    client.delivery_once(delivery, "it ends", |delivery| !delivery["completed_at"].is_null()).await;
}

fn is(status: u16, answer: &Answer) -> Result<(), String> {
    if answer.status == status { Ok(()) } else { Err(answer.status.to_string()) }
}
