//! The customer on whose behalf subscriptions exist, and how much of everything it may have.

use std::fmt;
use std::str::FromStr;

use crate::limits::TENANT_CHARS_MAX;
use crate::subscription::RateLimit;

/// A tenant's name: 1 to 64 of the characters `a-z A-Z 0-9 . _ -`, so that it can stand in a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant(String);

/// Why a text is no tenant's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to {TENANT_CHARS_MAX} characters of a-z, A-Z, 0-9, '.', '_' and '-'")]
pub struct TenantError;

impl Tenant {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `default`, the tenant where none is given.
impl Default for Tenant {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl FromStr for Tenant {
    type Err = TenantError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        // A name of dots alone would be a path's own step.
        let ok = (1..=TENANT_CHARS_MAX).contains(&text.len())
            && text.chars().all(allowed)
            && text.chars().any(|c| c != '.');
        if ok { Ok(Self(text.to_owned())) } else { Err(TenantError) }
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a tenant may use; where nothing is set, as much as there is. A tenant that nobody
/// configured is the default: no limits, version 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TenantSettings {
    /// Over all its deliveries.
    pub rate_limit: Option<RateLimit>,
    /// Requests in flight over all its subscriptions, from 1 to `TENANT_IN_FLIGHT_MAX`.
    pub max_in_flight: Option<u32>,
    /// Over the events it hands in.
    pub ingest_limit: Option<RateLimit>,
    /// What it may have of what the configuration limits as well.
    pub quotas: Quotas,
    /// Grows with every change, so that of two copies the newer is known.
    pub version: i64,
}

/// What a tenant may have; where nothing is set, what the configuration says, and by default as much as there is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quotas {
    /// Subscriptions that are not deleted, up to `TENANT_SUBSCRIPTIONS_MAX`.
    pub max_subscriptions: Option<u32>,
    /// Bytes of payloads that are not removed yet, up to `TENANT_STORED_BYTES_MAX`.
    pub max_stored_bytes: Option<u64>,
    /// Over the calls of the API with its keys.
    pub control_limit: Option<RateLimit>,
}

impl Quotas {
    /// The quotas in force where the configuration says `defaults`.
    #[must_use]
    pub fn or(self, defaults: Self) -> Self {
        Self {
            max_subscriptions: self.max_subscriptions.or(defaults.max_subscriptions),
            max_stored_bytes: self.max_stored_bytes.or(defaults.max_stored_bytes),
            control_limit: self.control_limit.or(defaults.control_limit),
        }
    }
}

impl TenantSettings {
    /// The fields in which they differ from `before`, as the API names them.
    #[must_use]
    pub fn changed_fields(&self, before: &Self) -> Vec<&'static str> {
        let changes = [
            ("rate_limit", self.rate_limit != before.rate_limit),
            ("max_in_flight", self.max_in_flight != before.max_in_flight),
            ("ingest_limit", self.ingest_limit != before.ingest_limit),
            ("max_subscriptions", self.quotas.max_subscriptions != before.quotas.max_subscriptions),
            ("max_stored_bytes", self.quotas.max_stored_bytes != before.quotas.max_stored_bytes),
            ("control_limit", self.quotas.control_limit != before.quotas.control_limit),
        ];
        changes.into_iter().filter_map(|(field, changed)| changed.then_some(field)).collect()
    }

    /// What each of so many nodes may let the tenant use, so that together they keep to the settings: an equal
    /// share, and one at least of what is counted. What is stored is counted by the database, so it is not shared out.
    #[must_use]
    pub fn share_of(self, nodes: u32) -> Self {
        let nodes = nodes.max(1);
        let count = |count: u32| (count / nodes).max(1);
        let rate = |limit: RateLimit| RateLimit {
            requests_per_second: limit.requests_per_second / f64::from(nodes),
            burst: count(limit.burst),
        };
        Self {
            rate_limit: self.rate_limit.map(rate),
            max_in_flight: self.max_in_flight.map(count),
            ingest_limit: self.ingest_limit.map(rate),
            quotas: Quotas { control_limit: self.quotas.control_limit.map(rate), ..self.quotas },
            version: self.version,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_share_what_a_tenant_may_use() {
        let rate = |requests_per_second, burst| Some(RateLimit { requests_per_second, burst });
        let settings = TenantSettings {
            rate_limit: rate(9.0, 10),
            max_in_flight: Some(2),
            ingest_limit: None,
            quotas: Quotas {
                max_subscriptions: Some(9),
                max_stored_bytes: Some(9),
                control_limit: rate(6.0, 3),
            },
            version: 7,
        };
        let quotas = Quotas { control_limit: rate(2.0, 1), ..settings.quotas };
        let share = TenantSettings { rate_limit: rate(3.0, 3), max_in_flight: Some(1), quotas, ..settings };
        assert_eq!(settings.share_of(3), share);
        for alone in [0, 1] {
            assert_eq!(settings.share_of(alone), settings);
        }
    }

    #[test]
    fn what_is_not_set_follows_the_configuration() {
        let limit = |burst| Some(RateLimit { requests_per_second: 1.0, burst });
        let defaults = Quotas { max_subscriptions: Some(1), max_stored_bytes: None, control_limit: limit(1) };
        let own = Quotas { max_subscriptions: None, max_stored_bytes: Some(0), control_limit: limit(2) };
        let expected =
            Quotas { max_subscriptions: Some(1), max_stored_bytes: Some(0), control_limit: limit(2) };
        assert_eq!(own.or(defaults), expected);
        assert_eq!(Quotas::default().or(Quotas::default()), Quotas::default());
    }

    #[test]
    fn names_are_plain() {
        for (name, ok) in [
            ("default", true),
            ("Acme-7.eu_west", true),
            ("", false),
            ("..", false),
            ("a b", false),
            ("a/b", false),
            ("ä", false),
            ("a\0", false),
        ] {
            assert_eq!(name.parse::<Tenant>().is_ok(), ok, "{name:?}");
        }
        assert!("a".repeat(64).parse::<Tenant>().is_ok());
        assert!("a".repeat(65).parse::<Tenant>().is_err());
    }
}
