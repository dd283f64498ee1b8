//! What each tenant may use.

use std::sync::Arc;

use posthorn_domain::tenant::{Tenant, TenantSettings};

use super::changes::to_its_end;
use super::{Access, Error, Missing, Service};

impl Service {
    /// What a tenant may use. Every name is a tenant; one that nobody configured has no limits.
    pub async fn tenant_settings(&self, access: &Access, tenant: &Tenant) -> Result<TenantSettings, Error> {
        if !access.sees(tenant) {
            return Err(Error::NotFound(Missing::Tenant));
        }
        Ok(self.0.read(access).await?.tenant_settings(tenant).await?)
    }

    /// Changes what a tenant may use, as an admin. It holds at once. Where nothing would change, nothing is written.
    ///
    /// May be dropped: the change then goes on alone to its end.
    pub async fn update_tenant(
        &self,
        access: &Access,
        tenant: Tenant,
        change: impl Fn(&mut TenantSettings) + Send + 'static,
    ) -> Result<TenantSettings, Error> {
        access.check_admin()?;
        let current = self.0.store.tenant_settings(&tenant).await?;
        let mut wished = current;
        change(&mut wished);
        if wished == current {
            return Ok(current);
        }
        let permit = self.0.changes.permit(&tenant).await?;
        let (inner, stamp) = (Arc::clone(&self.0), self.0.stamp(access.actor()));
        to_its_end(permit, async move {
            let doubts = inner.caches.doubt_tenant(&tenant).await;
            let updated = inner.store.update_tenant(tenant.clone(), stamp, change).await;
            inner.caches.trust(doubts).await;
            inner.dispatch.tenant_changed(&tenant, updated.as_ref().ok().copied());
            updated
        })
        .await
    }

    /// Counts a call with a tenant's key against its `control_limit`; refused where that is spent.
    pub async fn count_call(&self, access: &Access) -> Result<(), Error> {
        let Access::Tenant(tenant, _) = access else { return Ok(()) };
        match self.0.dispatch.take_call(tenant).await? {
            None => Ok(()),
            Some(retry_after) => Err(Error::ControlSpent { retry_after }),
        }
    }
}
