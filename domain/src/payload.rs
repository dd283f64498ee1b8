//! What may be handed in as a payload.

/// Why bytes are no payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PayloadError(pub String);

/// Whether `bytes` are one JSON value.
pub fn check_json(bytes: &[u8]) -> Result<(), PayloadError> {
    serde_json::from_slice::<&serde_json::value::RawValue>(bytes)
        .map(|_| ())
        .map_err(|e| PayloadError(e.to_string()))
}

/// Whether a content type is `application/json` or `*/*+json`.
#[must_use]
pub fn is_json_content_type(value: &str) -> bool {
    value.starts_with("application/json")
}
