//! Rate limits, as clients write and see them.

use poem_openapi::Object;
use poem_openapi::types::MaybeUndefined;
use posthorn_domain::limits::{BURST_MAX, RATE_MAX, RATE_MIN};
use posthorn_domain::subscription;
use serde::{Deserialize, Serialize};

use super::change::within;
use crate::http::problem::Faults;

/// At most so many requests per second, with so many at once after a rest.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, Object)]
#[serde(deny_unknown_fields)]
pub(super) struct RateLimit {
    /// The sustained rate; fractions make it slower than one a second.
    #[oai(validator(minimum(value = "0.000011574074074074073"), maximum(value = "100000")))]
    requests_per_second: f64,
    /// Requests that may go at once after a rest.
    #[oai(validator(minimum(value = "1"), maximum(value = "100000")))]
    burst: u32,
}

impl From<subscription::RateLimit> for RateLimit {
    fn from(limit: subscription::RateLimit) -> Self {
        Self { requests_per_second: limit.requests_per_second, burst: limit.burst }
    }
}

/// The limit in the field at `pointer`, which is noted where it is at fault.
pub(super) fn check_rate_limit(
    limit: MaybeUndefined<RateLimit>,
    pointer: &str,
    faults: &mut Faults,
) -> MaybeUndefined<subscription::RateLimit> {
    limit.map_value(|RateLimit { requests_per_second, burst }| {
        // Written so that what is no number fails, too.
        let allowed = (RATE_MIN..=RATE_MAX).contains(&requests_per_second);
        if !allowed {
            let detail = format!("expected a number from {RATE_MIN:.6} to {RATE_MAX}");
            faults.add(format!("{pointer}/requests_per_second"), detail);
        }
        faults.take(&format!("{pointer}/burst"), within(burst, 1, BURST_MAX));
        subscription::RateLimit { requests_per_second, burst }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the document writes them.
    #[test]
    fn the_bounds_themselves_are_allowed() {
        for (text, rate) in
            [("0.000011574074074074073", RATE_MIN), ("100000", RATE_MAX), ("100000.0", RATE_MAX)]
        {
            let body = format!(r#"{{"requests_per_second": {text}, "burst": 100000}}"#);
            let limit: RateLimit = serde_json::from_str(&body).unwrap();
            let mut faults = Faults::default();
            let checked = check_rate_limit(MaybeUndefined::Value(limit), "/rate_limit", &mut faults);
            faults.check().unwrap();
            let expected = subscription::RateLimit { requests_per_second: rate, burst: BURST_MAX };
            assert_eq!(checked, MaybeUndefined::Value(expected), "{text}");
        }
    }
}
