//! The key that secrets are encrypted with where they are stored.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use secrecy::{ExposeSecret as _, SecretSlice};

/// Its length.
pub const ENCRYPTION_KEY_BYTES: usize = 32;

/// An encryption key; shows nothing of itself through `Debug`.
#[derive(Clone)]
pub struct EncryptionKey(SecretSlice<u8>);

/// Why a text is no encryption key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected the base64 of {ENCRYPTION_KEY_BYTES} random bytes")]
pub struct EncryptionKeyError;

impl EncryptionKey {
    /// From its base64 (RFC 4648 §4, with padding), as `openssl rand -base64 32` writes it.
    pub fn parse(text: &str) -> Result<Self, EncryptionKeyError> {
        let bytes = BASE64.decode(text).map_err(|_| EncryptionKeyError)?;
        if bytes.len() == ENCRYPTION_KEY_BYTES { Ok(Self(bytes.into())) } else { Err(EncryptionKeyError) }
    }

    /// The key itself: `ENCRYPTION_KEY_BYTES` of it.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret()
    }
}

impl PartialEq for EncryptionKey {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EncryptionKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_32_bytes_are_a_key() {
        let text = format!("{}=", "A".repeat(43));
        let key = EncryptionKey::parse(&text).unwrap();
        assert_eq!(key.expose(), &[0; ENCRYPTION_KEY_BYTES]);
        assert_eq!(format!("{key:?}"), "EncryptionKey(…)");
        let longer = format!("{}==", "A".repeat(46));
        for wrong in ["", "A", "secret", &"A".repeat(43), &"A".repeat(44), &longer, &format!(" {text}")] {
            assert_eq!(EncryptionKey::parse(wrong), Err(EncryptionKeyError), "{wrong}");
        }
    }
}
