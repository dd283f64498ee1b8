//! TLS for the API: a certificate from files, read again as they change.
//!
//! Certificates live for weeks, the process for longer. So the files are looked at each few seconds, which also sees
//! those that are replaced by links, as Kubernetes does, and a pair that is no pair, because one of the two was
//! replaced first, is left alone until it is one.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use posthorn_domain::certificate::{CertificateError, parse_pair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

/// How often the files are looked at.
const LOOK_EACH: Duration = Duration::from_secs(5);

/// Why there is no certificate; one line for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The file with the certificates.
    #[error("POSTHORN_TLS_CERTIFICATE: {0}: {1}")]
    Certificate(PathBuf, String),
    /// The file with the key.
    #[error("POSTHORN_TLS_KEY: {0}: {1}")]
    Key(PathBuf, String),
    /// The two are no pair, or of a kind that cannot be used.
    #[error("POSTHORN_TLS_KEY and POSTHORN_TLS_CERTIFICATE: {0}")]
    Pair(CertificateError),
    /// TLS itself.
    #[error("TLS: {0}")]
    Setup(String),
}

/// Where a certificate and its key lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// PEM: the server's certificate, then those that lead to the root.
    pub certificate: PathBuf,
    /// PEM: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

/// TLS 1.2 and 1.3, with the newest certificate.
pub struct Tls {
    files: Files,
    newest: Arc<Newest>,
    pub(crate) acceptor: TlsAcceptor,
}

impl Tls {
    /// With the certificate that `files` hold now.
    pub async fn open(files: Files) -> Result<Self, Error> {
        let texts = Texts::read(&files).await?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let pair = RwLock::new(Arc::new(texts.pair(&files)?));
        let newest = Arc::new(Newest(pair));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Setup(error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(newest.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { files, newest, acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    /// Takes in what the files hold from now on; never ends, and may be dropped.
    pub(crate) async fn keep_up(&self) {
        // What was said last, so that it is said once.
        let mut said = None;
        loop {
            sleep(LOOK_EACH).await;
            let read = async { Texts::read(&self.files).await?.pair(&self.files) };
            match read.await {
                Ok(pair) => {
                    said = None;
                    if self.newest.replace(pair) {
                        tracing::info!("TLS goes on with a new certificate");
                    }
                }
                Err(error) if said.as_ref() != Some(&error) => {
                    tracing::warn!(%error, "TLS goes on with the certificate it has");
                    said = Some(error);
                }
                Err(_) => {}
            }
        }
    }
}

/// The certificate that connections are opened with.
struct Newest(RwLock<Arc<CertifiedKey>>);

impl Newest {
    /// Whether it is another one.
    fn replace(&self, pair: CertifiedKey) -> bool {
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let other = kept.cert != pair.cert;
        if other {
            *kept = Arc::new(pair);
        }
        other
    }
}

impl fmt::Debug for Newest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Newest")
    }
}

impl ResolvesServerCert for Newest {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// What the files hold.
struct Texts {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Texts {
    async fn read(files: &Files) -> Result<Self, Error> {
        let certificate = tokio::fs::read(&files.certificate).await;
        let key = tokio::fs::read(&files.key).await;
        Ok(Self {
            certificate: certificate.map_err(|error| Error::certificate(files, &error))?,
            key: key.map_err(|error| Error::key(files, &error))?,
        })
    }

    fn pair(&self, files: &Files) -> Result<CertifiedKey, Error> {
        parse_pair(&self.certificate, &self.key).map_err(|error| match error {
            CertificateError::Key => Error::key(files, &error),
            CertificateError::Certificate => Error::certificate(files, &error),
            CertificateError::Pair | CertificateError::TooLong => Error::Pair(error),
        })
    }
}

impl Error {
    fn certificate(files: &Files, why: &dyn fmt::Display) -> Self {
        Self::Certificate(files.certificate.clone(), why.to_string())
    }

    fn key(files: &Files, why: &dyn fmt::Display) -> Self {
        Self::Key(files.key.clone(), why.to_string())
    }
}
