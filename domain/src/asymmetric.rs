//! Signatures that a receiver verifies with a public key (Standard Webhooks, `v1a`: Ed25519, RFC 8032).
//!
//! The key pair comes out of the signing secret, so that it is stored, replaced and overlaps with the one before as
//! that does, and each subscription has its own: under a key that several shared, what one receiver got could be
//! passed on to another as its own, since what is signed does not name the receiver. Whoever has the signing secret
//! can sign; whoever has the public key alone can not.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::Mac as _;

use crate::id::DeliveryId;
use crate::signature::{SigningSecret, hmac_sha256};
use crate::time::Timestamp;

const PUBLIC_KEY_PREFIX: &str = "whpk_";

/// What the seed is for, so that it is no signature of anything (RFC 5869 §2.3, with one block).
const PURPOSE: &[u8] = b"posthorn v1a ed25519 seed\x01";

/// Signs so that no secret has to be shared.
#[derive(Debug)]
pub struct AsymmetricKey(Ed25519KeyPair);

impl AsymmetricKey {
    /// The one that comes out of `secret`, always the same.
    #[must_use]
    pub fn of(secret: &SigningSecret) -> Self {
        let seed = hmac_sha256(secret.bytes()).chain_update(PURPOSE).finalize().into_bytes();
        Self(key_pair(&seed.into()))
    }

    /// The public key as receivers enter it: `whpk_…`.
    #[must_use]
    pub fn public(&self) -> String {
        format!("{PUBLIC_KEY_PREFIX}{}", BASE64.encode(self.0.public_key()))
    }

    /// One signature for `webhook-signature`; `at` is what `webhook-timestamp` says.
    #[must_use]
    pub fn sign(&self, id: DeliveryId, at: Timestamp, body: &[u8]) -> String {
        let mut message = format!("{id}.{}.", at.as_seconds()).into_bytes();
        message.extend_from_slice(body);
        format!("v1a,{}", BASE64.encode(self.0.sign(&message)))
    }
}

fn key_pair(seed: &[u8; 32]) -> Ed25519KeyPair {
    #[expect(clippy::expect_used, reason = "RFC 8032 §5.1.5: any 32 bytes are a private key")]
    Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a private key")
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    /// RFC 8032 §7.1, test 3, by the same calls.
    #[test]
    fn signs_as_the_rfc_says() {
        let bytes = |hex: &str| -> Vec<u8> {
            let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            (0..hex.len()).step_by(2).map(digits).collect()
        };
        let seed = bytes("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7");
        let pair = key_pair(&seed.try_into().unwrap());
        let public = bytes("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025");
        assert_eq!(pair.public_key().as_ref(), public);
        let signature = bytes(
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac\
             18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        );
        assert_eq!(pair.sign(&[0xaf, 0x82]).as_ref(), signature);
    }

    #[test]
    fn the_public_key_verifies_what_was_signed_and_nothing_else() {
        let secret = SigningSecret::from_random([7; 32]);
        let key = AsymmetricKey::of(&secret);
        let other = AsymmetricKey::of(&SigningSecret::from_random([8; 32]));
        assert_ne!(key.public(), other.public());
        assert_eq!(AsymmetricKey::of(&secret).public(), key.public());

        let (id, at) = (DeliveryId(uuid::Uuid::nil()), Timestamp::from_millis(1_614_265_330_999));
        let signature = key.sign(id, at, b"body");
        let signature = BASE64.decode(signature.strip_prefix("v1a,").unwrap()).unwrap();
        let verifies = |key: &AsymmetricKey, message: &[u8]| {
            let public = BASE64.decode(key.public().strip_prefix("whpk_").unwrap()).unwrap();
            UnparsedPublicKey::new(&ED25519, public).verify(message, &signature).is_ok()
        };
        let message = b"00000000-0000-0000-0000-000000000000.1614265330.body";
        assert!(verifies(&key, message));
        assert!(!verifies(&key, b"00000000-0000-0000-0000-000000000000.1614265330.bodY"));
        assert!(!verifies(&other, message));
    }

    #[test]
    fn the_private_key_stays_inside() {
        let secret = SigningSecret::from_random([7; 32]);
        let shown = format!("{:?}", AsymmetricKey::of(&secret));
        assert!(shown.contains("Ed25519KeyPair") && !shown.contains("seed"), "{shown}");
    }
}
