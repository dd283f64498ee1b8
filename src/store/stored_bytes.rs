//! How many bytes of payloads a tenant has stored.
//!
//! Counted in small reads outside of any transaction, so that no statement takes longer the more a tenant has. What
//! comes and goes meanwhile may be counted or not. A replay has no bytes of its own, so an event of which only
//! replays are left is not counted.

use posthorn_domain::tenant::Tenant;
use sea_orm::{ConnectionTrait as _, Statement};
use uuid::Uuid;

use super::{Error, Store};

/// Deliveries of one read: some milliseconds.
const SLICE: i64 = 5000;

/// By `webhook_deliveries_in_order` and the primary key of events, in that order. Neither database reads a payload to
/// tell its length: PostgreSQL keeps it beside the row and SQLite in the row's head.
const COUNT: &str = "SELECT max(d.sequence), CAST(coalesce(sum(length(e.payload)), 0) AS bigint) FROM \
     (SELECT sequence, event_id FROM webhook_deliveries WHERE subscription_id = $1 AND sequence > $2 \
      AND replay_of IS NULL ORDER BY sequence LIMIT $3) AS d \
     CROSS JOIN events e WHERE e.id = d.event_id";

impl Store {
    /// The bytes of a tenant's payloads that are not removed yet, those of deleted subscriptions included.
    pub async fn stored_bytes(&self, tenant: &Tenant) -> Result<u64, Error> {
        let mut bytes = 0;
        for id in self.subscriptions_of(tenant).await? {
            let mut last = 0_i64;
            loop {
                let values = [id.into(), last.into(), SLICE.into()];
                let ask = Statement::from_sql_and_values(self.patient.get_database_backend(), COUNT, values);
                let Some(row) = self.patient.query_one(ask).await? else { break };
                let Some(sequence) = row.try_get_by_index::<Option<i64>>(0)? else { break };
                let slice: i64 = row.try_get_by_index(1)?;
                bytes += u64::try_from(slice).unwrap_or(0);
                last = sequence;
            }
        }
        Ok(bytes)
    }

    /// Deleted ones are found by `subscriptions_deleted`, the others by `subscriptions_by_tenant`.
    async fn subscriptions_of(&self, tenant: &Tenant) -> Result<Vec<Uuid>, Error> {
        let ask = Statement::from_sql_and_values(
            self.patient.get_database_backend(),
            "SELECT id FROM subscriptions WHERE tenant = $1 AND deleted_at_ms IS NULL \
             UNION ALL SELECT id FROM subscriptions WHERE tenant = $1 AND deleted_at_ms IS NOT NULL",
            [tenant.as_str().into()],
        );
        let rows = self.patient.query_all(ask).await?;
        rows.iter().map(|row| Ok(row.try_get_by_index(0)?)).collect()
    }
}
