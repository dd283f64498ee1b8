//! Secrets at rest: encrypted, read with the right key only, and encrypted anew while the service runs.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::client::Answer;
use crate::support::command::run;
use crate::support::server::ENCRYPTION_KEY;
use crate::support::signature::{sha256_signature, verifies};
use crate::support::{Backend, Posthorn, Receiver, Reply, on_both_databases};

on_both_databases!(
    the_right_key_is_asked_for,
    nothing_secret_is_stored_in_clear,
    keys_are_replaced_while_it_runs,
    what_stands_in_clear_is_encrypted_later,
    client_certificates_outlive_a_rotation,
    rows_that_an_older_release_broke_are_mended,
    unreadable_secrets_hold_back_their_own_subscription_only,
    secrets_put_in_clear_later_are_refused,
);

const PREVIOUS: &str = "POSTHORN_PREVIOUS_ENCRYPTION_KEY";
const ONE: &str = "SSrcNMXR3Nljf/YQXgQnV3SIWXhN93O1/v6FfILmk14=";
const OTHER: &str = "LfptA4XiQAv3INzX++8RCLcPWlOKORTMuBFjMxCnk6A=";

async fn the_right_key_is_asked_for(backend: Backend) {
    let mut posthorn = Posthorn::start_with(backend, &[(ENCRYPTION_KEY, ONE)]).await;
    posthorn.client().subscribe("http://127.0.0.1:9/", json!({})).await;
    posthorn.terminate().await;
    let database = Arc::clone(&posthorn.database);
    for settings in [&[][..], &[(ENCRYPTION_KEY, OTHER)], &[(ENCRYPTION_KEY, OTHER), (PREVIOUS, OTHER)]] {
        let refused = run(&database, &["serve"], settings).await;
        refused.refused(ENCRYPTION_KEY);
        assert!(!refused.stderr[0].contains(ONE) && !refused.stderr[0].contains(OTHER), "{refused:?}");
    }
    run(&database, &["secrets", "rotate"], &[(ENCRYPTION_KEY, OTHER)]).await.refused(ENCRYPTION_KEY);
    run(&database, &["secrets", "rotate"], &[(PREVIOUS, ONE)]).await.refused(ENCRYPTION_KEY);
    // Of a deleted subscription nothing is left to be read.
    let posthorn = Posthorn::start_on(database.clone(), &[(PREVIOUS, ONE)]).await;
    let listed = posthorn.client().get("/subscriptions/").await.expect(200).json;
    let id = listed["items"][0]["id"].as_str().unwrap();
    posthorn.client().delete(format!("/subscriptions/{id}")).await.expect(204);
    drop(posthorn);
    Posthorn::start_on(database, &[]).await;
}

/// In no column of the subscriptions, and on SQLite nowhere in its files.
async fn nothing_secret_is_stored_in_clear(backend: Backend) {
    let mut posthorn = Posthorn::start_with(backend, &[(ENCRYPTION_KEY, ONE)]).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    let fields = json!({
        "secret_key": "canary-ingest",
        "headers": {"authorization": "Bearer canary-header"},
        "client_certificate": {"certificate": certificate.pem(), "private_key": key.serialize_pem()},
    });
    let subscribed = client.subscribe(&receiver.url("/"), fields).await;
    let rotated = client.post(format!("/subscriptions/{}/signing-secret/rotate", subscribed.id)).await;
    let rotated = rotated.expect(200).text("signing_secret");
    let call = client.call(Method::POST, format!("/ingest/{}", subscribed.id)).bytes("application/json", "1");
    let signature = sha256_signature("canary-ingest", b"1");
    call.header("x-webhook-signature-256", &signature).send().await.expect(202);
    let request = receiver.ended(1).await.remove(0);
    assert_eq!(request.header("authorization"), "Bearer canary-header");
    assert_eq!(request.header("x-webhook-signature-256"), signature);
    for secret in [&subscribed.signing_secret, &rotated] {
        verifies(&request, secret).unwrap();
    }
    posthorn.kill().await;

    let bare = |secret: &str| secret.strip_prefix("whsec_").unwrap().to_owned();
    let secrets = [
        "canary-".to_owned(),
        bare(&subscribed.signing_secret),
        bare(&rotated),
        "whsec_".to_owned(),
        "PRIVATE KEY".to_owned(),
    ];
    match backend {
        Backend::Postgres => {
            for secret in &secrets {
                let found = format!("subscriptions s WHERE s::text LIKE '%{secret}%'");
                posthorn.database.check_none("a secret in clear", &found).await;
            }
        }
        Backend::Sqlite => {
            let mut bytes = 0;
            for file in std::fs::read_dir(posthorn.database.directory()).unwrap() {
                let content = std::fs::read(file.unwrap().path()).unwrap();
                bytes += content.len();
                for secret in &secrets {
                    let found = content.windows(secret.len()).any(|part| part == secret.as_bytes());
                    assert!(!found, "{secret} is stored in clear");
                }
            }
            assert!(bytes > 10_000, "{bytes} bytes are no database");
        }
    }
}

async fn keys_are_replaced_while_it_runs(backend: Backend) {
    let mut posthorn = Posthorn::start_with(backend, &[(ENCRYPTION_KEY, ONE)]).await;
    let receiver = Receiver::always(Reply::status(200)).await;
    let mut subscribed = Vec::new();
    for n in 0..450 {
        let fields = json!({"headers": {"x-mine": format!("of {n}")}});
        subscribed.push(posthorn.client().subscribe(&receiver.url(&format!("/{n}")), fields).await);
    }
    let both = [(ENCRYPTION_KEY, OTHER), (PREVIOUS, ONE)];
    posthorn.restart_with(&both).await;
    assert!(
        posthorn.log().iter().any(|line| line.contains("posthorn secrets rotate")),
        "it tells what is left"
    );
    let rotating = run(&posthorn.database, &["secrets", "rotate"], &both);
    let sending = async {
        for subscribed in &subscribed {
            posthorn.client().ingest(&subscribed.id, json!(1)).await;
        }
    };
    let (rotated, ()) = tokio::join!(rotating, sending);
    assert!(rotated.succeeded().stdout.contains("450 subscriptions"));
    let requests = receiver.ended(450).await;
    let again = run(&posthorn.database, &["secrets", "rotate"], &both).await.succeeded().stdout;
    assert!(again.contains(" 0 subscriptions"), "{again}");

    posthorn.restart_with(&[(PREVIOUS, "")]).await;
    assert!(!posthorn.log().iter().any(|line| line.contains("rotate")), "{:?}", posthorn.log());
    let first = &subscribed[0];
    posthorn.client().ingest(&first.id, json!(2)).await;
    let last = receiver.ended(451).await.pop().unwrap();
    for request in requests.iter().chain([&last]) {
        let n = request.path.strip_prefix('/').unwrap();
        verifies(request, &subscribed[n.parse::<usize>().unwrap()].signing_secret).unwrap();
        assert_eq!(request.header("x-mine"), format!("of {n}"));
    }
}

async fn what_stands_in_clear_is_encrypted_later(backend: Backend) {
    let mut posthorn = Posthorn::start(backend).await;
    let receiver = Receiver::always(Reply::status(200)).await;
    let subscribed = posthorn.client().subscribe(&receiver.url("/"), json!({"secret_key": "canary"})).await;
    posthorn.restart_with(&[(ENCRYPTION_KEY, ONE)]).await;
    let rotated = run(&posthorn.database, &["secrets", "rotate"], &[(ENCRYPTION_KEY, ONE)]).await;
    assert!(rotated.succeeded().stdout.contains("1 subscriptions"));
    let stored = "subscriptions WHERE signing_secret LIKE 'whsec_%' OR secret_key LIKE '%canary%'";
    posthorn.database.check_none("a secret in clear", stored).await;
    let client = posthorn.client();
    let shown = client.get(format!("/subscriptions/{}/signing-secret", subscribed.id)).await.expect(200).json;
    assert_eq!(shown["signing_secret"], Value::from(subscribed.signing_secret));
}

fn certificate() -> Value {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    json!({"certificate": certificate.pem(), "private_key": key.serialize_pem()})
}

async fn client_certificates_outlive_a_rotation(backend: Backend) {
    let mut posthorn = Posthorn::start(backend).await;
    let receiver = Receiver::always(Reply::status(200)).await;
    let fields = json!({"client_certificate": certificate(), "secret_key": "canary"});
    let subscribed = posthorn.client().subscribe(&receiver.url("/"), fields).await;
    let path = format!("/subscriptions/{}", subscribed.id);
    posthorn.client().post(format!("{path}/signing-secret/rotate")).await.expect(200);
    posthorn.client().post(format!("{path}/signing-secret/rotate")).await.expect(200);
    posthorn.client().put_json(path.clone(), json!({"secret_key": "another"})).await.expect(200);
    // From clear to a key, and from that to another.
    for settings in [[(ENCRYPTION_KEY, ONE), (PREVIOUS, "")], [(ENCRYPTION_KEY, OTHER), (PREVIOUS, ONE)]] {
        posthorn.restart_with(&settings).await;
        let rotated = run(&posthorn.database, &["secrets", "rotate"], &settings).await.succeeded();
        assert!(rotated.stdout.contains("1 subscriptions"), "{rotated:?}");
        let in_clear = "subscriptions WHERE client_certificate LIKE '%PRIVATE KEY%' OR signing_secret LIKE 'whsec_%' \
                        OR replaced_signing_secrets LIKE '%whsec_%' OR replaced_secret_keys LIKE '%canary%'";
        posthorn.database.check_none("a secret in clear", in_clear).await;
    }
    posthorn.restart_with(&[(PREVIOUS, "")]).await;
    let client = posthorn.client();
    assert_eq!(
        client.get("/subscriptions/").await.expect(200).json["items"][0]["id"],
        subscribed.id.as_str()
    );
    let shown = client.subscription(&subscribed.id).await;
    assert_eq!((&shown["client_certificate_set"], &shown["unreadable_secrets"]), (&json!(true), &json!([])));
    for (n, key) in ["another", "canary"].into_iter().enumerate() {
        ingest_signed(&posthorn, &subscribed.id, key, "1").await.expect(202);
        let request = receiver.ended(n + 1).await.remove(n);
        verifies(&request, &subscribed.signing_secret).unwrap();
    }
}

async fn ingest_signed(posthorn: &Posthorn, id: &str, key: &str, body: &str) -> Answer {
    let call = posthorn.client().call(Method::POST, format!("/ingest/{id}")).bytes("application/json", body);
    call.header("x-webhook-signature-256", sha256_signature(key, body.as_bytes())).send().await
}

/// Such a release left the client certificate as it was: under the key before, or in clear, in a row that names another.
async fn rows_that_an_older_release_broke_are_mended(backend: Backend) {
    let mut posthorn = Posthorn::start_with(backend, &[(ENCRYPTION_KEY, ONE)]).await;
    let receiver = Receiver::always(Reply::status(200)).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let fields = json!({"client_certificate": certificate()});
        ids.push(posthorn.client().subscribe(&receiver.url("/"), fields).await.id);
    }
    let database = Arc::clone(&posthorn.database);
    let column = "UPDATE subscriptions SET client_certificate =";
    // The first stays under ONE though its row is rotated; that of the second is lost.
    database.execute("CREATE TABLE kept AS SELECT id, client_certificate FROM subscriptions").await;
    let both = [(ENCRYPTION_KEY, OTHER), (PREVIOUS, ONE)];
    run(&database, &["secrets", "rotate"], &both).await.succeeded();
    let (first, second) = (of_id(backend, &ids[0]), of_id(backend, &ids[1]));
    let kept = format!("(SELECT client_certificate FROM kept WHERE id = {first})");
    database.execute(&format!("{column} {kept} WHERE id = {first}")).await;
    database.execute(&format!("{column} {kept} WHERE id = {second}")).await;
    posthorn.restart_with(&[(ENCRYPTION_KEY, OTHER)]).await;
    for (id, unreadable) in
        ids.iter().zip([json!(["client_certificate"]), json!(["client_certificate"]), json!([])])
    {
        assert_eq!(posthorn.client().subscription(id).await["unreadable_secrets"], unreadable);
    }
    let held = posthorn.client().ingest(&ids[0], json!(1)).await;

    // The one in the wrong row is read with no key: it is told, and the others are mended all the same.
    let rotated = run(&database, &["secrets", "rotate"], &both).await;
    rotated.refused(PREVIOUS);
    let told = format!("unreadable {} client_certificate", ids[1]);
    assert!(rotated.stdout.contains(&told) && !rotated.stdout.contains(&ids[0]), "{rotated:?}");
    posthorn.client().delivery_in(&held, "success").await;
    posthorn
        .client()
        .put_json(format!("/subscriptions/{}", ids[1]), json!({"client_certificate": null}))
        .await
        .expect(200);
    let again = run(&database, &["secrets", "rotate"], &[(ENCRYPTION_KEY, OTHER)]).await.succeeded();
    assert!(again.stdout.contains(" 0 subscriptions"), "{again:?}");
    for id in &ids {
        let shown = posthorn.client().subscription(id).await;
        assert_eq!((&shown["status"], &shown["unreadable_secrets"]), (&json!("active"), &json!([])));
    }
}

/// An id as a literal of SQL.
fn of_id(backend: Backend, id: &str) -> String {
    match backend {
        Backend::Postgres => format!("'{id}'"),
        Backend::Sqlite => format!("x'{}'", id.replace('-', "")),
    }
}

async fn unreadable_secrets_hold_back_their_own_subscription_only(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, &[(ENCRYPTION_KEY, ONE)]).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200)).await;
    let broken = client.subscribe(&receiver.url("/broken"), json!({"secret_key": "canary"})).await.id;
    let open = client.subscribe(&receiver.url("/open"), json!({})).await.id;
    let gone = client.subscribe(&receiver.url("/gone"), json!({})).await.id;
    let sound = client.subscribe(&receiver.url("/sound"), json!({})).await.id;
    for id in [&broken, &open, &gone] {
        let sql = "UPDATE subscriptions SET version = version + 1, secret_key = CASE WHEN secret_key IS NOT NULL THEN headers END, signing_secret = headers";
        posthorn.database.execute(&format!("{sql} WHERE id = {}", of_id(backend, id))).await;
    }
    let mut posthorn = posthorn;
    posthorn.restart_with(&[]).await;
    let client = posthorn.client();

    // Listed, shown, and each answer says what is so.
    let listed = client.get("/subscriptions/").await.expect(200).json;
    assert_eq!(listed["items"].as_array().unwrap().len(), 4, "{listed}");
    let shown = client.subscription(&broken).await;
    assert_eq!(shown["unreadable_secrets"], json!(["signing_secret", "secret_key"]));
    assert_eq!((&shown["status"], &shown["status_reason"]), (&json!("paused"), &json!("secrets_unreadable")));
    assert_eq!(shown["secret_key_set"], true);
    let unreadable = client.get(format!("/subscriptions/{broken}/signing-secret")).await.expect(503);
    assert_eq!(unreadable.json["type"], "/problems/secrets-unreadable");
    let refused = ingest_signed(&posthorn, &broken, "canary", "1").await.expect(503);
    assert_eq!(refused.json["type"], "/problems/secrets-unreadable");
    client.post_json(format!("/ingest/{broken}"), json!(1)).await.expect(401);
    // What another field says can be changed, and loses nothing.
    client.put_json(format!("/subscriptions/{broken}"), json!({"description": "d"})).await.expect(200);
    let held = client.ingest(&open, json!(1)).await;
    assert_eq!(client.delivery(&held).await["waiting_for"]["reason"], "paused");
    client.delete(format!("/subscriptions/{gone}")).await.expect(204);
    let fine = client.ingest(&sound, json!(2)).await;
    client.delivery_in(&fine, "success").await;
    assert_eq!(client.delivery(&held).await["attempt_count"], 0, "it waited");

    // Set anew.
    client.put_json(format!("/subscriptions/{broken}"), json!({"secret_key": "new"})).await.expect(200);
    assert_eq!(client.subscription(&broken).await["unreadable_secrets"], json!(["signing_secret"]));
    ingest_signed(&posthorn, &broken, "new", "3").await.expect(202);
    ingest_signed(&posthorn, &broken, "canary", "3").await.expect(401);
    for id in [&broken, &open] {
        let path = format!("/subscriptions/{id}/signing-secret");
        let secret = client.post(format!("{path}/rotate")).await.expect(200).text("signing_secret");
        assert_eq!(client.get(path).await.expect(200).text("signing_secret"), secret);
        assert_eq!(client.subscription(id).await["status"], "active");
    }
    client.delivery_in(&held, "success").await;
    receiver.ended(3).await;
}

async fn secrets_put_in_clear_later_are_refused(backend: Backend) {
    let mut posthorn = Posthorn::start_with(backend, &[(ENCRYPTION_KEY, ONE)]).await;
    let client = posthorn.client();
    let id = client.subscribe("http://127.0.0.1:9/", json!({"secret_key": "right"})).await.id;
    let plant = format!(
        "UPDATE subscriptions SET version = version + 1, sealed_by = NULL, headers = '{{}}', secret_key = 'planted', \
         signing_secret = 'whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=' WHERE id = {}",
        of_id(backend, &id)
    );
    posthorn.database.execute(&plant).await;
    posthorn.restart_with(&[]).await;
    assert!(posthorn.log().iter().any(|line| line.contains("stand in clear")), "it tells");
    let client = posthorn.client();
    assert_eq!(
        client.subscription(&id).await["unreadable_secrets"],
        json!(["headers", "signing_secret", "secret_key"])
    );
    ingest_signed(&posthorn, &id, "planted", "1").await.expect(503);
    let settings = [(ENCRYPTION_KEY, ONE)];
    let rotated = run(&posthorn.database, &["secrets", "rotate"], &settings).await;
    rotated.refused(ENCRYPTION_KEY);
    ingest_signed(&posthorn, &id, "planted", "1").await.expect(503);
    // An operator who knows where it comes from has it.
    run(&posthorn.database, &["secrets", "rotate", "--accept-clear"], &settings).await.succeeded();
    ingest_signed(&posthorn, &id, "planted", "1").await.expect(202);
    // Encryption is turned off by starting without the key; what is encrypted is read with it as the previous one.
    posthorn.restart_with(&[(ENCRYPTION_KEY, ""), (PREVIOUS, ONE)]).await;
    posthorn.client().subscribe("http://127.0.0.1:9/", json!({})).await;
    posthorn.restart_with(&[(ENCRYPTION_KEY, ONE), (PREVIOUS, "")]).await;
    for item in posthorn.client().get("/subscriptions/").await.expect(200).json["items"].as_array().unwrap() {
        assert_eq!(item["unreadable_secrets"], json!([]), "{item}");
    }
}
