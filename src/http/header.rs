//! Headers of requests.

use poem::http::{HeaderMap, HeaderName, HeaderValue};

/// The header's value, or none; nothing at all where it comes more than once: of two programs one may read the first
/// and the other the last.
#[expect(clippy::option_option, reason = "twice is one thing, absent another")]
pub(crate) fn once<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Option<&'a HeaderValue>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    values.next().is_none().then_some(first)
}
