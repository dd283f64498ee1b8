//! API keys: made, listed and revoked by admins alone; and whose key it is that somebody sends.

use std::net::IpAddr;

use posthorn_domain::api_key::{ApiKey, KeyRecord, Revocation};
use posthorn_domain::id::KeyId;
use posthorn_domain::tenant::Tenant;
use posthorn_domain::views::Page;

use super::{Access, Error, Missing, Service};

impl Service {
    /// Makes a key, which is shown this once.
    pub async fn create_key(&self, access: &Access, record: &KeyRecord) -> Result<ApiKey, Error> {
        access.check_admin()?;
        let key = ApiKey::from_random(rand::random());
        self.0.store.insert_key(record, key.digest(), access.actor()).await?;
        self.0.keyring.added(key.digest()).await;
        Ok(key)
    }

    /// One page of the keys, the newest first; of one tenant where one is named.
    pub async fn list_keys(
        &self,
        access: &Access,
        tenant: Option<&Tenant>,
        page: u32,
        limit: u32,
    ) -> Result<Page<KeyRecord>, Error> {
        access.check_admin()?;
        Ok(self.0.read(access).await?.list_keys(tenant, page, limit).await?)
    }

    /// Revokes a key.
    pub async fn revoke_key(&self, access: &Access, id: KeyId) -> Result<(), Error> {
        access.check_admin()?;
        let (stamp, last) = (self.0.stamp(access.actor()), self.0.settings.last_admin_key);
        match self.0.store.revoke_key(id, stamp, last).await? {
            Revocation::Done(digest) => {
                self.0.keyring.revoked(digest).await;
                Ok(())
            }
            Revocation::NotFound => Err(Error::NotFound(Missing::Key)),
            Revocation::LastAdminKey => Err(Error::LastAdminKey),
        }
    }

    /// Who sends `key` from `address`.
    pub async fn access_of_key(&self, key: &[u8], address: Option<IpAddr>) -> Result<Access, Error> {
        self.0.keyring.access(key, address).await
    }

    /// Whether nobody needs a key: the server may be open, and there has never been one.
    pub async fn is_open(&self) -> Result<bool, Error> {
        self.0.keyring.is_open().await
    }

    /// As [`is_open`](Self::is_open), as far as is known without looking.
    #[must_use]
    pub fn was_open(&self) -> bool {
        self.0.keyring.was_open()
    }
}
