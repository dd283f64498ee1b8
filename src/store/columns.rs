//! Between columns and the domain's small types, where several tables have the same.
//!
//! What a column cannot hold is cut to what it can; the domain's bounds lie far within.

use std::time::Duration;

use posthorn_domain::subscription::RateLimit;

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
