//! Whether an event is signed, and whether it is signed right.

use poem::http::{HeaderMap, HeaderName};
use posthorn_domain::signature::SecretKey;

use super::header::once;
use super::problem::Problem;

/// Our name for an event's signature.
const SIGNATURE: HeaderName = HeaderName::from_static("x-webhook-signature-256");
/// GitHub's name for the same.
const SIGNATURE_OF_GITHUB: HeaderName = HeaderName::from_static("x-hub-signature-256");

/// Whether a request says that it is signed.
pub(crate) fn is_there(headers: &HeaderMap) -> bool {
    headers.contains_key(SIGNATURE) || headers.contains_key(SIGNATURE_OF_GITHUB)
}

/// Every signature that is there must be right by one of `keys`, and one must be there. A header that comes twice is
/// wrong: whoever reads the other one sees another signature.
pub(crate) fn check(headers: &HeaderMap, keys: &[&SecretKey], payload: &[u8]) -> Result<(), Problem> {
    let mut some = false;
    for name in [&SIGNATURE, &SIGNATURE_OF_GITHUB] {
        let value = once(headers, name);
        let value = value.ok_or_else(|| Problem::invalid_signature("a signature came twice"))?;
        let Some(value) = value else { continue };
        some = true;
        if !keys.iter().any(|key| key.verify(value.as_bytes(), payload)) {
            return Err(Problem::invalid_signature(
                "expected sha256= and the lower-case hex of HMAC-SHA256(secret_key, raw body)",
            ));
        }
    }
    some.then_some(()).ok_or_else(|| Problem::invalid_signature("X-Webhook-Signature-256 is missing"))
}

#[cfg(test)]
mod tests {
    use poem::http::HeaderValue;

    use super::*;

    #[test]
    fn all_signatures_must_be_right() {
        let secret = SecretKey::parse("secret").unwrap();
        let (right, wrong) = (secret.sign(b"{}"), secret.sign(b"{ }"));
        let (right, wrong) = (right.as_str(), wrong.as_str());
        let (ours, githubs) = ("x-webhook-signature-256", "x-hub-signature-256");
        for (pairs, ok) in [
            (&[(ours, right)][..], true),
            (&[(githubs, right)], true),
            (&[(ours, right), (githubs, right)], true),
            (&[], false),
            (&[(ours, wrong)], false),
            (&[(ours, right), (githubs, wrong)], false),
            (&[(ours, wrong), (githubs, right)], false),
            (&[(ours, right), (ours, right)], false),
            (&[(githubs, right), (githubs, right)], false),
            (&[(ours, right), (githubs, "")], false),
        ] {
            let pair = |&(name, value): &(&'static str, &str)| {
                (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
            };
            let headers: HeaderMap = pairs.iter().map(pair).collect();
            let replaced = SecretKey::parse("replaced").unwrap();
            for keys in [&[&secret][..], &[&replaced, &secret], &[&secret, &replaced]] {
                assert_eq!(check(&headers, keys, b"{}").is_ok(), ok, "{pairs:?}");
            }
            assert!(check(&headers, &[&replaced], b"{}").is_err(), "{pairs:?}");
            assert_eq!(is_there(&headers), !pairs.is_empty(), "{pairs:?}");
        }
    }
}
