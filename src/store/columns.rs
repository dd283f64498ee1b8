//! Between columns and the domain's small types, where several tables have the same.
//!
//! What a column cannot hold is cut to what it can; the domain's bounds lie far within.

use std::fmt::Display;
use std::time::Duration;

use posthorn_domain::forward::ForwardedHeaders;
use posthorn_domain::subscription::RateLimit;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Error;

pub(super) fn count_to_column(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

pub(super) fn column_to_count(column: i32) -> u32 {
    u32::try_from(column).unwrap_or(0)
}

pub(super) fn duration_to_column(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn column_to_duration(column: i64) -> Duration {
    Duration::from_millis(u64::try_from(column).unwrap_or(0))
}

/// The rate and the burst.
pub(super) fn rate_limit_to_columns(limit: Option<RateLimit>) -> (Option<f64>, Option<i32>) {
    limit.map(|limit| (limit.requests_per_second, count_to_column(limit.burst))).unzip()
}

/// The tables see to it that both are there or neither.
pub(super) fn columns_to_rate_limit(rate: Option<f64>, burst: Option<i32>) -> Option<RateLimit> {
    rate.zip(burst)
        .map(|(requests_per_second, burst)| RateLimit { requests_per_second, burst: column_to_count(burst) })
}

/// Headers that travel on, as JSON; none where there are none.
pub(super) fn to_headers(headers: &ForwardedHeaders) -> Result<Option<String>, Error> {
    if headers.is_empty() { Ok(None) } else { to_json(headers.as_map()).map(Some) }
}

/// What [`to_headers`] wrote for the event of `whom`.
pub(super) fn of_headers(column: Option<String>, whom: impl Display) -> Result<ForwardedHeaders, Error> {
    let Some(text) = column else { return Ok(ForwardedHeaders::default()) };
    of_json(&text, "forwarded headers", whom).map(ForwardedHeaders::of_stored)
}

/// Words of a list, as JSON; none where there are none.
pub(super) fn to_words<T: Serialize>(words: &[T]) -> Result<Option<String>, Error> {
    if words.is_empty() { Ok(None) } else { to_json(&words).map(Some) }
}

/// What [`to_words`] wrote in the column `what` of `whom`.
pub(super) fn of_words(column: Option<&str>, what: &str, whom: impl Display) -> Result<Vec<String>, Error> {
    column.map_or_else(|| Ok(Vec::new()), |text| of_json(text, what, whom))
}

fn to_json(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| Error::Refused(error.to_string()))
}

fn of_json<T: DeserializeOwned>(text: &str, what: &str, whom: impl Display) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|_| Error::corrupt(what, whom))
}
