//! The audit log. A line is written in the transaction of the change that it tells of, so that there is none
//! without the other; nothing changes it.

use posthorn_domain::audit::{Action, Actor, ActorKind, Entry, Stamp, Subject};
use posthorn_domain::id::{AuditId, KeyId, SubscriptionId};
use posthorn_domain::tenant::Tenant;
use posthorn_domain::time::Timestamp;
use sea_orm::{
    ActiveModelTrait as _, ColumnTrait as _, EntityTrait as _, IntoActiveModel as _, QueryFilter as _,
    QueryOrder as _, QuerySelect as _,
};
use uuid::Uuid;

use super::database::Transaction;
use super::entity::audit_log::{Column, Entity, Model};
use super::entity::subscriptions;
use super::{Error, Store, tx};

/// Lines removed in one transaction.
const SLICE: i64 = 1000;

/// Notes what is done in this transaction; of which fields, where they are known.
pub(super) async fn note(
    tx: &Transaction,
    stamp: Stamp,
    action: Action,
    subject: &Subject,
    fields: &[&str],
) -> Result<(), Error> {
    let tenant = match subject {
        Subject::Subscription(id) | Subject::Delivery(_, id) => Some(tenant_of(tx, *id).await?),
        Subject::Tenant(tenant) => Some(tenant.to_string()),
        Subject::Key(_, tenant) => tenant.as_ref().map(ToString::to_string),
    };
    let row = Model {
        id: Uuid::now_v7(),
        at_ms: stamp.at.as_millis(),
        actor: stamp.by.kind().code(),
        key_id: stamp.by.key().map(|key| key.0),
        action: action.code(),
        tenant,
        subject: subject.to_string(),
        fields: fields.join(","),
    };
    row.into_active_model().reset_all().insert(tx).await?;
    Ok(())
}

async fn tenant_of(tx: &Transaction, id: SubscriptionId) -> Result<String, Error> {
    let find = subscriptions::Entity::find_by_id(id.0).select_only().column(subscriptions::Column::Tenant);
    // Deleted ones stay until their deliveries are gone.
    find.into_tuple().one(tx).await?.ok_or_else(|| Error::corrupt("subscription", id))
}

impl Store {
    /// Lines of the audit log, the newest first: all of them, or one tenant's; only those before one, where that is
    /// given. By the primary key or `audit_log_by_tenant`.
    pub async fn list_audit(
        &self,
        tenant: Option<&Tenant>,
        before: Option<AuditId>,
        limit: u32,
    ) -> Result<Vec<Entry>, Error> {
        let mut query = Entity::find();
        if let Some(tenant) = tenant {
            query = query.filter(Column::Tenant.eq(tenant.as_str()));
        }
        if let Some(before) = before {
            query = query.filter(Column::Id.lt(before.0));
        }
        let rows = query.order_by_desc(Column::Id).limit(u64::from(limit)).all(&self.orm).await?;
        rows.into_iter().map(to_entry).collect()
    }

    /// Removes one slice of the lines from before `until`; returns how many.
    pub async fn remove_audit(&self, until: Timestamp) -> Result<u64, Error> {
        // RFC 9562 §5.7: an id begins with the milliseconds in 48 bits.
        let millis = u128::try_from(until.as_millis()).unwrap_or(0);
        let first = Uuid::from_u128(millis << 80);
        tx::run(self, move |tx| {
            Box::pin(async move {
                let remove = "DELETE FROM audit_log WHERE id IN \
                     (SELECT id FROM audit_log WHERE id < $1 ORDER BY id LIMIT $2)";
                tx::execute(tx, remove, [first.into(), SLICE.into()]).await
            })
        })
        .await
    }
}

fn to_entry(row: Model) -> Result<Entry, Error> {
    let kind = ActorKind::from_code(row.actor).ok_or_else(|| Error::corrupt("actor", row.actor))?;
    let by = match (kind, row.key_id) {
        (ActorKind::Anyone, _) => Actor::Anyone,
        (ActorKind::AdminKey, _) => Actor::AdminKey,
        (ActorKind::Command, _) => Actor::Command,
        (ActorKind::ApiKey, Some(key)) => Actor::ApiKey(KeyId(key)),
        (ActorKind::ApiKey, None) => return Err(Error::corrupt("key of audit line", row.id)),
    };
    let tenant = row.tenant.map(|name| name.parse()).transpose();
    Ok(Entry {
        id: AuditId(row.id),
        stamp: Stamp { by, at: Timestamp::from_millis(row.at_ms) },
        action: Action::from_code(row.action).ok_or_else(|| Error::corrupt("action", row.action))?,
        tenant: tenant.map_err(|_| Error::corrupt("tenant of audit line", row.id))?,
        subject: row.subject,
        fields: row.fields.split(',').filter(|field| !field.is_empty()).map(str::to_owned).collect(),
    })
}
