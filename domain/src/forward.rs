//! Headers of the request that an event came with: those that travel on to the endpoint, and the one that serves as
//! idempotency key. Senders such as GitHub say in headers what the payload does not.

use std::collections::BTreeMap;
use std::fmt;

use crate::header::{check_name, check_token, check_value, is_of_connection};

/// Names of headers that travel on, for one subscription.
pub const FORWARD_HEADERS_MAX: usize = 16;

/// What is never handed on: it is for Posthorn alone.
const CREDENTIALS: [&str; 2] = ["authorization", "cookie"];

/// Why a header may not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RequestHeaderError(&'static str);

const OF_THE_REQUEST_ALONE: RequestHeaderError = RequestHeaderError(
    "expected a header that is neither a credential (authorization, cookie) nor of the connection",
);

/// The name of a header whose value serves as idempotency key; in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyHeader(String);

impl IdempotencyHeader {
    /// Takes a name.
    pub fn parse(name: &str) -> Result<Self, RequestHeaderError> {
        let name = name.to_ascii_lowercase();
        check_token(&name).map_err(RequestHeaderError)?;
        if CREDENTIALS.contains(&name.as_str()) || is_of_connection(&name) {
            return Err(OF_THE_REQUEST_ALONE);
        }
        Ok(Self(name))
    }

    /// In lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The names of headers that travel on: at most 16, none twice, in lower case and in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardHeaders(Vec<String>);

impl ForwardHeaders {
    /// Adds a name; its own again changes nothing.
    pub fn add(&mut self, name: &str) -> Result<(), RequestHeaderError> {
        let name = name.to_ascii_lowercase();
        check_name(&name).map_err(RequestHeaderError)?;
        if CREDENTIALS.contains(&name.as_str()) {
            return Err(OF_THE_REQUEST_ALONE);
        }
        if let Err(place) = self.0.binary_search(&name) {
            if self.0.len() == FORWARD_HEADERS_MAX {
                return Err(RequestHeaderError("expected at most 16 names"));
            }
            self.0.insert(place, name);
        }
        Ok(())
    }

    /// In lower case.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// What of a request travels on. `values` are those of a header, in the order in which they came; several are one
    /// list (RFC 9110 §5.3). What could not be sent on as it is, since it is longer than 4 KiB or not printable ASCII,
    /// is left out: the sender could not help it.
    pub fn take<'a, V>(&self, values: impl Fn(&str) -> V) -> ForwardedHeaders
    where
        V: Iterator<Item = &'a [u8]>,
    {
        let mut taken = BTreeMap::new();
        for name in self.iter() {
            let value = values(name).collect::<Vec<_>>().join(&b", "[..]);
            if let Ok(value) = String::from_utf8(value)
                && !value.is_empty()
                && check_value(&value).is_ok()
            {
                taken.insert(name.to_owned(), value);
            }
        }
        ForwardedHeaders(taken)
    }
}

/// Headers that came with an event and are sent along with it, by name in lower case.
///
/// Values may be anything that the sender says: `Debug` does not show them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ForwardedHeaders(BTreeMap<String, String>);

impl ForwardedHeaders {
    /// As they were stored.
    #[must_use]
    pub fn of_stored(headers: BTreeMap<String, String>) -> Self {
        Self(headers)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// By name.
    #[must_use]
    pub const fn as_map(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// How many bytes they take up in memory, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

impl fmt::Debug for ForwardedHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_may_travel_on() {
        for (name, ok) in [
            ("X-GitHub-Event", true),
            ("user-agent", false),
            ("Authorization", false),
            ("cookie", false),
            ("host", false),
            ("connection", false),
            ("transfer-encoding", false),
            ("content-type", false),
            ("content_length", false),
            ("webhook-id", false),
            ("posthorn-sequence", false),
            ("x-webhook-signature-256", false),
            ("", false),
            ("a b", false),
        ] {
            assert_eq!(ForwardHeaders::default().add(name).is_ok(), ok, "{name}");
        }
        let mut names = ForwardHeaders::default();
        for n in (0..FORWARD_HEADERS_MAX).chain(0..FORWARD_HEADERS_MAX) {
            names.add(&format!("X-{n:02}")).unwrap();
        }
        assert!(names.add("x-more").is_err());
        assert_eq!(names.iter().next(), Some("x-00"));
    }

    #[test]
    fn names_that_may_serve_as_key() {
        for (name, ok) in [
            ("X-GitHub-Delivery", true),
            ("Webhook-Id", true),
            ("ce-id", true),
            ("authorization", false),
            ("Cookie", false),
            ("host", false),
            ("te", false),
            ("a:b", false),
            ("", false),
        ] {
            assert_eq!(IdempotencyHeader::parse(name).is_ok(), ok, "{name}");
        }
        assert_eq!(IdempotencyHeader::parse("X-Id").unwrap().as_str(), "x-id");
    }

    #[test]
    fn what_can_be_sent_on_is_taken() {
        let long = "x".repeat(4097);
        let request: &[(&str, &[u8])] = &[
            ("x-event", b"push"),
            ("x-list", b"a"),
            ("x-list", b"b, c"),
            ("x-long", long.as_bytes()),
            ("x-odd", b"gr\xfc\xdfe"),
            ("x-empty", b""),
            ("x-other", b"not asked for"),
        ];
        let mut names = ForwardHeaders::default();
        for name in ["X-Event", "X-List", "X-Long", "X-Odd", "X-Empty", "X-Absent"] {
            names.add(name).unwrap();
        }
        let taken = names.take(|name| {
            let name = name.to_owned();
            request.iter().filter(move |(known, _)| *known == name).map(|(_, value)| *value)
        });
        let expected = [("x-event", "push"), ("x-list", "a, b, c")];
        let taken: Vec<_> =
            taken.as_map().iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(taken, expected);
    }
}
