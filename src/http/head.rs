//! What stands in the heads of requests that is refused, and in those of answers that none goes without.

use poem::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, STRICT_TRANSPORT_SECURITY, TRANSFER_ENCODING,
    X_CONTENT_TYPE_OPTIONS,
};
use poem::http::uri::Scheme;
use poem::http::{HeaderMap, HeaderName, HeaderValue};

use super::problem::{Kind, Problem};

const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// What is no page of ours loads nothing and runs nothing, should a browser show it.
const POLICY: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; sandbox");

/// A year, as RFC 6797 §6.1.1 shows it.
const TRANSPORT_SECURITY: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// Refuses every coding of the body but `chunked`, once. hyper looks at the last one alone, and would hand on a
/// compressed body as it is; others may see another end of it (RFC 9112 §6.1).
pub(crate) fn check_transfer_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let allowed = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    };
    let refuse = || {
        Problem::new(Kind::MalformedRequest, "expected Transfer-Encoding: chunked, once, or none").closing()
    };
    allowed.then_some(()).ok_or_else(refuse)
}

/// What every answer says. Behind a proxy, TLS and with it `Strict-Transport-Security` are the proxy's.
pub(crate) fn secure(headers: &mut HeaderMap, scheme: &Scheme) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    // Pages have their own.
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(POLICY);
    // Answers are of the moment, and some hold secrets.
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if *scheme == Scheme::HTTPS {
        headers.insert(STRICT_TRANSPORT_SECURITY, TRANSPORT_SECURITY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_come_chunked_once_or_whole() {
        for (values, allowed) in [
            (&[][..], true),
            (&["chunked"], true),
            (&["Chunked"], true),
            (&["gzip, chunked"], false),
            (&["chunked, chunked"], false),
            (&["chunked", "chunked"], false),
            (&["identity", "chunked"], false),
            (&["chunked,"], false),
            (&[""], false),
        ] {
            let headers: HeaderMap =
                values.iter().map(|value| (TRANSFER_ENCODING, value.parse().unwrap())).collect();
            assert_eq!(check_transfer_encoding(&headers).is_ok(), allowed, "{values:?}");
        }
    }

    #[test]
    fn transport_security_is_said_over_tls_alone() {
        for (scheme, said) in [(Scheme::HTTP, false), (Scheme::HTTPS, true)] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("script-src 'self'"));
            secure(&mut headers, &scheme);
            assert_eq!(headers.contains_key(STRICT_TRANSPORT_SECURITY), said);
            assert_eq!(headers[CONTENT_SECURITY_POLICY], "script-src 'self'", "a page keeps its own");
        }
    }
}
