//! API keys: made, found by what is kept of them, listed and revoked.
//!
//! What is revoked is gone: its id is found in no list, and its key in no look-up. Where a key must be left that
//! opens everything, the last one is not revoked ([`LastAdminKey`]).

use posthorn_domain::api_key::{Access, KeyDigest, KeyRecord, LastAdminKey, Revocation};
use posthorn_domain::audit::{Action, Actor, Stamp, Subject};
use posthorn_domain::id::KeyId;
use posthorn_domain::tenant::Tenant;
use posthorn_domain::time::Timestamp;
use posthorn_domain::views::Page;
use sea_orm::{
    ActiveModelTrait as _, ColumnTrait as _, ConnectionTrait as _, DbBackend, EntityTrait as _,
    IntoActiveModel as _, PaginatorTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _,
};

use super::database::Transaction;
use super::entity::api_keys::{Column, Entity, Model};
use super::{Error, Store, audit, tx};

/// PostgreSQL's name of the lock that revocations take where a key must be left: "posthkey" in ASCII.
const REVOCATION_LOCK: i64 = 0x706f_7374_686b_6579;

impl Store {
    /// Keeps a new key.
    pub async fn insert_key(&self, key: &KeyRecord, digest: KeyDigest, by: Actor) -> Result<(), Error> {
        let stamp = Stamp { by, at: key.created_at };
        let subject = Subject::Key(key.id, key.access.tenant().cloned());
        let row = Model {
            id: key.id.0,
            digest: digest.0.to_vec(),
            name: key.name.as_str().to_owned(),
            tenant: key.access.tenant().map(ToString::to_string),
            created_at_ms: key.created_at.as_millis(),
            expires_at_ms: key.expires_at.map(Timestamp::as_millis),
            last_used_at_ms: key.last_used_at.map(Timestamp::as_millis),
        };
        tx::run(self, move |tx| {
            Box::pin(async move {
                row.into_active_model().reset_all().insert(tx).await?;
                audit::note(tx, stamp, Action::KeyCreated, &subject, &[]).await
            })
        })
        .await
    }

    /// The key of which this is kept, by `api_keys_by_digest`; expired ones, too.
    pub async fn key_by_digest(&self, digest: KeyDigest) -> Result<Option<KeyRecord>, Error> {
        let found = Entity::find().filter(Column::Digest.eq(digest.0.to_vec())).one(&self.orm).await?;
        found.map(to_record).transpose()
    }

    /// Whether there is any key, expired or not; or, where `admin`, any that opens everything.
    pub async fn has_keys(&self, admin: bool) -> Result<bool, Error> {
        let mut query = Entity::find();
        if admin {
            query = query.filter(Column::Tenant.is_null());
        }
        Ok(query.limit(1).one(&self.orm).await?.is_some())
    }

    /// One page of the keys, the newest first; all of them, or one tenant's.
    pub async fn list_keys(
        &self,
        tenant: Option<&Tenant>,
        page: u32,
        limit: u32,
    ) -> Result<Page<KeyRecord>, Error> {
        let mut query = Entity::find();
        if let Some(tenant) = tenant {
            query = query.filter(Column::Tenant.eq(tenant.as_str()));
        }
        let total = query.clone().count(&self.orm).await?;
        let rows = query
            .order_by_desc(Column::Id)
            .limit(u64::from(limit))
            .offset(u64::from(page.saturating_sub(1)) * u64::from(limit))
            .all(&self.orm)
            .await?;
        Ok(Page { items: rows.into_iter().map(to_record).collect::<Result<_, _>>()?, total })
    }

    /// Ends a key. Where the last one that opens everything stays, another one must be left that is in force at
    /// the stamp's time; of two that are revoked at once, one is.
    pub async fn revoke_key(&self, id: KeyId, stamp: Stamp, last: LastAdminKey) -> Result<Revocation, Error> {
        tx::run(self, move |tx| {
            Box::pin(async move {
                if last == LastAdminKey::Stays {
                    queue_up(tx).await?;
                }
                let Some(row) = tx::locking(tx, Entity::find_by_id(id.0)).one(tx).await? else {
                    return Ok(Revocation::NotFound);
                };
                let digest = to_digest(&row)?;
                let access = to_record(row)?.access;
                let opens_everything = access == Access::Admin;
                if last == LastAdminKey::Stays
                    && opens_everything
                    && !is_another_left(tx, id, stamp.at).await?
                {
                    return Ok(Revocation::LastAdminKey);
                }
                Entity::delete_by_id(id.0).exec(tx).await?;
                let subject = Subject::Key(id, access.tenant().cloned());
                audit::note(tx, stamp, Action::KeyRevoked, &subject, &[]).await?;
                Ok(Revocation::Done(digest))
            })
        })
        .await
    }

    /// Notes when a key was used, unless a later time stands there.
    pub async fn note_key_use(&self, id: KeyId, at: Timestamp) -> Result<(), Error> {
        tx::run(self, move |tx| {
            Box::pin(async move {
                let note = "UPDATE api_keys SET last_used_at_ms = $2 \
                     WHERE id = $1 AND (last_used_at_ms IS NULL OR last_used_at_ms < $2)";
                tx::execute(tx, note, [id.0.into(), at.as_millis().into()]).await?;
                Ok(())
            })
        })
        .await
    }
}

/// One after the other, so that two do not each count on the key that the other revokes. SQLite's transactions
/// exclude each other anyway. The lock ends with the transaction, so that a pooler between leaves it alone.
async fn queue_up(tx: &Transaction) -> Result<(), Error> {
    if tx.get_database_backend() == DbBackend::Postgres {
        tx::execute(tx, "SELECT pg_advisory_xact_lock($1)", [REVOCATION_LOCK.into()]).await?;
    }
    Ok(())
}

/// Whether a key beside this one opens everything at `now`.
async fn is_another_left(tx: &Transaction, id: KeyId, now: Timestamp) -> Result<bool, Error> {
    let in_force = Column::ExpiresAtMs.is_null().or(Column::ExpiresAtMs.gt(now.as_millis()));
    let others = Entity::find().filter(Column::Tenant.is_null()).filter(Column::Id.ne(id.0)).filter(in_force);
    Ok(others.limit(1).one(tx).await?.is_some())
}

fn to_digest(row: &Model) -> Result<KeyDigest, Error> {
    let bytes = row.digest.as_slice().try_into();
    bytes.map(KeyDigest).map_err(|_| Error::corrupt("digest of key", row.id))
}

fn to_record(row: Model) -> Result<KeyRecord, Error> {
    let access = match row.tenant {
        None => Access::Admin,
        Some(tenant) => Access::Tenant(tenant.parse().map_err(|_| Error::corrupt("tenant of key", row.id))?),
    };
    Ok(KeyRecord {
        id: KeyId(row.id),
        name: row.name.parse().map_err(|_| Error::corrupt("name of key", row.id))?,
        access,
        created_at: Timestamp::from_millis(row.created_at_ms),
        expires_at: row.expires_at_ms.map(Timestamp::from_millis),
        last_used_at: row.last_used_at_ms.map(Timestamp::from_millis),
    })
}
