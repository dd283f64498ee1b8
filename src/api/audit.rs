//! `/audit`: who changed what, and when.

use poem_openapi::param::Query;
use poem_openapi::{Object, OpenApi};
use posthorn_domain::audit::Entry;
use posthorn_domain::id::AuditId;
use serde::Serialize;
use uuid::Uuid;

use super::Tag;
use super::body::Json;
use super::paging::{check_limit, cut, read_id_cursor, write_id_cursor};
use super::words::{ActorKind, AuditAction, TenantName, Time};
use crate::http::problem::Problem;
use crate::service::{Access, Service};

/// Entries on a page where the client names no number.
const LIMIT_DEFAULT: u32 = 20;

pub(super) struct Audit {
    pub(super) service: Service,
}

/// Something that somebody changed.
#[derive(Serialize, Object)]
struct AuditEntry {
    /// A UUIDv7, so that ids sort by age.
    id: Uuid,
    /// When it was done.
    at: Time,
    /// By which right.
    actor: ActorKind,
    /// With which API key, where it was one; it may be revoked by now.
    key_id: Option<Uuid>,
    /// What was done.
    action: AuditAction,
    /// Whose it was done to; null: no tenant's in particular.
    tenant: Option<String>,
    /// What it was done to: the id of a subscription, a delivery or an API key, or a tenant's name.
    #[oai(validator(max_length = "64"))]
    subject: String,
    /// Which of its fields were changed; never to what.
    fields: Vec<String>,
}

/// One page of the audit log, the newest first.
#[derive(Serialize, Object)]
struct AuditPage {
    /// At most `limit` of them.
    items: Vec<AuditEntry>,
    /// Leads to the next page; null on the last one.
    next_cursor: Option<String>,
}

#[OpenApi(tag = "Tag::Audit")]
impl Audit {
    /// List who changed what, the newest first
    ///
    /// An entry is stored with the change that it tells of, and kept for `POSTHORN_AUDIT_RETENTION_HOURS`. To a
    /// tenant's key: what is that tenant's.
    #[oai(path = "/audit", method = "get", operation_id = "listAudit")]
    async fn list(
        &self,
        access: Access,
        /// Only this tenant's.
        tenant: Query<Option<TenantName>>,
        /// Entries on a page; 20 where left out.
        limit: Query<Option<i64>>,
        /// The `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<AuditPage>, Problem> {
        let limit = check_limit(limit.0, LIMIT_DEFAULT)?;
        let before = cursor.0.as_deref().map(read_id_cursor).transpose()?.map(AuditId);
        let asked = tenant.0.map(|name| name.0);
        let found = self.service.list_audit(&access, asked.as_ref(), before, limit + 1).await?;
        let (found, next_cursor) = cut(found, limit, |last| write_id_cursor(last.id.0));
        Ok(Json(AuditPage { items: found.into_iter().map(AuditEntry::from).collect(), next_cursor }))
    }
}

impl From<Entry> for AuditEntry {
    fn from(entry: Entry) -> Self {
        Self {
            id: entry.id.0,
            at: Time(entry.stamp.at),
            actor: ActorKind(entry.stamp.by.kind()),
            key_id: entry.stamp.by.key().map(|key| key.0),
            action: AuditAction(entry.action),
            tenant: entry.tenant.map(|tenant| tenant.to_string()),
            subject: entry.subject,
            fields: entry.fields,
        }
    }
}
