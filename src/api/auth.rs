//! Who calls.
//!
//! Where an admin key is configured, every route but the public ones needs it. Ingest decides for
//! itself ([`super::ingest`]): a right signature is as good as a key. Without a configured key
//! everyone may do everything; the server then listens on loopback only.
//!
//! A key is compared as its SHA-256 digest and in constant time, so that neither its length nor how
//! much of a guess is right shows in the time an answer takes; the key itself is not kept.

use std::fmt;
use std::sync::Arc;

use poem::http::{HeaderMap, header};
use poem::{Endpoint, Request, Result};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::problem::Problem;

/// What is kept of an API key.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// Of the key as clients send it.
    #[must_use]
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key).into())
    }

    fn matches(&self, key: &[u8]) -> bool {
        Sha256::digest(key).ct_eq(&self.0).into()
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest(…)")
    }
}

/// Who a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// Sees and does everything.
    Admin,
    /// Has no valid key.
    Stranger,
}

impl Caller {
    fn of(headers: &HeaderMap, admin_key: Option<&KeyDigest>) -> Self {
        let Some(admin_key) = admin_key else { return Self::Admin };
        match bearer(headers) {
            Some(key) if admin_key.matches(key) => Self::Admin,
            _ => Self::Stranger,
        }
    }

    /// Whoever the guard let pass; a stranger where none did.
    pub(super) fn of_request(request: &Request) -> Self {
        request.extensions().get().copied().unwrap_or(Self::Stranger)
    }
}

/// The key in `Authorization: Bearer <key>` (RFC 6750 §2.1); none where the header comes twice.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.as_bytes();
    let (scheme, key) = value.split_at_checked("Bearer ".len())?;
    (values.next().is_none() && scheme.eq_ignore_ascii_case(b"Bearer ")).then(|| key.trim_ascii())
}

/// Who may enter a path without a key.
fn is_public(path: &str) -> bool {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let first = segments.next().unwrap_or_default();
    // `ingest` looks at the signature first.
    matches!(first, "health" | "docs" | "redoc" | "openapi.json" | "openapi.yaml" | "problems" | "ingest")
}

/// Tells who calls, and refuses strangers where they may not enter.
pub(super) async fn guard<E: Endpoint>(
    next: Arc<E>,
    admin_key: Option<KeyDigest>,
    mut request: Request,
) -> Result<E::Output> {
    let caller = Caller::of(request.headers(), admin_key.as_ref());
    if caller == Caller::Stranger && !is_public(request.uri().path()) {
        return Err(Problem::api_key_required().into());
    }
    request.extensions_mut().insert(caller);
    next.call(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (header::AUTHORIZATION, value.parse().unwrap())).collect()
    }

    #[test]
    fn only_the_key_itself_passes() {
        let key = KeyDigest::of("the key");
        for (values, caller) in [
            (&["Bearer the key"][..], Caller::Admin),
            (&["bearer  the key"], Caller::Admin),
            (&[], Caller::Stranger),
            (&["Bearer"], Caller::Stranger),
            (&["Bearer "], Caller::Stranger),
            (&["Bearer the ke"], Caller::Stranger),
            (&["Bearer the keys"], Caller::Stranger),
            (&["Bearer The key"], Caller::Stranger),
            (&["Basic the key"], Caller::Stranger),
            (&["the key"], Caller::Stranger),
            (&["Bearer the key", "Bearer the key"], Caller::Stranger),
        ] {
            assert_eq!(Caller::of(&headers(values), Some(&key)), caller, "{values:?}");
        }
        assert_eq!(Caller::of(&headers(&[]), None), Caller::Admin);
    }

    #[test]
    fn few_paths_are_public() {
        for (path, public) in [
            ("/health", true),
            ("/health/ready", true),
            ("//docs/", true),
            ("/openapi.json", true),
            ("/problems/not-found", true),
            ("/", false),
            ("/subscriptions", false),
            ("/healthy", false),
            ("/status/stats", false),
            ("/%68ealth", false),
        ] {
            assert_eq!(is_public(path), public, "{path}");
        }
    }

    #[test]
    fn digests_show_nothing() {
        assert_eq!(format!("{:?}", KeyDigest::of("secret")), "KeyDigest(…)");
    }
}
