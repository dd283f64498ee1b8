//! The log of requests made, and what happened lately.

use std::time::Duration;

use posthorn_domain::delivery::{Attempt, AttemptOutcome};
use posthorn_domain::id::{AttemptId, AttemptNumber, DeliveryId, SubscriptionId};
use posthorn_domain::limits::RETRIES_MAX;
use posthorn_domain::target::TargetUrl;
use posthorn_domain::tenant::Tenant;
use posthorn_domain::time::Timestamp;
use sea_orm::{
    ColumnTrait as _, ConnectionTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _, Statement,
};

use super::entity::delivery_attempts::{Column, Entity, Model};
use super::entity::subscriptions;
use super::{Error, Store};

/// Attempts shown of one delivery: more than any policy makes, unless it is resumed again and again.
const OF_ONE_DELIVERY_MAX: u64 = 10 * (RETRIES_MAX as u64 + 1);

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Activity {
    /// A subscription came to be.
    SubscriptionCreated {
        /// When.
        at: Timestamp,
        /// Which.
        subscription_id: SubscriptionId,
        /// Scheme, host and port of its target.
        origin: String,
    },
    /// A request was made.
    Attempted(Attempt),
}

impl Activity {
    /// When it happened.
    pub const fn at(&self) -> Timestamp {
        match self {
            Self::SubscriptionCreated { at, .. } => *at,
            Self::Attempted(attempt) => attempt.attempted_at,
        }
    }
}

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
        let attempts =
            Entity::find().order_by_desc(Column::Id).limit(u64::from(limit)).all(&self.orm).await?;
        let created = subscriptions::Entity::find()
            .filter(subscriptions::Column::DeletedAtMs.is_null())
            .order_by_desc(subscriptions::Column::Id)
            .limit(u64::from(limit))
            .all(&self.orm)
            .await?;
        let attempts = attempts.into_iter().map(to_attempt).collect::<Result<Vec<_>, _>>()?;
        newest(attempts, created, limit)
    }

    /// What happened lately to one tenant's subscriptions that are there, the newest first; by
    /// `subscriptions_by_tenant`, and one look into `delivery_attempts_of_subscription` for each of them.
    pub async fn activity_of_tenant(&self, tenant: &Tenant, limit: u32) -> Result<Vec<Activity>, Error> {
        let own = subscriptions::Entity::find()
            .filter(subscriptions::Column::DeletedAtMs.is_null())
            .filter(subscriptions::Column::Tenant.eq(tenant.as_str()));
        let created =
            own.order_by_desc(subscriptions::Column::Id).limit(u64::from(limit)).all(&self.orm).await?;
        // None of the newest attempts is of another than those whose own newest attempts are the newest.
        let ask = Statement::from_sql_and_values(
            self.orm.get_database_backend(),
            "SELECT id FROM (SELECT s.id, (SELECT a.id FROM delivery_attempts a \
             WHERE a.subscription_id = s.id ORDER BY a.id DESC LIMIT 1) AS newest \
             FROM subscriptions s WHERE s.tenant = $1 AND s.deleted_at_ms IS NULL) AS lanes \
             WHERE newest IS NOT NULL ORDER BY newest DESC LIMIT $2",
            [tenant.as_str().into(), i64::from(limit).into()],
        );
        let mut attempts = Vec::new();
        for row in self.orm.query_all(ask).await? {
            let id = SubscriptionId(row.try_get_by_index(0)?);
            attempts.extend(self.attempts_of_subscription(id, limit).await?);
        }
        newest(attempts, created, limit)
    }
}

/// The newest `limit` of both together.
fn newest(
    attempts: Vec<Attempt>,
    created: Vec<subscriptions::Model>,
    limit: u32,
) -> Result<Vec<Activity>, Error> {
    let mut items: Vec<_> = attempts.into_iter().map(Activity::Attempted).collect();
    for row in created {
        let target = TargetUrl::parse(&row.target_url).map_err(|_| Error::corrupt("target_url", row.id))?;
        items.push(Activity::SubscriptionCreated {
            at: Timestamp::from_millis(row.created_at_ms),
            subscription_id: SubscriptionId(row.id),
            origin: target.origin(),
        });
    }
    items.sort_by_key(|item| std::cmp::Reverse(item.at()));
    items.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(items)
}

fn to_attempt(row: Model) -> Result<Attempt, Error> {
    let before = u32::try_from(row.attempt_number.saturating_sub(1)).unwrap_or(0);
    Ok(Attempt {
        id: AttemptId(row.id),
        delivery_id: DeliveryId(row.delivery_id),
        subscription_id: SubscriptionId(row.subscription_id),
        number: AttemptNumber::after(before),
        outcome: AttemptOutcome::from_code(row.outcome)
            .ok_or_else(|| Error::corrupt("outcome", row.outcome))?,
        status_code: row.status_code.and_then(|code| u16::try_from(code).ok()),
        response_body: row.response_body,
        error_message: row.error_message,
        duration: Duration::from_millis(u64::try_from(row.duration_ms).unwrap_or(0)),
        attempted_at: Timestamp::from_millis(row.attempted_at_ms),
    })
}
