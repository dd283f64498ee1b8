//! `/tenants`: what each may use, shown and changed. Every name is a tenant; one that nobody
//! configured has no limits.

use poem_openapi::param::Path;
use poem_openapi::types::MaybeUndefined;
use poem_openapi::{Object, OpenApi};
use posthorn_domain::limits::{TENANT_IN_FLIGHT_MAX, TENANT_STORED_BYTES_MAX, TENANT_SUBSCRIPTIONS_MAX};
use posthorn_domain::subscription;
use posthorn_domain::tenant::{self, TenantSettings};
use serde::{Deserialize, Serialize};

use super::Tag;
use super::body::Json;
use super::change::{field, object, set, within};
use super::rate_limit::{RateLimit, check_rate_limit};
use super::shown::{Changed, Changes};
use super::words::TenantName;
use crate::http::problem::{Faults, Problem};
use crate::service::{Access, Service};

pub(super) struct Tenants {
    pub(super) service: Service,
}

/// A customer on whose behalf subscriptions exist, and what it may use. Null: no limit, where nothing else is said.
#[derive(Serialize, Object)]
#[expect(clippy::struct_field_names, reason = "the contract says so")]
struct Tenant {
    /// Its name.
    tenant: String,
    /// Over the requests of all its subscriptions.
    rate_limit: Option<RateLimit>,
    /// Requests in flight over all its subscriptions.
    #[oai(validator(minimum(value = "1"), maximum(value = "65536")))]
    max_in_flight: Option<u32>,
    /// Over the events that are handed in for all its subscriptions, repeats, tests and replays included; beyond it ingest answers 429.
    ingest_limit: Option<RateLimit>,
    /// Subscriptions that it may have; beyond it a creation answers 422. Null: the configuration's.
    #[oai(validator(maximum(value = "1000000")))]
    max_subscriptions: Option<u32>,
    /// Bytes of payloads that are not removed yet; beyond it ingest answers 429. Null: the configuration's.
    #[oai(validator(maximum(value = "1125899906842624")))]
    max_stored_bytes: Option<u64>,
    /// Over the calls of the API with its keys, ingest not among them; beyond it they answer 429. Null: the
    /// configuration's.
    control_limit: Option<RateLimit>,
}

/// A change of what a tenant may use: what is absent stays, null clears.
#[derive(Clone, Copy, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
struct TenantUpdate {
    /// Over the requests of all its subscriptions. Null: no limit.
    #[serde(default, deserialize_with = "object")]
    rate_limit: MaybeUndefined<RateLimit>,
    /// Requests in flight over all its subscriptions. Null: no limit.
    #[serde(default)]
    #[oai(validator(minimum(value = "1"), maximum(value = "65536")))]
    max_in_flight: MaybeUndefined<u32>,
    /// Over the events that are handed in for all its subscriptions, repeats, tests and replays included; beyond it ingest answers 429. Null: no limit.
    #[serde(default, deserialize_with = "object")]
    ingest_limit: MaybeUndefined<RateLimit>,
    /// Subscriptions that it may have; beyond it a creation answers 422. Null: the configuration's.
    #[serde(default)]
    #[oai(validator(maximum(value = "1000000")))]
    max_subscriptions: MaybeUndefined<u32>,
    /// Bytes of payloads that are not removed yet; beyond it ingest answers 429. Null: the configuration's.
    #[serde(default)]
    #[oai(validator(maximum(value = "1125899906842624")))]
    max_stored_bytes: MaybeUndefined<u64>,
    /// Over the calls of the API with its keys, ingest not among them; beyond it they answer 429. Null: the
    /// configuration's.
    #[serde(default, deserialize_with = "object")]
    control_limit: MaybeUndefined<RateLimit>,
}

impl Changes for TenantUpdate {
    const MOVING: &'static [&'static str] = &[];
    const FIXED: &'static [&'static str] = &["tenant"];
}

#[OpenApi(tag = "Tag::Tenants")]
impl Tenants {
    /// Show what a tenant may use
    ///
    /// Every name is a tenant; one that nobody configured has no limits. A tenant's key sees its own.
    #[oai(path = "/tenants/:tenant", method = "get", operation_id = "getTenant")]
    async fn show(
        &self,
        access: Access,
        /// The tenant's name.
        tenant: Path<TenantName>,
    ) -> Result<Json<Tenant>, Problem> {
        let settings = self.service.tenant_settings(&access, &tenant.0.0).await?;
        Ok(Json(Tenant::new(&tenant.0.0, settings)))
    }

    /// Change what a tenant may use
    ///
    /// What is absent stays, `null` clears. Holds at once; never cuts a request in flight, and
    /// loses no delivery. Another limit starts with all of its burst.
    #[oai(path = "/tenants/:tenant", method = "put", operation_id = "updateTenant")]
    async fn update(
        &self,
        access: Access,
        /// The tenant's name.
        tenant: Path<TenantName>,
        body: Changed<TenantUpdate>,
    ) -> Result<Json<Tenant>, Problem> {
        access.check_admin()?;
        let name = tenant.0.0;
        body.check(&Tenant::new(&name, TenantSettings::default()))?;
        let change = Change::check(body.change)?;
        let settings =
            self.service.update_tenant(&access, name.clone(), move |settings| change.apply(settings)).await?;
        Ok(Json(Tenant::new(&name, settings)))
    }
}

impl Tenant {
    fn new(name: &tenant::Tenant, settings: TenantSettings) -> Self {
        Self {
            tenant: name.to_string(),
            rate_limit: settings.rate_limit.map(RateLimit::from),
            max_in_flight: settings.max_in_flight,
            ingest_limit: settings.ingest_limit.map(RateLimit::from),
            max_subscriptions: settings.quotas.max_subscriptions,
            max_stored_bytes: settings.quotas.max_stored_bytes,
            control_limit: settings.quotas.control_limit.map(RateLimit::from),
        }
    }
}

/// A checked change.
#[derive(Clone, Copy)]
struct Change {
    rate_limit: MaybeUndefined<subscription::RateLimit>,
    max_in_flight: MaybeUndefined<u32>,
    ingest_limit: MaybeUndefined<subscription::RateLimit>,
    max_subscriptions: MaybeUndefined<u32>,
    max_stored_bytes: MaybeUndefined<u64>,
    control_limit: MaybeUndefined<subscription::RateLimit>,
}

impl Change {
    fn check(body: TenantUpdate) -> Result<Self, Problem> {
        let mut faults = Faults::default();
        let change = Self {
            rate_limit: check_rate_limit(body.rate_limit, "/rate_limit", &mut faults),
            max_in_flight: field(body.max_in_flight, "/max_in_flight", &mut faults, |max| {
                within(max, 1, TENANT_IN_FLIGHT_MAX)
            }),
            ingest_limit: check_rate_limit(body.ingest_limit, "/ingest_limit", &mut faults),
            max_subscriptions: field(body.max_subscriptions, "/max_subscriptions", &mut faults, |max| {
                within(max, 0, TENANT_SUBSCRIPTIONS_MAX)
            }),
            max_stored_bytes: field(body.max_stored_bytes, "/max_stored_bytes", &mut faults, |max| {
                within(max, 0, TENANT_STORED_BYTES_MAX)
            }),
            control_limit: check_rate_limit(body.control_limit, "/control_limit", &mut faults),
        };
        faults.check()?;
        Ok(change)
    }

    fn apply(self, settings: &mut TenantSettings) {
        set(&mut settings.rate_limit, self.rate_limit);
        set(&mut settings.max_in_flight, self.max_in_flight);
        set(&mut settings.ingest_limit, self.ingest_limit);
        set(&mut settings.quotas.max_subscriptions, self.max_subscriptions);
        set(&mut settings.quotas.max_stored_bytes, self.max_stored_bytes);
        set(&mut settings.quotas.control_limit, self.control_limit);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn change(settings: &mut TenantSettings, body: Value) -> Result<(), Problem> {
        Change::check(serde_json::from_value(body).unwrap())?.apply(settings);
        Ok(())
    }

    #[test]
    fn what_is_absent_stays_and_null_clears() {
        let mut settings = TenantSettings { version: 7, ..TenantSettings::default() };
        let full = json!({
            "rate_limit": {"requests_per_second": 2.5, "burst": 3},
            "max_in_flight": 65_536,
            "ingest_limit": {"requests_per_second": 0.5, "burst": 100_000},
            "max_subscriptions": 0,
            "max_stored_bytes": 1_u64 << 50,
            "control_limit": {"requests_per_second": 0.5, "burst": 1},
        });
        change(&mut settings, full.clone()).unwrap();
        let mut shown = serde_json::to_value(Tenant::new(&tenant::Tenant::default(), settings)).unwrap();
        assert_eq!(shown.as_object_mut().unwrap().remove("tenant"), Some(json!("default")));
        assert_eq!(shown, full);
        let before = settings;
        change(&mut settings, json!({})).unwrap();
        assert_eq!(settings, before);
        for field in full.as_object().unwrap().keys() {
            change(&mut settings, json!({field: null})).unwrap();
        }
        assert_eq!(settings, TenantSettings { version: 7, ..TenantSettings::default() });
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let problem = change(
            &mut TenantSettings::default(),
            json!({
                "rate_limit": {"requests_per_second": 0, "burst": 0},
                "max_in_flight": 65537,
                "ingest_limit": {"requests_per_second": 100_001, "burst": 100_001},
                "max_subscriptions": 1_000_001,
                "max_stored_bytes": (1_u64 << 50) + 1,
                "control_limit": {"requests_per_second": 1, "burst": 0},
            }),
        );
        let problem = problem.unwrap_err();
        let pointers: Vec<_> = problem.errors().iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(
            pointers,
            [
                "/rate_limit/requests_per_second",
                "/rate_limit/burst",
                "/max_in_flight",
                "/ingest_limit/requests_per_second",
                "/ingest_limit/burst",
                "/max_subscriptions",
                "/max_stored_bytes",
                "/control_limit/burst",
            ]
        );
    }
}
