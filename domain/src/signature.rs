//! How both ends prove who they are, and the secrets they prove it with.
//!
//! - At ingest: `sha256=` and the lower-case hex of HMAC-SHA256 over the body, as GitHub signs.
//! - At the receiver: Standard Webhooks, `v1,` and the base64 of HMAC-SHA256 over
//!   `id.timestamp.body` (<https://www.standardwebhooks.com>, "Signature scheme"). With a public key:
//!   [`asymmetric`](crate::asymmetric).
//!
//! Secrets show nothing of themselves through `Debug`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac as _};
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use sha2::Sha256;

use crate::id::DeliveryId;
use crate::limits::SECRET_KEY_BYTES_MAX;
use crate::time::Timestamp;

const SIGNING_SECRET_PREFIX: &str = "whsec_";
const BODY_SIGNATURE_PREFIX: &str = "sha256=";
const SHA256_BYTES: usize = 32;

/// A fresh signing secret's length; Standard Webhooks asks for 24 to 64 bytes.
pub const SIGNING_SECRET_BYTES: usize = 32;

pub(crate) fn hmac_sha256(key: &[u8]) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "RFC 2104 §2: HMAC takes a key of any length")]
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

/// The secret that guards ingest: any text of 1 to 512 bytes. Wiped from memory when it is dropped.
#[derive(Clone)]
pub struct SecretKey(SecretString);

/// Why a text is no ingest secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to {SECRET_KEY_BYTES_MAX} bytes")]
pub struct SecretKeyError;

impl SecretKey {
    /// Takes any text that is neither empty nor too long.
    pub fn parse(text: &str) -> Result<Self, SecretKeyError> {
        if (1..=SECRET_KEY_BYTES_MAX).contains(&text.len()) {
            Ok(Self(text.into()))
        } else {
            Err(SecretKeyError)
        }
    }

    /// One that nobody knows, from fresh random bytes.
    #[must_use]
    pub fn from_random(bytes: [u8; SHA256_BYTES]) -> Self {
        Self(BASE64.encode(bytes).into())
    }

    /// The secret itself, to be stored.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// The value of `X-Webhook-Signature-256` for `body`.
    #[must_use]
    pub fn sign(&self, body: &[u8]) -> String {
        let mac = hmac_sha256(self.expose().as_bytes()).chain_update(body).finalize().into_bytes();
        let mut text = String::with_capacity(BODY_SIGNATURE_PREFIX.len() + 2 * SHA256_BYTES);
        text.push_str(BODY_SIGNATURE_PREFIX);
        for byte in mac {
            text.push(hex_digit(byte >> 4));
            text.push(hex_digit(byte & 0x0f));
        }
        text
    }

    /// Whether `header` is what [`sign`](Self::sign) writes for `body`; takes as long for a wrong
    /// signature as for a right one. Upper-case hex, spaces and other schemes are wrong.
    #[must_use]
    pub fn verify(&self, header: &[u8], body: &[u8]) -> bool {
        header.strip_prefix(BODY_SIGNATURE_PREFIX.as_bytes()).and_then(parse_lower_hex).is_some_and(|mac| {
            hmac_sha256(self.expose().as_bytes()).chain_update(body).verify_slice(&mac).is_ok()
        })
    }
}

impl PartialEq for SecretKey {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for SecretKey {}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(…)")
    }
}

fn hex_digit(nibble: u8) -> char {
    char::from_digit(u32::from(nibble), 16).unwrap_or('0')
}

fn parse_lower_hex(text: &[u8]) -> Option<[u8; SHA256_BYTES]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * SHA256_BYTES {
        return None;
    }
    let mut bytes = [0; SHA256_BYTES];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(bytes)
}

/// The secret that a subscription's deliveries are signed with. Wiped from memory when it is dropped.
#[derive(Clone)]
pub struct SigningSecret(SecretSlice<u8>);

/// Why a text is no signing secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {SIGNING_SECRET_PREFIX} and the base64 of 24 to 64 bytes")]
pub struct SigningSecretError;

impl SigningSecret {
    /// From fresh random bytes.
    #[must_use]
    pub fn from_random(bytes: [u8; SIGNING_SECRET_BYTES]) -> Self {
        Self(bytes.to_vec().into())
    }

    /// From the text that [`expose`](Self::expose) gives.
    pub fn parse(text: &str) -> Result<Self, SigningSecretError> {
        let encoded = text.strip_prefix(SIGNING_SECRET_PREFIX).ok_or(SigningSecretError)?;
        let bytes = BASE64.decode(encoded).map_err(|_| SigningSecretError)?;
        if (24..=64).contains(&bytes.len()) { Ok(Self(bytes.into())) } else { Err(SigningSecretError) }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.expose_secret()
    }

    /// The secret as receivers enter it: `whsec_…`.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("{SIGNING_SECRET_PREFIX}{}", BASE64.encode(self.bytes()))
    }

    /// One signature for `webhook-signature`; `at` is what `webhook-timestamp` says.
    #[must_use]
    pub fn sign(&self, id: DeliveryId, at: Timestamp, body: &[u8]) -> String {
        let mac = hmac_sha256(self.bytes())
            .chain_update(format!("{id}.{}.", at.as_seconds()))
            .chain_update(body)
            .finalize()
            .into_bytes();
        format!("v1,{}", BASE64.encode(mac))
    }
}

impl PartialEq for SigningSecret {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}

impl Eq for SigningSecret {}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of GitHub's documentation, "Validating webhook deliveries".
    #[test]
    fn signs_bodies_as_github_does() {
        let key = SecretKey::parse("It's a Secret to Everybody").unwrap();
        let header = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        assert_eq!(key.sign(b"Hello, World!"), header);
        assert!(key.verify(header.as_bytes(), b"Hello, World!"));
        assert!(!key.verify(header.as_bytes(), b"Hello, World"));
    }

    #[test]
    fn only_the_one_spelling_of_a_body_signature_is_right() {
        let key = SecretKey::parse("secret").unwrap();
        let right = key.sign(b"{}");
        let hex = right.strip_prefix("sha256=").unwrap();
        for wrong in [
            format!("sha256={}", hex.to_uppercase()),
            hex.to_owned(),
            format!("sha1={hex}"),
            format!("sha256= {hex}"),
            format!("{right} "),
            right[..right.len() - 1].to_owned(),
            String::new(),
        ] {
            assert!(!key.verify(wrong.as_bytes(), b"{}"), "{wrong}");
        }
    }

    /// The vector of the Standard Webhooks libraries' own tests.
    #[test]
    fn signs_deliveries_as_standard_webhooks_says() {
        let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let mac = hmac_sha256(secret.0.expose_secret())
            .chain_update(b"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{\"test\": 2432232314}")
            .finalize()
            .into_bytes();
        assert_eq!(BASE64.encode(mac), "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let id = DeliveryId(uuid::Uuid::nil());
        let expected = hmac_sha256(secret.0.expose_secret())
            .chain_update(b"00000000-0000-0000-0000-000000000000.1614265330.body")
            .finalize()
            .into_bytes();
        let at = Timestamp::from_millis(1_614_265_330_999);
        assert_eq!(secret.sign(id, at, b"body"), format!("v1,{}", BASE64.encode(expected)));
    }

    #[test]
    fn signing_secrets_lead_back_and_are_checked() {
        let secret = SigningSecret::from_random([7; SIGNING_SECRET_BYTES]);
        assert_eq!(SigningSecret::parse(&secret.expose()), Ok(secret.clone()));
        assert_eq!(format!("{secret:?}"), "SigningSecret(…)");
        for wrong in ["", "whsec_", "whsec_AAAA", "whsec_!", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
            assert_eq!(SigningSecret::parse(wrong), Err(SigningSecretError), "{wrong}");
        }
    }

    #[test]
    fn ingest_secrets_are_never_empty_or_endless() {
        assert_eq!(SecretKey::parse(""), Err(SecretKeyError));
        assert_eq!(SecretKey::parse(&"a".repeat(513)), Err(SecretKeyError));
        assert_eq!(format!("{:?}", SecretKey::parse("x").unwrap()), "SecretKey(…)");
    }
}
