//! Certificates with their private keys, as either end of TLS shows them.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

use crate::limits::CERTIFICATE_BYTES_MAX;

/// What is wrong with a certificate or its key. Says nothing of what is in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The certificates.
    #[error("expected certificates in PEM, the one that the key belongs to first")]
    Certificate,
    /// The private key.
    #[error("expected a private key in PEM (PKCS #8, PKCS #1 or SEC 1)")]
    Key,
    /// The two are no pair, or of a kind that TLS does not use.
    #[error("expected the private key of the first certificate, of a kind that TLS uses")]
    Pair,
    /// One of them is beyond all bounds.
    #[error("expected at most {CERTIFICATE_BYTES_MAX} bytes")]
    TooLong,
}

/// Reads certificates and the private key of the first one; each text may hold other things beside.
pub fn parse_pair(certificate: &[u8], key: &[u8]) -> Result<CertifiedKey, CertificateError> {
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or(CertificateError::Certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| CertificateError::Key)?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|_| CertificateError::Pair)
}

/// What an endpoint is shown that asks who calls (mTLS). `Debug` shows nothing of it.
#[derive(Clone)]
pub struct ClientCertificate {
    pair: Arc<CertifiedKey>,
    /// The two texts, as JSON.
    stored: SecretString,
    id: [u8; 32],
}

impl ClientCertificate {
    /// Takes certificates and their key in PEM, each of at most [`CERTIFICATE_BYTES_MAX`] bytes.
    pub fn parse(certificate: &str, key: &str) -> Result<Self, CertificateError> {
        if certificate.len().max(key.len()) > CERTIFICATE_BYTES_MAX {
            return Err(CertificateError::TooLong);
        }
        let pair = Arc::new(parse_pair(certificate.as_bytes(), key.as_bytes())?);
        let stored = serde_json::json!([certificate, key]).to_string();
        let id = Sha256::digest(stored.as_bytes()).into();
        Ok(Self { pair, stored: stored.into(), id })
    }

    /// From the text that [`expose`](Self::expose) gives.
    pub fn from_stored(text: &str) -> Result<Self, CertificateError> {
        let texts: [String; 2] = serde_json::from_str(text).map_err(|_| CertificateError::Pair)?;
        let [certificate, key] = &texts;
        Self::parse(certificate, key)
    }

    /// Both as one text, to be stored.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.stored.expose_secret()
    }

    /// As TLS takes it.
    #[must_use]
    pub const fn pair(&self) -> &Arc<CertifiedKey> {
        &self.pair
    }

    /// Tells it from all others.
    #[must_use]
    pub const fn id(&self) -> [u8; 32] {
        self.id
    }
}

impl PartialEq for ClientCertificate {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for ClientCertificate {}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientCertificate(…)")
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn pair() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_pair_is_taken_and_leads_back() {
        let (certificate, key) = pair();
        let parsed = ClientCertificate::parse(&certificate, &key).unwrap();
        assert_eq!(ClientCertificate::from_stored(parsed.expose()), Ok(parsed.clone()));
        assert_eq!(format!("{parsed:?}"), "ClientCertificate(…)");
        let (other, other_key) = pair();
        assert_ne!(ClientCertificate::parse(&other, &other_key).unwrap(), parsed);
        // Of several certificates the first is the key's own.
        let chain = format!("{certificate}{other}");
        assert_eq!(ClientCertificate::parse(&chain, &key).unwrap().pair().cert.len(), 2);
        assert_eq!(
            ClientCertificate::parse(&format!("{other}{certificate}"), &key),
            Err(CertificateError::Pair)
        );
    }

    #[test]
    fn what_is_no_pair_is_told() {
        let (certificate, key) = pair();
        let (other, _) = pair();
        let cut = &certificate[..certificate.len() / 2];
        let long = format!("{certificate}{}", " ".repeat(CERTIFICATE_BYTES_MAX));
        for (certificate, key, error) in [
            ("", key.as_str(), CertificateError::Certificate),
            ("nonsense", &key, CertificateError::Certificate),
            (&key, &key, CertificateError::Certificate),
            (cut, &key, CertificateError::Certificate),
            (&certificate, "", CertificateError::Key),
            (&certificate, &certificate, CertificateError::Key),
            (&other, &key, CertificateError::Pair),
            (&long, &key, CertificateError::TooLong),
        ] {
            assert_eq!(ClientCertificate::parse(certificate, key), Err(error));
        }
        assert_eq!(ClientCertificate::from_stored("{}"), Err(CertificateError::Pair));
    }
}
