//! TLS by the server itself, and the proxy in front where there is one.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, CertifiedKey, KeyPair};
use reqwest::Certificate;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::command::run;
use crate::support::server::{FAST, Process};
use crate::support::{Backend, Database, Posthorn, eventually, on_both_databases};

const ADMIN: (&str, &str) = ("POSTHORN_ADMIN_KEY", "canary-admin-key-0123456789abcdef");

fn certificate() -> CertifiedKey<KeyPair> {
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let signing_key = KeyPair::generate().unwrap();
    CertifiedKey { cert: params.self_signed(&signing_key).unwrap(), signing_key }
}

fn write(folder: &Path, identity: &CertifiedKey<KeyPair>) {
    std::fs::write(folder.join("tls.pem"), identity.cert.pem()).unwrap();
    std::fs::write(folder.join("tls.key"), identity.signing_key.serialize_pem()).unwrap();
}

/// A client on a new connection that trusts `identity` alone.
async fn get(url: &str, identity: &CertifiedKey<KeyPair>) -> Result<u16, String> {
    let root = Certificate::from_der(identity.cert.der()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([root]).no_proxy().build().unwrap();
    let answer = client.get(url).send().await.map_err(|error| format!("{error:?}"))?;
    assert_eq!(answer.headers()["strict-transport-security"], "max-age=31536000");
    Ok(answer.status().as_u16())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_is_taken_while_it_runs() {
    let database = Database::create(Backend::Sqlite).await;
    let (first, second, third) = (certificate(), certificate(), certificate());
    write(database.directory(), &first);
    let settings = [("POSTHORN_TLS_CERTIFICATE", "tls.pem"), ("POSTHORN_TLS_KEY", "tls.key")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut posthorn = Process::spawn(&database, &settings, &["serve"]);
    let address = posthorn.listening().await;
    let url = format!("https://{address}/health");
    assert_eq!(get(&url, &first).await, Ok(200));
    let error = get(&url, &second).await.unwrap_err();
    assert!(error.contains("InvalidCertificate"), "{error}");
    let plain = reqwest::get(format!("http://{address}/health")).await;
    assert!(plain.is_err(), "nothing is served in clear: {plain:?}");

    // Half of a pair is none.
    std::fs::write(database.directory().join("tls.key"), third.signing_key.serialize_pem()).unwrap();
    eventually("it says so", async || {
        let said = posthorn
            .log
            .lines()
            .iter()
            .any(|line| line.contains("expected the private key of the first certificate"));
        if said { Ok(()) } else { Err(posthorn.log.lines().join("\n")) }
    })
    .await;
    assert_eq!(get(&url, &first).await, Ok(200));

    write(database.directory(), &second);
    eventually("the second certificate", async || get(&url, &second).await).await;
    assert!(get(&url, &first).await.is_err());
    let said = posthorn.log.lines().iter().filter(|line| line.contains("POSTHORN_TLS_KEY")).count();
    assert_eq!(said, 1, "{:?}", posthorn.log.lines());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_cannot_be_used_stops_the_start() {
    let database = Database::create(Backend::Sqlite).await;
    let (one, other) = (certificate(), certificate());
    write(database.directory(), &one);
    let key = other.signing_key.serialize_pem();
    std::fs::write(database.directory().join("other.key"), key).unwrap();
    std::fs::write(database.directory().join("empty"), "").unwrap();
    for (certificate, key, names) in [
        ("tls.pem", "absent", "POSTHORN_TLS_KEY: absent: No such file"),
        ("absent", "tls.key", "POSTHORN_TLS_CERTIFICATE: absent: No such file"),
        ("empty", "tls.key", "POSTHORN_TLS_CERTIFICATE: empty: expected certificates in PEM"),
        ("tls.pem", "empty", "POSTHORN_TLS_KEY: empty: expected a private key in PEM"),
        (
            "tls.pem",
            "other.key",
            "POSTHORN_TLS_KEY and POSTHORN_TLS_CERTIFICATE: expected the private key of the first certificate",
        ),
        ("tls.pem", "", "POSTHORN_TLS_KEY: expected a file where POSTHORN_TLS_CERTIFICATE is set"),
    ] {
        let settings = [("POSTHORN_TLS_CERTIFICATE", certificate), ("POSTHORN_TLS_KEY", key)];
        run(&database, &["serve"], &settings).await.refused(names);
    }
}

/// An endpoint that takes in who shows `client` alone, and answers 200.
async fn demanding(server: &CertifiedKey<KeyPair>, client: &CertifiedKey<KeyPair>) -> SocketAddr {
    let mut roots = RootCertStore::empty();
    roots.add(client.cert.der().clone()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let key = PrivateKeyDer::try_from(server.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![server.cert.der().clone()], key)
        .unwrap();
    let (acceptor, listener) =
        (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
                    .await;
                let _ = stream.shutdown().await;
            });
        }
    });
    address
}

on_both_databases!(endpoints_are_shown_a_subscriptions_own_certificate);

async fn endpoints_are_shown_a_subscriptions_own_certificate(backend: Backend) {
    let (server, client, other) = (certificate(), certificate(), certificate());
    let address = demanding(&server, &client).await;
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &server);
    let trusted = folder.path().join("tls.pem").display().to_string();
    let settings = [FAST, &[("SSL_CERT_FILE", trusted.as_str()), ("WEBHOOK_MAX_RETRIES", "0")]].concat();
    let mut posthorn = Posthorn::start_with(backend, &settings).await;
    let api = posthorn.client();
    let shown = |pair: &CertifiedKey<KeyPair>| json!({"certificate": pair.cert.pem(), "private_key": pair.signing_key.serialize_pem()});
    let target = format!("https://{address}/");
    let subscribed = api.subscribe(&target, json!({"client_certificate": shown(&client)})).await;
    let path = format!("/subscriptions/{}", subscribed.id);
    let seen = api.get(path.clone()).await.expect(200);
    assert_eq!(seen.json["client_certificate_set"], true);
    assert!(!seen.json.to_string().contains("PRIVATE KEY"), "{}", seen.json);
    let delivered = api.ingest(&subscribed.id, json!(1)).await;
    api.delivery_in(&delivered, "success").await;

    for change in [json!(null), shown(&other)] {
        api.put_json(path.clone(), json!({"client_certificate": change})).await.expect(200);
        let refused = api.ingest(&subscribed.id, json!(2)).await;
        api.delivery_in(&refused, "failed").await;
        // The reason, or where the request crossed it on the way, no more than that the connection is gone.
        let message = &api.attempts(&refused).await[0]["error_message"];
        let told = [
            "tls failure",
            "tls failure: client certificate wanted",
            "tls failure: client certificate refused",
            "connection closed without an answer",
            "connection reset",
        ];
        assert!(told.iter().any(|text| message == text), "{message}");
    }
    let mixed = json!({"certificate": client.cert.pem(), "private_key": other.signing_key.serialize_pem()});
    let answer = api.put_json(path.clone(), json!({"client_certificate": mixed})).await;
    answer.refuses_field(422, "client_certificate");

    // It outlives the process.
    api.put_json(path, json!({"client_certificate": shown(&client)})).await.expect(200);
    posthorn.kill().await;
    posthorn.start_again().await;
    let again = posthorn.client().ingest(&subscribed.id, json!(3)).await;
    posthorn.client().delivery_in(&again, "success").await;
}

/// Of one address behind a proxy and of another, only the one that guesses keys is kept waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_told_apart_behind_a_proxy() {
    for behind_proxy in [true, false] {
        let proxy = ("POSTHORN_BEHIND_PROXY", if behind_proxy { "true" } else { "false" });
        let posthorn = Posthorn::start_with(Backend::Sqlite, &[ADMIN, proxy]).await;
        let call = async |client: &str, key: String| {
            let stranger = posthorn.client().with_key(Some(&key));
            let call = stranger.call(reqwest::Method::GET, "/subscriptions/");
            call.header("x-forwarded-for", format!("198.51.100.1, {client}")).send().await.status
        };
        for n in 0..100 {
            call("192.0.2.7", format!("posthorn_{n:064}")).await;
        }
        assert_eq!(call("192.0.2.7", "another".to_owned()).await, 429);
        let other = if behind_proxy { 401 } else { 429 };
        assert_eq!(call("192.0.2.8", "another".to_owned()).await, other, "{proxy:?}");
    }
}
