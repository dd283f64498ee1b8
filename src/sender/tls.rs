//! TLS with endpoints: whom to trust, and what to show those that ask who calls.

use std::sync::Arc;

use posthorn_domain::certificate::ClientCertificate;
use rustls::ClientConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::sign::SingleCertAndKey;
use rustls_platform_verifier::Verifier;

use crate::sender::Error;

/// Trusts what the system trusts. One for all clients: the system's certificates are read and kept once.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    provider: Arc<CryptoProvider>,
    verifier: Arc<Verifier>,
}

impl Trust {
    /// Trusts `more` beside them.
    pub(super) fn new(more: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = Verifier::new_with_extra_roots(more, provider.clone());
        Ok(Self { provider, verifier: Arc::new(verifier.map_err(|error| Error::Tls(error.to_string()))?) })
    }

    /// For connections on which `shown` is what is shown where that is asked.
    pub(super) fn config(&self, shown: Option<&ClientCertificate>) -> Result<ClientConfig, Error> {
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Tls(error.to_string()))?
            // The library's word for any verifier but its own; this one is the system's.
            .dangerous()
            .with_custom_certificate_verifier(self.verifier.clone());
        let mut config = match shown {
            Some(shown) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown.pair().clone())))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}
