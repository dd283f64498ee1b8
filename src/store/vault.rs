//! Secrets at rest: encrypted with a key that the database does not hold.
//!
//! AES-256-GCM with a random nonce for each (NIST SP 800-38D §8.2.2: 2³² of them under one key). What is encrypted
//! belongs to its row and column: moved to another it is not opened. A row says with which key its secrets are
//! encrypted, so that keys can be replaced while all nodes run.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use posthorn_domain::encryption_key::EncryptionKey;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::Error;
use super::entity::subscriptions::Model;

/// Encrypts what is written and decrypts what is read. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Vault(Arc<Keys>);

#[derive(Debug, Default)]
struct Keys {
    /// What is written is encrypted with it; without it, it stands in clear.
    current: Option<Key>,
    /// What is read may be encrypted with it as well.
    previous: Option<Key>,
}

struct Key {
    /// Names the key without giving it away.
    id: String,
    cipher: RandomizedNonceKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.id).finish()
    }
}

impl Vault {
    pub(super) fn new(
        current: Option<&EncryptionKey>,
        previous: Option<&EncryptionKey>,
    ) -> Result<Self, Error> {
        let key = |key: Option<&EncryptionKey>| key.map(Key::new).transpose();
        Ok(Self(Arc::new(Keys { current: key(current)?, previous: key(previous)? })))
    }

    /// What names the key that is written with; none where secrets are kept in clear.
    pub(super) fn current_id(&self) -> Option<&str> {
        self.0.current.as_ref().map(|key| &*key.id)
    }

    /// Whether what this key encrypted can be read.
    pub(super) fn knows(&self, id: &str) -> bool {
        self.key(id).is_some()
    }

    fn key(&self, id: &str) -> Option<&Key> {
        [&self.0.current, &self.0.previous].into_iter().flatten().find(|key| key.id == id)
    }

    /// Encrypts a row's secrets, which stand in clear.
    pub(super) fn seal(&self, mut row: Model) -> Result<Model, Error> {
        let Some(key) = &self.0.current else { return Ok(row) };
        let id = row.id;
        for (column, secret) in secrets(&mut row) {
            *secret = key.seal(&context(column, id), secret)?;
        }
        row.sealed_by = Some(key.id.clone());
        Ok(row)
    }

    /// A row with its secrets in clear.
    pub(super) fn open(&self, mut row: Model) -> Result<Model, Error> {
        let Some(sealed_by) = row.sealed_by.take() else { return Ok(row) };
        let id = row.id;
        let key = self.key(&sealed_by);
        let key = key.ok_or_else(|| Error::corrupt("key of the secrets of subscription", id))?;
        for (column, secret) in secrets(&mut row) {
            let opened = key.open(&context(column, id), secret);
            *secret = opened.ok_or_else(|| Error::corrupt(column, id))?;
        }
        Ok(row)
    }
}

/// Every secret of a row, with its column's name.
fn secrets(row: &mut Model) -> impl Iterator<Item = (&'static str, &mut String)> {
    let always = [("headers", &mut row.headers), ("signing_secret", &mut row.signing_secret)];
    let sometimes = [
        ("secret_key", row.secret_key.as_mut()),
        ("client_certificate", row.client_certificate.as_mut()),
        ("previous_signing_secret", row.previous_signing_secret.as_mut()),
    ];
    always.into_iter().chain(sometimes.into_iter().filter_map(|(column, secret)| Some((column, secret?))))
}

/// Where a secret belongs.
fn context(column: &str, row: Uuid) -> String {
    format!("subscriptions.{column} {row}")
}

impl Key {
    fn new(key: &EncryptionKey) -> Result<Self, Error> {
        let cipher = RandomizedNonceKey::new(&AES_256_GCM, key.expose());
        let digest =
            Sha256::new().chain_update("posthorn encryption key id").chain_update(key.expose()).finalize();
        let id = digest.iter().take(8).fold(0_u64, |id, byte| id << 8 | u64::from(*byte));
        // A key of the right length is all it asks for.
        Ok(Self {
            id: format!("{id:016x}"),
            cipher: cipher.map_err(|_| Error::corrupt("encryption key", "length"))?,
        })
    }

    /// The nonce and what is encrypted, in base64.
    fn seal(&self, context: &str, secret: &str) -> Result<String, Error> {
        let mut sealed = secret.as_bytes().to_vec();
        let nonce = self.cipher.seal_in_place_append_tag(Aad::from(context), &mut sealed);
        let nonce = nonce.map_err(|_| Error::Refused("a secret cannot be encrypted".to_owned()))?;
        Ok(STANDARD_NO_PAD.encode([nonce.as_ref().as_slice(), &sealed].concat()))
    }

    fn open(&self, context: &str, sealed: &str) -> Option<String> {
        let bytes = STANDARD_NO_PAD.decode(sealed).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut sealed = sealed.to_vec();
        let opened = self.cipher.open_in_place(nonce, Aad::from(context), &mut sealed).ok()?;
        String::from_utf8(opened.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(bytes: [u8; 32]) -> EncryptionKey {
        EncryptionKey::parse(&base64::engine::general_purpose::STANDARD.encode(bytes)).unwrap()
    }

    fn vault(current: Option<u8>, previous: Option<u8>) -> Vault {
        let key = |byte: Option<u8>| byte.map(|byte| key([byte; 32]));
        Vault::new(key(current).as_ref(), key(previous).as_ref()).unwrap()
    }

    fn row() -> Model {
        Model {
            id: Uuid::from_u128(7),
            tenant: "acme".to_owned(),
            target_url: "https://example.com/".to_owned(),
            description: None,
            headers: r#"{"authorization":"Bearer canary"}"#.to_owned(),
            ordering: 0,
            max_in_flight: None,
            requests_per_second: None,
            burst: None,
            max_retries: None,
            retry_delay_ms: None,
            retry_delay_max_ms: None,
            on_exhausted: None,
            timeout_ms: None,
            secret_key: Some("canary".to_owned()),
            signing_secret: "whsec_canary".to_owned(),
            previous_signing_secret: Some("whsec_previous_canary".to_owned()),
            previous_signing_until_ms: Some(1),
            status: 0,
            status_reason: None,
            version: 1,
            endpoint_version: 1,
            retries_version: 1,
            created_at_ms: 0,
            updated_at_ms: 0,
            deleted_at_ms: None,
            sealed_by: None,
            asymmetric_signature: 0,
            client_certificate: Some("[\"canary\", \"canary\"]".to_owned()),
        }
    }

    #[test]
    fn what_is_sealed_shows_nothing_and_opens_again() {
        let vault = vault(Some(1), None);
        let sealed = vault.seal(row()).unwrap();
        assert!(!format!("{sealed:?}").contains("canary"), "{sealed:?}");
        assert_eq!(sealed.sealed_by.as_deref(), vault.current_id());
        assert_ne!(
            vault.seal(row()).unwrap().signing_secret,
            sealed.signing_secret,
            "each with a nonce of its own"
        );
        assert_eq!(vault.open(sealed).unwrap(), row());
    }

    #[test]
    fn without_a_key_all_stands_in_clear_and_is_read_with_one() {
        let clear = vault(None, None).seal(row()).unwrap();
        assert_eq!(clear, row());
        assert_eq!(vault(Some(1), None).open(clear).unwrap(), row());
    }

    #[test]
    fn only_its_own_key_row_and_column_open_it() {
        let sealed = vault(Some(1), None).seal(row()).unwrap();
        assert_eq!(vault(Some(2), Some(1)).open(sealed.clone()).unwrap(), row(), "the previous key");
        for other in [vault(None, None), vault(Some(2), None), vault(Some(2), Some(3))] {
            other.open(sealed.clone()).unwrap_err();
        }
        let mine = vault(Some(1), None);
        let moved = Model { id: Uuid::from_u128(8), ..sealed.clone() };
        mine.open(moved).unwrap_err();
        let swapped = Model { signing_secret: sealed.headers.clone(), ..sealed.clone() };
        mine.open(swapped).unwrap_err();
        for junk in ["", "whsec_clear", "AAAA"] {
            mine.open(Model { signing_secret: junk.to_owned(), ..sealed.clone() }).unwrap_err();
        }
        let relabelled = Model { sealed_by: vault(Some(2), None).current_id().map(str::to_owned), ..sealed };
        vault(Some(2), Some(1)).open(relabelled).unwrap_err();
    }

    #[test]
    fn keys_show_nothing() {
        let key = key([b'k'; 32]);
        let vault = Vault::new(Some(&key), None).unwrap();
        let shown = format!("{vault:?}");
        assert!(!shown.contains("kk") && !shown.contains("107"), "{shown}");
    }
}
