//! The log of requests made, and what happened lately.

use std::time::Duration;

use posthorn_domain::delivery::{Attempt, AttemptOutcome};
use posthorn_domain::id::{AttemptId, AttemptNumber, DeliveryId, SubscriptionId};
use posthorn_domain::limits::RETRIES_MAX;
use posthorn_domain::target::TargetUrl;
use posthorn_domain::tenant::Tenant;
use posthorn_domain::time::Timestamp;
use posthorn_domain::views::Activity;
use sea_orm::{
    ColumnTrait as _, ConnectionTrait as _, DbBackend, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QueryResult, QuerySelect as _, Statement, Value,
};
use uuid::Uuid;

use super::entity::delivery_attempts::{Column, Entity, Model};
use super::{Error, Store};

/// Attempts shown of one delivery: more than any policy makes, unless it is resumed again and again.
const OF_ONE_DELIVERY_MAX: u64 = 10 * (RETRIES_MAX as u64 + 1);

impl Store {
    /// A delivery's attempts, the oldest first; by `delivery_attempts_of_delivery`.
    pub async fn attempts_of_delivery(&self, id: DeliveryId) -> Result<Vec<Attempt>, Error> {
        let rows = Entity::find()
            .filter(Column::DeliveryId.eq(id.0))
            .order_by_asc(Column::AttemptNumber)
            .limit(OF_ONE_DELIVERY_MAX)
            .all(&self.orm)
            .await?;
        rows.into_iter().map(to_attempt).collect()
    }

    /// A subscription's attempts, the newest first; by `delivery_attempts_of_subscription`.
    pub async fn attempts_of_subscription(
        &self,
        id: SubscriptionId,
        limit: u32,
    ) -> Result<Vec<Attempt>, Error> {
        let rows = Entity::find()
            .filter(Column::SubscriptionId.eq(id.0))
            .order_by_desc(Column::Id)
            .limit(u64::from(limit))
            .all(&self.orm)
            .await?;
        rows.into_iter().map(to_attempt).collect()
    }

    /// What happened lately, the newest first; by primary keys, since ids sort by age.
    pub async fn activity(&self, limit: u32) -> Result<Vec<Activity>, Error> {
        let attempts = format!("SELECT {SHOWN} FROM delivery_attempts a ORDER BY a.id DESC LIMIT $1");
        let created = "SELECT id, target_url, created_at_ms FROM subscriptions WHERE deleted_at_ms IS NULL \
                       ORDER BY id DESC LIMIT $1";
        self.newest(&attempts, created, vec![i64::from(limit).into()], limit).await
    }

    /// What happened lately to one tenant's subscriptions that are there, the newest first; by
    /// `subscriptions_by_tenant`, and two looks into `delivery_attempts_of_subscription` for each of those whose own
    /// newest attempts are the newest: none of the newest is of another. Of each, only what is not older than its
    /// own last one that could be shown.
    pub async fn activity_of_tenant(&self, tenant: &Tenant, limit: u32) -> Result<Vec<Activity>, Error> {
        let first = match self.orm.get_database_backend() {
            DbBackend::Sqlite => "X'00'",
            DbBackend::Postgres | DbBackend::MySql => "'00000000-0000-0000-0000-000000000000'",
        };
        let attempts = format!(
            "SELECT {SHOWN} FROM (SELECT id, (SELECT l.id FROM delivery_attempts l WHERE l.subscription_id = own.id \
             ORDER BY l.id DESC LIMIT 1 OFFSET $2 - 1) AS oldest FROM (SELECT s.id, (SELECT n.id FROM delivery_attempts n \
             WHERE n.subscription_id = s.id ORDER BY n.id DESC LIMIT 1) AS newest FROM subscriptions s \
             WHERE s.tenant = $1 AND s.deleted_at_ms IS NULL) own WHERE newest IS NOT NULL \
             ORDER BY newest DESC LIMIT $2) lanes JOIN delivery_attempts a ON a.subscription_id = lanes.id \
             AND a.id >= coalesce(lanes.oldest, {first}) ORDER BY a.id DESC LIMIT $2"
        );
        let created = "SELECT id, target_url, created_at_ms FROM subscriptions WHERE tenant = $1 \
                       AND deleted_at_ms IS NULL ORDER BY id DESC LIMIT $2";
        self.newest(&attempts, created, vec![tenant.as_str().into(), i64::from(limit).into()], limit).await
    }

    /// The newest `limit` of both together.
    async fn newest(
        &self,
        attempts: &str,
        created: &str,
        values: Vec<Value>,
        limit: u32,
    ) -> Result<Vec<Activity>, Error> {
        let backend = self.orm.get_database_backend();
        let ask = |sql: &str| Statement::from_sql_and_values(backend, sql, values.clone());
        let mut items = Vec::new();
        for row in self.orm.query_all(ask(attempts)).await? {
            items.push(attempted(&row)?);
        }
        for row in self.orm.query_all(ask(created)).await? {
            let id: Uuid = row.try_get_by_index(0)?;
            let target: String = row.try_get_by_index(1)?;
            let target = TargetUrl::parse(&target).map_err(|_| Error::corrupt("target_url", id))?;
            items.push(Activity::SubscriptionCreated {
                at: Timestamp::from_millis(row.try_get_by_index(2)?),
                subscription_id: SubscriptionId(id),
                origin: target.origin(),
            });
        }
        items.sort_by_key(|item| std::cmp::Reverse(item.at()));
        items.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(items)
    }
}

/// What activity shows of an attempt: no bodies, of which a list would hold 400 KiB.
const SHOWN: &str =
    "a.attempted_at_ms, a.subscription_id, a.delivery_id, a.attempt_number, a.outcome, a.status_code";

fn attempted(row: &QueryResult) -> Result<Activity, Error> {
    let outcome: i16 = row.try_get_by_index(4)?;
    let status_code: Option<i16> = row.try_get_by_index(5)?;
    Ok(Activity::Attempted {
        at: Timestamp::from_millis(row.try_get_by_index(0)?),
        subscription_id: SubscriptionId(row.try_get_by_index(1)?),
        delivery_id: DeliveryId(row.try_get_by_index(2)?),
        number: to_number(row.try_get_by_index(3)?),
        outcome: AttemptOutcome::from_code(outcome).ok_or_else(|| Error::corrupt("outcome", outcome))?,
        status_code: status_code.and_then(|code| u16::try_from(code).ok()),
    })
}

fn to_number(column: i32) -> AttemptNumber {
    AttemptNumber::after(u32::try_from(column.saturating_sub(1)).unwrap_or(0))
}

fn to_attempt(row: Model) -> Result<Attempt, Error> {
    Ok(Attempt {
        id: AttemptId(row.id),
        delivery_id: DeliveryId(row.delivery_id),
        subscription_id: SubscriptionId(row.subscription_id),
        number: to_number(row.attempt_number),
        outcome: AttemptOutcome::from_code(row.outcome)
            .ok_or_else(|| Error::corrupt("outcome", row.outcome))?,
        status_code: row.status_code.and_then(|code| u16::try_from(code).ok()),
        response_body: row.response_body,
        error_message: row.error_message,
        duration: Duration::from_millis(u64::try_from(row.duration_ms).unwrap_or(0)),
        attempted_at: Timestamp::from_millis(row.attempted_at_ms),
    })
}
