//! Header values that come in or are sent along.

use std::time::Duration;

use crate::time::Timestamp;

/// Headers that a subscription sends along with each delivery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StaticHeaders(Vec<(String, String)>);

/// Why a header may not be sent along.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct StaticHeaderError {
    /// The name at fault; empty where it is their number.
    pub name: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl StaticHeaders {
    /// Takes names and values.
    pub fn parse(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, StaticHeaderError> {
        Ok(Self(pairs.into_iter().collect()))
    }

    /// Names in lower case, with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Why a text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to 255 printable ASCII characters")]
pub struct KeyError;

/// An idempotency or ordering key.
pub fn parse_key(value: &[u8]) -> Result<&str, KeyError> {
    std::str::from_utf8(value).map_err(|_| KeyError)
}

/// How long `Retry-After` asks to wait.
#[must_use]
pub fn parse_retry_after(_value: &[u8], _now: Timestamp) -> Option<Duration> {
    None
}
