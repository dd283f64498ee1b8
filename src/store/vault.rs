//! Secrets at rest: encrypted with a key that the database does not hold.
//!
//! AES-256-GCM with a random nonce for each (NIST SP 800-38D §8.2.2: 2³² of them under one key). What is encrypted
//! belongs to its row and column: moved to another it is not opened. A row says with which key its secrets are
//! encrypted, so that keys can be replaced while all nodes run.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use posthorn_domain::encryption_key::EncryptionKey;
use posthorn_domain::subscription::SecretField;
use sea_orm::IdenStatic as _;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::Error;
use super::entity::subscriptions::{Column, Model};

/// Encrypts what is written and decrypts what is read. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Vault(Arc<Keys>);

#[derive(Debug, Default)]
struct Keys {
    /// What is written is encrypted with it; without it, it stands in clear.
    current: Option<Key>,
    /// What is read may be encrypted with it as well.
    previous: Option<Key>,
    /// All secrets of the database were encrypted once: one in clear is not believed.
    all_sealed: AtomicBool,
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

/// A row whose secrets stand in clear, but for some.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) row: Model,
    /// Columns that nothing opens; they are as they are stored.
    pub(super) closed: BTreeSet<String>,
    /// What those columns hold.
    pub(super) unreadable: BTreeSet<SecretField>,
    /// All that could be read is encrypted with the key that is written with.
    pub(super) is_current: bool,
}

/// Where a secret in clear may be believed although its row says that it is encrypted, or all others are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clear {
    Believed,
    Refused,
}

impl Vault {
    pub(super) fn new(
        current: Option<&EncryptionKey>,
        previous: Option<&EncryptionKey>,
    ) -> Result<Self, Error> {
        let key = |key: Option<&EncryptionKey>| key.map(Key::new).transpose();
        let all_sealed = AtomicBool::new(false);
        Ok(Self(Arc::new(Keys { current: key(current)?, previous: key(previous)?, all_sealed })))
    }

    /// What names the key that is written with; none where secrets are kept in clear.
    pub(super) fn current_id(&self) -> Option<&str> {
        self.0.current.as_ref().map(|key| &*key.id)
    }

    /// Whether what this key encrypted can be read.
    pub(super) fn knows(&self, id: &str) -> bool {
        self.keys().any(|key| key.id == id)
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        self.0.current.iter().chain(&self.0.previous)
    }

    /// From now on no secret in clear is believed, as long as there is a key.
    pub(super) fn note_all_sealed(&self) {
        self.0.all_sealed.store(true, Ordering::Release);
    }

    /// Whether the row stands in clear, and it is not known whether that is believed.
    pub(super) fn doubts(&self, row: &Model) -> bool {
        row.sealed_by.is_none() && self.0.current.is_some() && !self.0.all_sealed.load(Ordering::Acquire)
    }

    /// Encrypts a row's secrets, which stand in clear.
    pub(super) fn seal(&self, row: Model) -> Result<Model, Error> {
        self.seal_but(row, &BTreeSet::new())
    }

    /// As [`seal`](Self::seal); the columns of `closed` stay as they are.
    pub(super) fn seal_but(&self, mut row: Model, closed: &BTreeSet<String>) -> Result<Model, Error> {
        let Some(key) = &self.0.current else { return Ok(row) };
        let id = row.id;
        for Secret { column, text, .. } in secrets(&mut row) {
            if let Some(text) = text.get().filter(|_| !closed.contains(column.as_str())) {
                *text = key.seal(&context(column, id), text)?;
            }
        }
        row.sealed_by = Some(key.id.clone());
        Ok(row)
    }

    /// A row with its secrets in clear. One that is encrypted with another of the keys than the row says is read, too.
    pub(super) fn open(&self, row: Model) -> Opened {
        let label = row.sealed_by.clone();
        let clear = self.0.current.is_none() || !self.0.all_sealed.load(Ordering::Acquire);
        self.open_each(row, |context, text| match &label {
            None => clear.then(|| (text.to_owned(), None)),
            Some(_) => self.decrypt(context, text),
        })
    }

    /// As [`open`](Self::open), whatever the row says: each secret by whichever key opens it, or in clear.
    pub(super) fn open_anyhow(&self, row: Model, clear: Clear) -> Opened {
        let labelled = row.sealed_by.is_some();
        self.open_each(row, |context, text| {
            let in_clear = || {
                // In a row that says so, what looks encrypted is: perhaps with a key that is not known.
                let believed = clear == Clear::Believed && !(labelled && looks_sealed(text));
                believed.then(|| (text.to_owned(), None))
            };
            self.decrypt(context, text).or_else(in_clear)
        })
    }

    fn decrypt<'a>(&'a self, context: &str, text: &str) -> Option<(String, Option<&'a Key>)> {
        self.keys().find_map(|key| Some((key.open(context, text)?, Some(key))))
    }

    fn open_each<'a>(
        &'a self,
        mut row: Model,
        open: impl Fn(&str, &str) -> Option<(String, Option<&'a Key>)>,
    ) -> Opened {
        let (id, current) = (row.id, self.current_id());
        let mut is_current = row.sealed_by.as_deref() == current;
        let (mut closed, mut unreadable) = (BTreeSet::new(), BTreeSet::new());
        for Secret { column, field, text } in secrets(&mut row) {
            let Some(text) = text.get() else { continue };
            if let Some((opened, key)) = open(&context(column, id), text) {
                is_current &= key.map(|key| &*key.id) == current;
                *text = opened;
            } else {
                closed.insert(column.as_str().to_owned());
                unreadable.insert(field);
            }
        }
        Opened { row, closed, unreadable, is_current }
    }
}

/// Whether it may be what [`Key::seal`] wrote: base64 of a nonce, a tag and something between.
fn looks_sealed(text: &str) -> bool {
    STANDARD_NO_PAD.decode(text).is_ok_and(|bytes| bytes.len() >= NONCE_LEN + AES_256_GCM.tag_len())
}

/// Whether a secret of the row is certainly not encrypted.
pub(super) fn stands_in_clear(row: &mut Model) -> bool {
    row.sealed_by.is_none()
        || secrets(row).into_iter().any(|secret| secret.text.get().is_some_and(|text| !looks_sealed(text)))
}

/// A column that holds a secret.
pub(super) struct Secret<'row> {
    pub(super) column: Column,
    pub(super) field: SecretField,
    pub(super) text: Text<'row>,
}

/// What such a column holds.
pub(super) enum Text<'row> {
    Always(&'row mut String),
    Sometimes(&'row mut Option<String>),
}

impl<'row> Text<'row> {
    /// The text, where there is one.
    pub(super) fn get(self) -> Option<&'row mut String> {
        match self {
            Self::Always(text) => Some(text),
            Self::Sometimes(text) => text.as_mut(),
        }
    }

    /// Takes the text away.
    pub(super) fn erase(self) {
        match self {
            Self::Always(text) => text.clear(),
            Self::Sometimes(text) => *text = None,
        }
    }

    /// Puts what another row has in its place.
    pub(super) fn put(self, other: Text<'_>) {
        match (self, other) {
            (Self::Always(text), Text::Always(other)) => text.clone_from(other),
            (Self::Sometimes(text), Text::Sometimes(other)) => text.clone_from(other),
            // The same column of two rows is one of the two in both.
            (Self::Always(_), Text::Sometimes(_)) | (Self::Sometimes(_), Text::Always(_)) => {}
        }
    }
}

/// Every secret of a row: the one list of what is encrypted, written anew under another key, and removed with its
/// subscription.
pub(super) fn secrets(row: &mut Model) -> [Secret<'_>; 7] {
    use Text::{Always, Sometimes};
    // Every column is named, so that whoever adds one has to say here whether it is a secret.
    let Model {
        headers,
        secret_key,
        signing_secret,
        previous_signing_secret,
        replaced_signing_secrets,
        replaced_secret_keys,
        client_certificate,
        id: _,
        tenant: _,
        target_url: _,
        description: _,
        ordering: _,
        max_in_flight: _,
        requests_per_second: _,
        burst: _,
        max_retries: _,
        retry_delay_ms: _,
        retry_delay_max_ms: _,
        on_exhausted: _,
        timeout_ms: _,
        previous_signing_until_ms: _,
        status: _,
        status_reason: _,
        version: _,
        endpoint_version: _,
        retries_version: _,
        created_at_ms: _,
        updated_at_ms: _,
        deleted_at_ms: _,
        sealed_by: _,
        asymmetric_signature: _,
        give_up_on: _,
        forward_headers: _,
        idempotency_header: _,
    } = row;
    let secret = |column, field, text| Secret { column, field, text };
    [
        secret(Column::Headers, SecretField::Headers, Always(headers)),
        secret(Column::SecretKey, SecretField::SecretKey, Sometimes(secret_key)),
        secret(Column::SigningSecret, SecretField::SigningSecret, Always(signing_secret)),
        secret(
            Column::PreviousSigningSecret,
            SecretField::ReplacedSigningSecrets,
            Sometimes(previous_signing_secret),
        ),
        secret(
            Column::ReplacedSigningSecrets,
            SecretField::ReplacedSigningSecrets,
            Sometimes(replaced_signing_secrets),
        ),
        secret(Column::ReplacedSecretKeys, SecretField::ReplacedSecretKeys, Sometimes(replaced_secret_keys)),
        secret(Column::ClientCertificate, SecretField::ClientCertificate, Sometimes(client_certificate)),
    ]
}

/// Where a secret belongs.
fn context(column: Column, row: Uuid) -> String {
    format!("subscriptions.{} {row}", column.as_str())
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
            replaced_signing_secrets: Some("[[\"canary\",1]]".to_owned()),
            replaced_secret_keys: Some("[[\"canary\",1]]".to_owned()),
            created_at_ms: 0,
            updated_at_ms: 0,
            deleted_at_ms: None,
            sealed_by: None,
            asymmetric_signature: 0,
            client_certificate: Some("[\"canary\", \"canary\"]".to_owned()),
            give_up_on: None,
            forward_headers: None,
            idempotency_header: None,
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
        check_open(&vault, sealed);
    }

    /// The row opens, and is as it was.
    fn check_open(vault: &Vault, sealed: Model) {
        let opened = vault.open(sealed);
        assert!(opened.closed.is_empty() && opened.unreadable.is_empty(), "{opened:?}");
        assert_eq!(Model { sealed_by: None, ..opened.row }, row());
    }

    /// Nothing but these columns stays closed, and they are as they are stored.
    fn check_closed(vault: &Vault, sealed: Model, columns: &[&str]) {
        let Opened { mut row, closed, .. } = vault.open(sealed.clone());
        assert_eq!(closed.iter().collect::<Vec<_>>(), columns);
        let mut sealed = sealed;
        for (opened, sealed) in secrets(&mut row).into_iter().zip(secrets(&mut sealed)) {
            let same = opened.text.get() == sealed.text.get();
            assert_eq!(same, columns.contains(&opened.column.as_str()), "{:?}", opened.column);
        }
    }

    const ALL: [&str; 7] = [
        "client_certificate",
        "headers",
        "previous_signing_secret",
        "replaced_secret_keys",
        "replaced_signing_secrets",
        "secret_key",
        "signing_secret",
    ];

    #[test]
    fn without_a_key_all_stands_in_clear_and_is_read_with_one() {
        let mut clear = vault(None, None).seal(row()).unwrap();
        assert_eq!(clear, row());
        assert!(stands_in_clear(&mut clear));
        check_open(&vault(Some(1), None), clear.clone());
        let strict = vault(Some(1), None);
        assert!(strict.doubts(&clear));
        strict.note_all_sealed();
        check_closed(&strict, clear.clone(), &ALL);
        assert!(!strict.doubts(&clear));
        // Where encryption was turned off nothing is refused.
        let off = vault(None, Some(1));
        off.note_all_sealed();
        check_open(&off, clear);
    }

    #[test]
    fn only_its_own_key_row_and_column_open_it() {
        let mut sealed = vault(Some(1), None).seal(row()).unwrap();
        assert!(!stands_in_clear(&mut sealed));
        check_open(&vault(Some(2), Some(1)), sealed.clone());
        for other in [vault(None, None), vault(Some(2), None), vault(Some(2), Some(3))] {
            check_closed(&other, sealed.clone(), &ALL);
        }
        let mine = vault(Some(1), None);
        check_closed(&mine, Model { id: Uuid::from_u128(8), ..sealed.clone() }, &ALL);
        let swapped = Model { signing_secret: sealed.headers.clone(), ..sealed.clone() };
        check_closed(&mine, swapped, &["signing_secret"]);
        for junk in ["", "whsec_clear", "AAAA"] {
            let planted = Model { signing_secret: junk.to_owned(), ..sealed.clone() };
            check_closed(&mine, planted, &["signing_secret"]);
        }
        // What a row says of its key is a hint: both are tried.
        let relabelled = Model { sealed_by: vault(Some(2), None).current_id().map(str::to_owned), ..sealed };
        check_open(&vault(Some(2), Some(1)), relabelled);
    }

    /// What releases up to 0.1 left: one column under the key before, or in clear, in a row that says otherwise.
    #[test]
    fn columns_are_mended_one_by_one() {
        let (old, new) = (vault(Some(1), None), vault(Some(2), Some(1)));
        let sealed = new.seal(row()).unwrap();
        assert!(new.open_anyhow(sealed.clone(), Clear::Believed).is_current);
        let older =
            Model { client_certificate: old.seal(row()).unwrap().client_certificate, ..sealed.clone() };
        check_closed(&vault(Some(2), None), older.clone(), &["client_certificate"]);
        let in_clear = Model { client_certificate: row().client_certificate, ..sealed.clone() };
        check_closed(&new, in_clear.clone(), &["client_certificate"]);
        assert!(stands_in_clear(&mut in_clear.clone()));
        for broken in [older, in_clear.clone()] {
            let opened = new.open_anyhow(broken, Clear::Believed);
            assert!(opened.closed.is_empty() && !opened.is_current);
            assert_eq!(Model { sealed_by: None, ..opened.row }, row());
        }
        assert!(new.open_anyhow(in_clear, Clear::Refused).closed.contains("client_certificate"));
        // A key that is not given: the text is kept, and not taken for clear.
        let lost = Model { secret_key: vault(Some(9), None).seal(row()).unwrap().secret_key, ..sealed };
        let opened = new.open_anyhow(lost.clone(), Clear::Believed);
        assert_eq!(opened.closed.iter().collect::<Vec<_>>(), ["secret_key"]);
        let again = new.seal_but(opened.row, &opened.closed).unwrap();
        assert_eq!(again.secret_key, lost.secret_key);
        check_closed(&new, again, &["secret_key"]);
    }

    #[test]
    fn keys_show_nothing() {
        let key = key([b'k'; 32]);
        let vault = Vault::new(Some(&key), None).unwrap();
        let shown = format!("{vault:?}");
        assert!(!shown.contains("kk") && !shown.contains("107"), "{shown}");
    }
}
