//! Tenants: what each may use, kept and changed without losing a change.

use posthorn_domain::subscription::RateLimit;
use posthorn_domain::tenant::{Quotas, Tenant, TenantSettings};

use crate::on_both_databases;
use crate::support::Backend;
use crate::world::{STAMP, World};

on_both_databases![
    one_that_nobody_configured_has_no_limits,
    settings_come_back_as_they_were,
    simultaneous_changes_follow_one_another,
];

async fn one_that_nobody_configured_has_no_limits(backend: Backend) {
    let world = World::new(backend).await;
    assert_eq!(world.store.tenant_settings(&tenant("nobody")).await.unwrap(), TenantSettings::default());
    assert_eq!(world.database.number("SELECT count(*) FROM tenants").await, 0, "reading writes nothing");
}

async fn settings_come_back_as_they_were(backend: Backend) {
    let world = World::new(backend).await;
    let (acme, other) = (tenant("acme"), tenant("Acme"));
    let settings = TenantSettings {
        rate_limit: Some(RateLimit { requests_per_second: 0.1, burst: 100_000 }),
        max_in_flight: Some(65_536),
        ingest_limit: Some(RateLimit { requests_per_second: 1.0 / 86_400.0, burst: 1 }),
        quotas: Quotas {
            max_subscriptions: Some(0),
            max_stored_bytes: Some(1 << 50),
            control_limit: Some(RateLimit { requests_per_second: 0.5, burst: 7 }),
        },
        version: 7,
    };
    let stored = world.store.update_tenant(acme.clone(), STAMP, move |now| *now = settings).await.unwrap();
    assert_eq!(stored, TenantSettings { version: 1, ..settings }, "the version is the store's own");
    assert_eq!(world.store.tenant_settings(&acme).await.unwrap(), stored);
    assert_eq!(world.store.tenant_settings(&other).await.unwrap(), TenantSettings::default());

    let change = |settings: &mut TenantSettings| settings.rate_limit = None;
    let stored = world.store.update_tenant(acme.clone(), STAMP, change).await.unwrap();
    assert_eq!(stored, TenantSettings { rate_limit: None, version: 2, ..settings });
    assert_eq!(world.store.tenant_settings(&acme).await.unwrap(), stored);
}

/// The first of them meet where no row is there to lock.
async fn simultaneous_changes_follow_one_another(backend: Backend) {
    let world = World::new(backend).await;
    let changes: Vec<_> = (0..20)
        .map(|_| {
            let store = world.store.clone();
            let add_one = |settings: &mut TenantSettings| {
                settings.max_in_flight = Some(settings.max_in_flight.unwrap_or(0) + 1);
            };
            tokio::spawn(async move { store.update_tenant(tenant("acme"), STAMP, add_one).await.unwrap() })
        })
        .collect();
    let mut versions = Vec::new();
    for change in changes {
        versions.push(change.await.unwrap().version);
    }
    versions.sort_unstable();
    assert_eq!(versions, (1..=20).collect::<Vec<i64>>());
    let settings = world.store.tenant_settings(&tenant("acme")).await.unwrap();
    assert_eq!((settings.max_in_flight, settings.version), (Some(20), 20));
}

fn tenant(name: &str) -> Tenant {
    name.parse().unwrap()
}
