//! Signatures made and checked without Posthorn's own code.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::Received;

/// The value of `X-Webhook-Signature-256` and of GitHub's `X-Hub-Signature-256`.
pub(crate) fn sha256_signature(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

/// Whether the request verifies as a Standard Webhook under `signing_secret`.
pub(crate) fn verifies(request: &Received, signing_secret: &str) -> Result<(), String> {
    let headers = request.headers.iter().map(|(name, value)| {
        (name.parse::<reqwest::header::HeaderName>().unwrap(), value.parse().expect("a header value"))
    });
    standardwebhooks::Webhook::new(signing_secret)
        .and_then(|webhook| webhook.verify(&request.body, &headers.collect()))
        .map_err(|error| format!("{error}; headers {:?}", request.headers))
}

/// Whether it bears a signature of kind `v1a` that this public key verifies (Standard Webhooks).
pub(crate) fn verifies_asymmetrically(request: &Received, public_key: &str) -> bool {
    let decode = |text: &str| BASE64.decode(text).unwrap();
    let public = decode(public_key.strip_prefix("whpk_").unwrap());
    let head = format!("{}.{}.", request.header("webhook-id"), request.header("webhook-timestamp"));
    let message = [head.as_bytes(), &request.body].concat();
    request.header("webhook-signature").split(' ').filter_map(|signature| signature.strip_prefix("v1a,")).any(
        |signature| UnparsedPublicKey::new(&ED25519, &public).verify(&message, &decode(signature)).is_ok(),
    )
}

/// GitHub's published example: see "Validating webhook deliveries" in its documentation.
#[test]
fn signature_agrees_with_githubs_example() {
    assert_eq!(
        sha256_signature("It's a Secret to Everybody", b"Hello, World!"),
        "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
    );
}
