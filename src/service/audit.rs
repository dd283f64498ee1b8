//! Who changed what.

use posthorn_domain::api_key::Scope;
use posthorn_domain::audit::Entry;
use posthorn_domain::id::AuditId;
use posthorn_domain::tenant::Tenant;

use super::{Access, Error, Service};

impl Service {
    /// Entries of the audit log that are there, the newest first, below `before`; of one tenant where one is named.
    pub async fn list_audit(
        &self,
        access: &Access,
        tenant: Option<&Tenant>,
        before: Option<AuditId>,
        limit: u32,
    ) -> Result<Vec<Entry>, Error> {
        let store = self.0.read(access).await?;
        let tenant = match access.scope().narrowed(tenant) {
            Scope::All => None,
            Scope::Tenant(own) => Some(own),
            Scope::Nothing => return Ok(Vec::new()),
        };
        Ok(store.list_audit(tenant, before, limit).await?)
    }
}
