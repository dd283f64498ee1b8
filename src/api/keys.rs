//! `/keys`: API keys made, listed and revoked, by admins alone.

use poem_openapi::param::{Path, Query};
use poem_openapi::types::MaybeUndefined;
use poem_openapi::{ApiResponse, Object, OpenApi};
use posthorn_domain::api_key::{self, KeyName, KeyRecord};
use posthorn_domain::id::KeyId;
use posthorn_domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Tag;
use super::body::Json;
use super::paging::{check_limit, check_page};
use super::words::{TenantName, Time};
use crate::clock::Clock;
use crate::http::problem::{Faults, Problem};
use crate::service::{Access, Service};

/// Keys on a page where the client names no number.
const LIMIT_DEFAULT: u32 = 10;

pub(super) struct Keys {
    pub(super) service: Service,
    pub(super) clock: Clock,
}

/// A new API key.
#[derive(Debug, Default, Deserialize, Object)]
#[serde(deny_unknown_fields)]
struct ApiKeyCreate {
    /// For people: who has it.
    #[serde(default)]
    #[oai(validator(max_length = 100))]
    name: MaybeUndefined<String>,
    /// The one tenant whose things it opens. Null: it is an admin's and opens everything.
    #[serde(default)]
    tenant: MaybeUndefined<TenantName>,
    /// From when on it opens nothing. Null: it does until it is revoked.
    #[serde(default)]
    expires_at: MaybeUndefined<Time>,
}

/// An API key; the key itself is shown only where it is made.
#[derive(Serialize, Object)]
struct ApiKey {
    /// Names it without giving it away.
    id: Uuid,
    /// For people: who has it.
    #[oai(validator(max_length = 100))]
    name: String,
    /// The one tenant whose things it opens. Null: it is an admin's and opens everything.
    tenant: Option<String>,
    /// When it was made.
    created_at: Time,
    /// From when on it opens nothing.
    expires_at: Option<Time>,
    /// When it was used last, to the minute.
    last_used_at: Option<Time>,
}

/// A new API key, with the key itself, which is shown this once.
#[derive(Serialize, Object)]
struct CreatedApiKey {
    #[serde(flatten)]
    #[oai(flatten)]
    record: ApiKey,
    /// Goes in `Authorization: Bearer …`.
    #[oai(validator(pattern = "^posthorn_[0-9a-f]{64}$", min_length = 73, max_length = 73))]
    key: String,
}

/// One page of API keys, the newest first.
#[derive(Serialize, Object)]
struct PaginatedApiKeys {
    /// At most `limit` of them.
    items: Vec<ApiKey>,
    /// How many there are on all pages together.
    total: u64,
    /// The page, from 1.
    #[oai(validator(minimum(value = "1"), maximum(value = "1000000")))]
    page: u32,
    /// Items on a page.
    #[oai(validator(minimum(value = "1"), maximum(value = "100")))]
    limit: u32,
    /// Pages there are.
    pages: u64,
}

#[derive(ApiResponse)]
enum CreateAnswer {
    /// The key was made.
    #[oai(status = 201)]
    Created(Json<CreatedApiKey>),
}

#[derive(ApiResponse)]
enum RevokeAnswer {
    /// The key opens nothing more.
    #[oai(status = 204)]
    Revoked,
}

#[OpenApi(tag = "Tag::Keys")]
impl Keys {
    /// Make an API key
    ///
    /// The answer alone shows the key. Once there is a key, nobody does without one, also after it is revoked.
    #[oai(path = "/keys", method = "post", operation_id = "createApiKey")]
    async fn create(&self, access: Access, body: Json<ApiKeyCreate>) -> Result<CreateAnswer, Problem> {
        access.check_admin()?;
        let record = body.0.check(self.clock.now())?;
        let key = self.service.create_key(&access, &record).await?;
        let key = key.expose().to_owned();
        Ok(CreateAnswer::Created(Json(CreatedApiKey { record: record.into(), key })))
    }

    /// List API keys, the newest first
    #[oai(path = "/keys", method = "get", operation_id = "listApiKeys")]
    async fn list(
        &self,
        access: Access,
        /// Which page, from 1; 1 where left out.
        page: Query<Option<i64>>,
        /// Keys on a page; 10 where left out.
        limit: Query<Option<i64>>,
        /// Only this tenant's.
        tenant: Query<Option<TenantName>>,
    ) -> Result<Json<PaginatedApiKeys>, Problem> {
        access.check_admin()?;
        let (page, limit) = (check_page(page.0)?, check_limit(limit.0, LIMIT_DEFAULT)?);
        let tenant = tenant.0.map(|name| name.0);
        let found = self.service.list_keys(&access, tenant.as_ref(), page, limit).await?;
        let pages = found.total.div_ceil(u64::from(limit));
        let items = found.items.into_iter().map(ApiKey::from).collect();
        Ok(Json(PaginatedApiKeys { items, total: found.total, page, limit, pages }))
    }

    /// Revoke an API key
    ///
    /// It opens nothing more here at once, and at other nodes within 5 seconds. In the `production` profile the last
    /// admin's key in force can't be revoked.
    #[oai(path = "/keys/:id", method = "delete", operation_id = "revokeApiKey")]
    async fn revoke(
        &self,
        access: Access,
        /// The key's id.
        id: Path<Uuid>,
    ) -> Result<RevokeAnswer, Problem> {
        self.service.revoke_key(&access, KeyId(id.0)).await?;
        Ok(RevokeAnswer::Revoked)
    }
}

impl ApiKeyCreate {
    fn check(self, now: Timestamp) -> Result<KeyRecord, Problem> {
        let mut faults = Faults::default();
        let name = self.name.take().map_or(Ok(KeyName::default()), |name| name.parse());
        let name = faults.take("/name", name);
        let expires_at = self.expires_at.take().map(|time| time.0);
        if expires_at.is_some_and(|end| end <= now) {
            faults.add("/expires_at", "expected a time to come");
        }
        faults.check()?;
        Ok(KeyRecord {
            id: KeyId(Uuid::now_v7()),
            // Where it is at fault the check above ended it.
            name: name.unwrap_or_default(),
            access: self.tenant.take().map_or(api_key::Access::Admin, |name| api_key::Access::Tenant(name.0)),
            created_at: now,
            expires_at,
            last_used_at: None,
        })
    }
}

impl From<KeyRecord> for ApiKey {
    fn from(record: KeyRecord) -> Self {
        Self {
            id: record.id.0,
            name: record.name.as_str().to_owned(),
            tenant: record.access.tenant().map(ToString::to_string),
            created_at: Time(record.created_at),
            expires_at: record.expires_at.map(Time),
            last_used_at: record.last_used_at.map(Time),
        }
    }
}
