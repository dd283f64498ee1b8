//! Where the nodes keep what they share through Redis; on PostgreSQL only.
//!
//! Entries are kept under a *namespace*. Another one is chosen whenever entries may be older than the
//! database: when a change could not be told to Redis, and when Redis is another or was started anew. What is
//! under the old one is never read again, and ages away.

use posthorn_domain::subscription::Subscription;
use posthorn_domain::tenant::{Tenant, TenantSettings};
use posthorn_domain::time::Timestamp;
use sea_orm::{ConnectionTrait, Statement};
use uuid::Uuid;

use super::entity::subscriptions;
use super::notices::{self, Notice};
use super::subscriptions::{from_subscription, to_subscription};
use super::tenants::{from_settings, to_settings};
use super::{Error, Store, tx};

/// Where entries are kept now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedCache {
    /// Of this database, for good: several may share one Redis.
    pub cluster: Uuid,
    /// What entries are kept under.
    pub namespace: Uuid,
    /// The run of Redis that they are in, by the name that it has for itself; none before the first.
    pub redis_run: Option<String>,
}

impl Store {
    /// Where entries are kept; none where there is one process only.
    pub async fn shared_cache(&self) -> Result<Option<SharedCache>, Error> {
        if self.is_shared() { Ok(Some(read(&self.orm).await?)) } else { Ok(None) }
    }

    /// Entries are in this run of Redis from now on. Where they were in another, they are kept under a new
    /// namespace. Only where [several processes](Self::is_shared) may work on the database.
    pub async fn keep_cache_in(&self, redis_run: String) -> Result<SharedCache, Error> {
        const MOVE: &str = "UPDATE shared_cache SET redis_run = $1, namespace = gen_random_uuid() \
             WHERE redis_run IS DISTINCT FROM $1";
        tx::run(self, move |tx| {
            Box::pin(async move {
                if tx::execute(tx, MOVE, [redis_run.into()]).await? > 0 {
                    notices::tell(tx, &Notice::Namespace).await?;
                }
                read(tx).await
            })
        })
        .await
    }

    /// Entries are kept under a new namespace from now on. Where nobody uses Redis there are none.
    pub async fn renew_cache_namespace(&self) -> Result<(), Error> {
        const RENEW: &str =
            "UPDATE shared_cache SET namespace = gen_random_uuid() WHERE redis_run IS NOT NULL";
        if !self.is_shared() {
            return Ok(());
        }
        tx::run(self, move |tx| {
            Box::pin(async move {
                if tx::execute(tx, RENEW, []).await? > 0 {
                    notices::tell(tx, &Notice::Namespace).await?;
                }
                Ok(())
            })
        })
        .await
    }
}

async fn read(connection: &impl ConnectionTrait) -> Result<SharedCache, Error> {
    let backend = connection.get_database_backend();
    let ask = Statement::from_string(backend, "SELECT cluster_id, namespace, redis_run FROM shared_cache");
    let row = connection.query_one(ask).await?;
    // The schema comes with this row, and nothing removes it.
    let row = row.ok_or_else(|| Error::corrupt("shared_cache", "no row"))?;
    Ok(SharedCache {
        cluster: row.try_get_by_index(0)?,
        namespace: row.try_get_by_index(1)?,
        redis_run: row.try_get_by_index(2)?,
    })
}

impl Store {
    /// A subscription as it is kept in Redis: its row, its secrets encrypted as in the database.
    pub fn encode_subscription(&self, subscription: &Subscription) -> Result<Vec<u8>, Error> {
        if !subscription.unreadable.is_empty() {
            return Err(Error::Secrets("what cannot be read is not shared".to_owned()));
        }
        encode(&from_subscription(subscription, &self.vault)?)
    }

    /// The subscription of [`encode_subscription`](Self::encode_subscription); none where the bytes are something
    /// else.
    #[must_use]
    pub fn decode_subscription(&self, bytes: &[u8]) -> Option<Subscription> {
        let row: subscriptions::Model = serde_json::from_slice(bytes).ok()?;
        // Whoever encrypts shares nothing in clear.
        if row.sealed_by.is_none() && self.vault.current_id().is_some() {
            return None;
        }
        to_subscription(row, &self.vault).ok().filter(|subscription| subscription.unreadable.is_empty())
    }
}

/// A tenant's settings as they are kept in Redis: its row, as if it had one.
pub fn encode_tenant(tenant: &Tenant, settings: &TenantSettings) -> Result<Vec<u8>, Error> {
    encode(&from_settings(tenant, settings, Timestamp::from_millis(0)))
}

/// The settings of [`encode_tenant`]; none where the bytes are something else, such as what a node wrote that knows
/// nothing of quotas: taken as it is, it would say that there are none.
#[must_use]
pub fn decode_tenant(bytes: &[u8]) -> Option<TenantSettings> {
    let row: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    row.get(NEWEST_FIELD)?;
    Some(to_settings(&serde_json::from_value(row).ok()?))
}

/// The field that came last to a tenant's row.
const NEWEST_FIELD: &str = "control_burst";

fn encode(row: &impl serde::Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(row).map_err(|error| Error::Refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_earlier_versions_are_not_taken() {
        let settings = TenantSettings { version: 7, ..TenantSettings::default() };
        let bytes = encode_tenant(&Tenant::default(), &settings).unwrap();
        assert_eq!(decode_tenant(&bytes), Some(settings));
        let mut row: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        row.as_object_mut().unwrap().remove(NEWEST_FIELD);
        assert_eq!(decode_tenant(row.to_string().as_bytes()), None);
    }
}
