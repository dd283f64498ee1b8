//! Secrets at rest: encrypted, read with the right key only, and encrypted anew while the service runs.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::command::run;
use crate::support::server::ENCRYPTION_KEY;
use crate::support::signature::{sha256_signature, verifies};
use crate::support::{Backend, Posthorn, Receiver, Reply, on_both_databases};

on_both_databases!(
    the_right_key_is_asked_for,
    nothing_secret_is_stored_in_clear,
    keys_are_replaced_while_it_runs,
    what_stands_in_clear_is_encrypted_later,
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
