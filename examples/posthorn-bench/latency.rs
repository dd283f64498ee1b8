//! Latencies: recorded in nanoseconds, shown in milliseconds.

use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde::Serialize;

const NANOS_MAX: u64 = 600_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// An empty histogram up to ten minutes; what is longer counts as ten minutes.
pub(crate) fn histogram() -> anyhow::Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, NANOS_MAX, SIGNIFICANT_DIGITS).context("a histogram")
}

/// The percentiles that are shown, in milliseconds, to three significant digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[expect(clippy::struct_field_names, reason = "units end names")]
pub(crate) struct Latency {
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

impl Latency {
    /// Of everything recorded; zeros where that is nothing.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| millis(histogram.value_at_quantile(quantile));
        Self { p50_ms: at(0.5), p90_ms: at(0.9), p99_ms: at(0.99), max_ms: millis(histogram.max()) }
    }
}

fn millis(nanos: u64) -> f64 {
    std::time::Duration::from_nanos(nanos).as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_hundred_even_steps() {
        let mut latencies = histogram().unwrap();
        for step in 1..=100 {
            latencies.record(step * 1_000_000).unwrap();
        }
        let latency = Latency::of(&latencies);
        for (name, found, expected) in [
            ("p50", latency.p50_ms, 50.0),
            ("p90", latency.p90_ms, 90.0),
            ("p99", latency.p99_ms, 99.0),
            ("max", latency.max_ms, 100.0),
        ] {
            assert!((found / expected - 1.0).abs() < 0.001, "{name}: {found}, not {expected}");
        }
    }

    #[test]
    fn nothing_recorded_is_zero_and_too_long_is_the_longest() {
        let mut latencies = histogram().unwrap();
        assert_eq!(Latency::of(&latencies), Latency::default());
        latencies.saturating_record(u64::MAX);
        assert!((Latency::of(&latencies).max_ms / 600_000.0 - 1.0).abs() < 0.001);
    }
}
