//! Signatures made and checked without Posthorn's own code.

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

/// GitHub's published example: see "Validating webhook deliveries" in its documentation.
#[test]
fn signature_agrees_with_githubs_example() {
    assert_eq!(
        sha256_signature("It's a Secret to Everybody", b"Hello, World!"),
        "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
    );
}
