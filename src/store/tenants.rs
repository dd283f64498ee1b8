//! Tenants: reading and changing what each may use.
//!
//! A tenant that nobody configured has no row and reads as the default.

use posthorn_domain::audit::{Action, Stamp, Subject};
use posthorn_domain::tenant::{Quotas, Tenant, TenantSettings};
use posthorn_domain::time::Timestamp;
use sea_orm::{ActiveModelTrait as _, EntityTrait as _, IntoActiveModel as _};

use super::columns::{column_to_count, columns_to_rate_limit, count_to_column, rate_limit_to_columns};
use super::entity::tenants;
use super::notices::{self, Notice};
use super::{Error, Store, audit, tx};

impl Store {
    /// What a tenant may use, by primary key.
    pub async fn tenant_settings(&self, tenant: &Tenant) -> Result<TenantSettings, Error> {
        let row = tenants::Entity::find_by_id(tenant.as_str()).one(&self.lanes).await?;
        Ok(row.map(|row| to_settings(&row)).unwrap_or_default())
    }

    /// Applies `change` to what a tenant may use, and raises the version, whatever the closure does
    /// to it. Where nothing changes, nothing is written.
    pub async fn update_tenant(
        &self,
        tenant: Tenant,
        stamp: Stamp,
        change: impl Fn(&mut TenantSettings) + Send + 'static,
    ) -> Result<TenantSettings, Error> {
        let now = stamp.at;
        tx::run(self, move |tx| {
            Box::pin(async move {
                let find = || tenants::Entity::find_by_id(tenant.as_str());
                let found = tx::locking(tx, find()).one(tx).await?;
                let current = found.as_ref().map(to_settings).unwrap_or_default();
                if changed(&change, current) == current {
                    return Ok(current);
                }
                // A row to lock: of simultaneous first changes, one writes it and the others wait.
                tx::execute(
                    tx,
                    "INSERT INTO tenants (name, version, updated_at_ms) VALUES ($1, 0, $2) \
                     ON CONFLICT (name) DO NOTHING",
                    [tenant.as_str().into(), now.as_millis().into()],
                )
                .await?;
                let row = tx::locking(tx, find()).one(tx).await?;
                // Rows of this table are never removed.
                let row = row.ok_or_else(|| Error::corrupt("tenant", &tenant))?;
                let before = to_settings(&row);
                let mut after = changed(&change, before);
                if after == before {
                    return Ok(before);
                }
                after.version = before.version.saturating_add(1);
                let updated_at = now.max(Timestamp::from_millis(row.updated_at_ms));
                from_settings(&tenant, &after, updated_at).into_active_model().reset_all().update(tx).await?;
                let (subject, fields) = (Subject::Tenant(tenant.clone()), after.changed_fields(&before));
                audit::note(tx, stamp, Action::TenantUpdated, &subject, &fields).await?;
                notices::tell(tx, &Notice::Tenant(tenant)).await?;
                Ok(after)
            })
        })
        .await
    }
}

/// The settings after the change, of the same version.
fn changed(change: &impl Fn(&mut TenantSettings), before: TenantSettings) -> TenantSettings {
    let mut after = before;
    change(&mut after);
    after.version = before.version;
    after
}

pub(super) fn from_settings(
    tenant: &Tenant,
    settings: &TenantSettings,
    updated_at: Timestamp,
) -> tenants::Model {
    let (requests_per_second, burst) = rate_limit_to_columns(settings.rate_limit);
    let (ingest_per_second, ingest_burst) = rate_limit_to_columns(settings.ingest_limit);
    let Quotas { max_subscriptions, max_stored_bytes, control_limit } = settings.quotas;
    let (control_per_second, control_burst) = rate_limit_to_columns(control_limit);
    tenants::Model {
        name: tenant.to_string(),
        requests_per_second,
        burst,
        max_in_flight: settings.max_in_flight.map(count_to_column),
        ingest_per_second,
        ingest_burst,
        max_subscriptions: max_subscriptions.map(count_to_column),
        max_stored_bytes: max_stored_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        control_per_second,
        control_burst,
        version: settings.version,
        updated_at_ms: updated_at.as_millis(),
    }
}

pub(super) fn to_settings(row: &tenants::Model) -> TenantSettings {
    TenantSettings {
        rate_limit: columns_to_rate_limit(row.requests_per_second, row.burst),
        max_in_flight: row.max_in_flight.map(column_to_count),
        ingest_limit: columns_to_rate_limit(row.ingest_per_second, row.ingest_burst),
        quotas: Quotas {
            max_subscriptions: row.max_subscriptions.map(column_to_count),
            max_stored_bytes: row.max_stored_bytes.map(|bytes| u64::try_from(bytes).unwrap_or(0)),
            control_limit: columns_to_rate_limit(row.control_per_second, row.control_burst),
        },
        version: row.version,
    }
}
