//! https: certificates are checked, always.

use std::sync::Arc;

use rcgen::{CertificateParams, CertifiedKey, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{WantsServerCert, WebPkiClientVerifier};
use rustls::{ConfigBuilder, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use super::endpoint::Endpoint;
use super::*;
use crate::sender::Failure;

pub(super) fn self_signed(customize: impl FnOnce(&mut CertificateParams)) -> CertifiedKey<KeyPair> {
    let mut params = CertificateParams::new(vec!["allowed.example".to_owned()]).unwrap();
    customize(&mut params);
    let signing_key = KeyPair::generate().unwrap();
    CertifiedKey { cert: params.self_signed(&signing_key).unwrap(), signing_key }
}

/// Takes TLS connections as `identity`, and offers `protocols` on top.
pub(super) fn acceptor(identity: &CertifiedKey<KeyPair>, protocols: &[&str]) -> TlsAcceptor {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    accepting(builder.unwrap().with_no_client_auth(), identity, protocols)
}

/// As [`acceptor`], from clients that show a certificate of `identity`'s alone.
fn demanding(identity: &CertifiedKey<KeyPair>, protocols: &[&str]) -> TlsAcceptor {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(identity.cert.der().clone()).unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    accepting(builder.unwrap().with_client_cert_verifier(verifier.unwrap()), identity, protocols)
}

fn accepting(
    builder: ConfigBuilder<ServerConfig, WantsServerCert>,
    identity: &CertifiedKey<KeyPair>,
    protocols: &[&str],
) -> TlsAcceptor {
    let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der()).unwrap();
    let mut config = builder.with_single_cert(vec![identity.cert.der().clone()], key).unwrap();
    config.alpn_protocols = protocols.iter().map(|&protocol| protocol.into()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// Answers over TLS what the client sends first.
pub(super) async fn serve(identity: &CertifiedKey<KeyPair>) -> Endpoint {
    let acceptor = acceptor(identity, &[]);
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

pub(super) fn https(endpoint: &Endpoint, host: &str) -> Case {
    Case::to(&format!("https://{host}:{}/", endpoint.address.port()))
}

/// Trusts `identity` beside what the system trusts.
pub(super) fn trusting(identity: &CertifiedKey<KeyPair>) -> Sender {
    let settings = settings(&["127.0.0.1/32"]);
    let resolver = Resolver::new(settings.guard.clone(), Listed(test_names), None);
    Sender::build(settings, resolver, vec![identity.cert.der().clone()]).unwrap()
}

#[tokio::test]
async fn trusted_certificates_pass_and_others_do_not() {
    let trusted = self_signed(|_| ());
    let endpoint = serve(&trusted).await;
    let reply = https(&endpoint, "allowed.example").send(&trusting(&trusted)).await;
    assert_eq!((reply.status_code, reply.error.clone()), (Some(200), None));
    let expired = self_signed(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let early = self_signed(|params| params.not_before = rcgen::date_time_ymd(2999, 1, 1));
    let authority =
        self_signed(|params| params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    for (case, identity, host, trusts, failure) in [
        ("self-signed", &trusted, "allowed.example", false, Failure::CertificateOfUnknownIssuer),
        ("of another name", &trusted, "mixed.example", true, Failure::CertificateOfAnotherName),
        ("for an address", &trusted, "127.0.0.1", true, Failure::CertificateOfAnotherName),
        ("expired", &expired, "allowed.example", true, Failure::CertificateExpired),
        ("not valid yet", &early, "allowed.example", true, Failure::CertificateNotYetValid),
        ("an authority's", &authority, "allowed.example", true, Failure::CertificateOfAuthority),
    ] {
        let endpoint = serve(identity).await;
        let sender = if trusts { trusting(identity) } else { sender() };
        let reply = https(&endpoint, host).send(&sender).await;
        assert_eq!(reply.error, Some(failure), "{case}");
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

/// It says so only after the handshake, when the request may be under way.
#[tokio::test]
async fn endpoints_that_ask_for_a_certificate_of_ours() {
    let identity = self_signed(|_| ());
    for protocol in ["http/1.1", "h2"] {
        let acceptor = demanding(&identity, &[protocol]);
        let endpoint = Endpoint::new(move |stream| {
            let acceptor = acceptor.clone();
            async move { assert!(acceptor.accept(stream).await.is_err()) }
        })
        .await;
        for _ in 0..20 {
            let reply = https(&endpoint, "allowed.example").send(&trusting(&identity)).await;
            assert_eq!(reply.status_code, None, "{protocol}");
            assert!(reply.error.as_ref().is_some_and(is_refusal), "{protocol}: {:?}", reply.error);
        }
    }
}

/// Each subscription's own certificate, and on connections of its own.
#[tokio::test]
async fn endpoints_are_shown_the_certificate_that_is_given() {
    let (trusted, stranger) = (self_signed(|_| ()), self_signed(|_| ()));
    let acceptor = demanding(&trusted, &["http/1.1"]);
    let endpoint = Endpoint::new(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let mut request = [0; 4096];
            while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        }
    })
    .await;
    let sender = trusting(&trusted);
    let given = |identity: &CertifiedKey<KeyPair>| {
        let (certificate, key) = (identity.cert.pem(), identity.signing_key.serialize_pem());
        Some(ClientCertificate::parse(&certificate, &key).unwrap())
    };
    for (certificate, answer) in
        [(given(&trusted), Some(200)), (None, None), (given(&stranger), None), (given(&trusted), Some(200))]
    {
        let case = Case { client_certificate: certificate, ..https(&endpoint, "allowed.example") };
        let reply = case.send(&sender).await;
        assert_eq!(reply.status_code, answer);
        assert_eq!(reply.error.as_ref().is_some_and(is_refusal), answer.is_none(), "{:?}", reply.error);
    }
}

/// What a client is told whose certificate is not taken: the reason, or where its request crossed that on the way,
/// no more than that the connection is gone.
fn is_refusal(failure: &Failure) -> bool {
    matches!(
        failure,
        Failure::ClientCertificateWanted
            | Failure::Tls
            | Failure::ConnectionClosed
            | Failure::ConnectionReset
    )
}
