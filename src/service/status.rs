//! The whole at a glance, and whether it is well.

use posthorn_domain::api_key::Scope;
use posthorn_domain::cluster::Cluster;
use posthorn_domain::id::NodeId;
use posthorn_domain::views::{Activity, Stats};

use super::{Access, Error, Service};

impl Service {
    /// The system at a glance; to a tenant: what is its own, where that takes long to count, as counted a while ago.
    pub async fn stats(&self, access: &Access) -> Result<Stats, Error> {
        let store = self.0.read(access).await?;
        let now = self.0.clock.now();
        match access.scope() {
            Scope::All => Ok(store.stats(now).await?),
            Scope::Tenant(own) => Ok(self.0.caches.stats_of_tenant(own, now).await?),
            Scope::Nothing => Err(Error::KeyRequired),
        }
    }

    /// What happened lately, the newest first; to a tenant: to its own subscriptions.
    pub async fn activity(&self, access: &Access, limit: u32) -> Result<Vec<Activity>, Error> {
        let store = self.0.read(access).await?;
        match access.scope() {
            Scope::All => Ok(store.activity(limit).await?),
            Scope::Tenant(own) => Ok(store.activity_of_tenant(own, limit).await?),
            Scope::Nothing => Err(Error::KeyRequired),
        }
    }

    /// This node, and all nodes with the slots that they hold; to admins.
    pub async fn cluster(&self, access: &Access) -> Result<(NodeId, Cluster), Error> {
        access.check_admin()?;
        let dispatch = &self.0.dispatch;
        let cluster = if self.0.store.is_shared() { self.0.store.cluster().await? } else { dispatch.alone() };
        Ok((dispatch.node(), cluster))
    }

    /// Whether the database answers. Anybody may ask.
    pub async fn check_store(&self) -> Result<(), Error> {
        Ok(self.0.store.ready().await?)
    }

    /// Whether the service can do its work; the error names the part that cannot. Anybody may ask.
    pub async fn check_ready(&self) -> Result<(), Error> {
        if let Err(error) = self.0.store.ready().await {
            tracing::debug!(%error, "not ready");
            return Err(Error::NotReady("the database is not ready"));
        }
        match self.0.dispatch.stuck_slots() {
            0 => Ok(()),
            _ => Err(Error::NotReady("some slots have no node: what is accepted for them is not sent")),
        }
    }
}
