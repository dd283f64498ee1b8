//! https: certificates are checked, always.

use std::sync::Arc;

use rcgen::{CertificateParams, CertifiedKey, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use super::endpoint::Endpoint;
use super::*;
use crate::sender::Failure;

fn self_signed(customize: impl FnOnce(&mut CertificateParams)) -> CertifiedKey<KeyPair> {
    let mut params = CertificateParams::new(vec!["allowed.example".to_owned()]).unwrap();
    customize(&mut params);
    let signing_key = KeyPair::generate().unwrap();
    CertifiedKey { cert: params.self_signed(&signing_key).unwrap(), signing_key }
}

/// Answers over TLS what the client sends first.
async fn serve(identity: &CertifiedKey<KeyPair>) -> Endpoint {
    let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der()).unwrap();
    let chain: Vec<CertificateDer<'static>> = vec![identity.cert.der().clone()];
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key));
    let acceptor = TlsAcceptor::from(Arc::new(config.unwrap()));
    Endpoint::new(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            let _ = stream.shutdown().await;
        }
    })
    .await
}

fn https(endpoint: &Endpoint, host: &str) -> Case {
    Case::to(&format!("https://{host}:{}/", endpoint.address.port()))
}

/// Trusts `identity` beside what the system trusts.
fn trusting(identity: &CertifiedKey<KeyPair>) -> Sender {
    let settings = settings(&["127.0.0.1/32"]);
    let resolver = Resolver::new(settings.guard.clone(), test_names);
    let root = reqwest::Certificate::from_der(identity.cert.der()).unwrap();
    Sender::build(settings, resolver, |builder| builder.tls_certs_merge([root])).unwrap()
}

#[tokio::test]
async fn trusted_certificates_pass_and_others_do_not() {
    let trusted = self_signed(|_| ());
    let endpoint = serve(&trusted).await;
    let reply = https(&endpoint, "allowed.example").send(&trusting(&trusted)).await;
    assert_eq!((reply.status_code, reply.error), (Some(200), None));
    let expired = self_signed(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    for (case, identity, host, trusts) in [
        ("self-signed", &trusted, "allowed.example", false),
        ("of another name", &trusted, "mixed.example", true),
        ("for an address", &trusted, "127.0.0.1", true),
        ("expired", &expired, "allowed.example", true),
    ] {
        let endpoint = serve(identity).await;
        let sender = if trusts { trusting(identity) } else { sender() };
        let reply = https(&endpoint, host).send(&sender).await;
        assert_eq!(reply.error, Some(Failure::InvalidCertificate), "{case}");
    }
}

#[tokio::test]
async fn what_is_no_tls_fails_in_time() {
    let plain = Endpoint::answering("HTTP/1.1 200 OK\r\n\r\n").await;
    let speaking = Endpoint::new(|mut stream| async move {
        let mut hello = [0; 64];
        let _ = stream.read(&mut hello).await;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    let closing = Endpoint::new(|mut stream| async move {
        let mut hello = [0; 4096];
        let _ = stream.read(&mut hello).await;
    })
    .await;
    for (endpoint, failure) in
        [(&plain, Failure::Timeout), (&speaking, Failure::Tls), (&closing, Failure::Tls)]
    {
        let case = https(endpoint, "allowed.example").within(Duration::from_secs(1));
        assert_eq!(case.send(&sender()).await.error, Some(failure));
    }
}
