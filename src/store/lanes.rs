//! The hot path back: what a lane still has to send, read in pages.

use std::time::Duration;

use posthorn_domain::delivery::{DeliveryStatus, OrderingKey};
use posthorn_domain::id::{DeliveryId, EventId, Sequence, SubscriptionId};
use posthorn_domain::tenant::Tenant;
use posthorn_domain::time::Timestamp;
use sea_orm::sea_query::Expr;
use sea_orm::{
    ColumnTrait as _, Condition, ConnectionTrait as _, EntityTrait as _, FromQueryResult, QueryFilter as _,
    QueryOrder as _, QuerySelect as _, Statement,
};
use uuid::Uuid;

use super::columns::column_to_count;
use super::entity::webhook_deliveries::{Column, Entity};
use super::lane_wide::{LaneWide, NOT_DELETED};
use super::{Error, Store};

/// An unfinished delivery, without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its id.
    pub id: DeliveryId,
    /// Whose payload it carries.
    pub event_id: EventId,
    /// The delivery that it repeats.
    pub replay_of: Option<DeliveryId>,
    /// Its number.
    pub sequence: Sequence,
    /// See [`OrderingKey`].
    pub ordering_key: Option<OrderingKey>,
    /// Attempts in the log.
    pub attempt_count: u32,
    /// Attempts that were made before a person gave it a fresh set of retries.
    pub retry_base: u32,
    /// When it may be tried again.
    pub next_attempt_at: Option<Timestamp>,
    /// How long after the end of its last attempt that is, where it may be tried again at some time.
    pub retry_delay: Option<Duration>,
}

/// What is read of a row for it.
#[derive(FromQueryResult)]
struct Row {
    id: Uuid,
    event_id: Uuid,
    replay_of: Option<Uuid>,
    sequence: i64,
    ordering_key: Option<String>,
    attempt_count: i32,
    retry_base: i32,
    next_attempt_at_ms: Option<i64>,
    retry_delay_ms: Option<i64>,
    planned_version: Option<i64>,
}

impl Row {
    /// What was changed for the whole lane counts.
    fn judge(self, lane: LaneWide) -> Waiting {
        let due_at = lane.due_at(self.planned_version);
        let planned = self.next_attempt_at_ms;
        let delay = |delay: i64| Duration::from_millis(u64::try_from(delay).unwrap_or(0));
        let base = if lane.forgives(self.planned_version) { self.attempt_count } else { self.retry_base };
        Waiting {
            id: DeliveryId(self.id),
            event_id: EventId(self.event_id),
            replay_of: self.replay_of.map(DeliveryId),
            sequence: Sequence(self.sequence),
            ordering_key: self.ordering_key.map(|key| OrderingKey(key.into())),
            attempt_count: column_to_count(self.attempt_count),
            retry_base: column_to_count(base),
            next_attempt_at: planned
                .map(|at| Timestamp::from_millis(due_at.map_or(at, |due_at| at.min(due_at)))),
            // One that is due waits no longer, whatever the clock of whoever made it so.
            retry_delay: if due_at.is_some() { Some(Duration::ZERO) } else { self.retry_delay_ms.map(delay) },
        }
    }
}

/// A lane with unfinished deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithWork {
    /// Its subscription.
    pub id: SubscriptionId,
    /// Whose it is.
    pub tenant: Tenant,
    /// The highest number that a delivery has got.
    pub last: Sequence,
    /// Of its subscription.
    pub version: i64,
}

/// Which of a lane's deliveries to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All, but for those with one of these keys.
    Without(Vec<OrderingKey>),
    /// Those with this key.
    Key(OrderingKey),
}

impl Store {
    /// Unfinished deliveries numbered above `after`, the earliest first; by
    /// `webhook_deliveries_unfinished` or `…_by_key`.
    pub async fn lane_page(
        &self,
        id: SubscriptionId,
        after: Sequence,
        scope: &Scope,
        limit: usize,
    ) -> Result<Vec<Waiting>, Error> {
        let mut query = Entity::find()
            .select_only()
            .columns([
                Column::Id,
                Column::EventId,
                Column::ReplayOf,
                Column::Sequence,
                Column::OrderingKey,
                Column::AttemptCount,
                Column::RetryBase,
                Column::NextAttemptAtMs,
                Column::PlannedVersion,
            ])
            .expr_as(Expr::cust(RETRY_DELAY_MS), "retry_delay_ms")
            .filter(Column::SubscriptionId.eq(id.0))
            .filter(Column::Sequence.gt(after.0))
            .filter(Expr::cust(UNFINISHED))
            .filter(Expr::cust(NOT_DELETED));
        match scope {
            Scope::Without(keys) if keys.is_empty() => {}
            Scope::Without(keys) => {
                let others = Column::OrderingKey.is_not_in(keys.iter().map(|key| &*key.0));
                query = query.filter(Condition::any().add(Column::OrderingKey.is_null()).add(others));
            }
            Scope::Key(key) => query = query.filter(Column::OrderingKey.eq(&*key.0)),
        }
        let rows = query
            .order_by_asc(Column::Sequence)
            .limit(u64::try_from(limit).unwrap_or(u64::MAX))
            .into_model::<Row>()
            .all(&self.lanes)
            .await?;
        // Only what was tried before can be concerned.
        let lane = if rows.iter().any(|row| row.attempt_count > 0) {
            LaneWide::of(&self.lanes, id).await?
        } else {
            LaneWide::default()
        };
        Ok(rows.into_iter().map(|row| row.judge(lane)).collect())
    }

    /// Lanes with unfinished deliveries, in id order, those above `after`: one
    /// step of `webhook_deliveries_unfinished` for each, however many deliveries it has (a loose index scan).
    pub async fn lanes_with_work(
        &self,
        after: Option<SubscriptionId>,
        limit: usize,
    ) -> Result<Vec<WithWork>, Error> {
        let after = after.map_or(Uuid::nil(), |id| id.0);
        let ask = Statement::from_sql_and_values(
            self.orm.get_database_backend(),
            "WITH RECURSIVE lane (id) AS ( \
             SELECT (SELECT subscription_id FROM webhook_deliveries WHERE status < 3 AND subscription_id > $1 \
             ORDER BY subscription_id LIMIT 1) \
             UNION ALL \
             SELECT (SELECT d.subscription_id FROM webhook_deliveries d WHERE d.status < 3 \
             AND d.subscription_id > lane.id ORDER BY d.subscription_id LIMIT 1) \
             FROM lane WHERE lane.id IS NOT NULL) \
             SELECT found.id, s.tenant, l.next_sequence - 1, s.version \
             FROM (SELECT id FROM lane WHERE id IS NOT NULL \
             AND id NOT IN (SELECT subscription_id FROM deletions) LIMIT $2) AS found \
             JOIN subscriptions s ON s.id = found.id JOIN lanes l ON l.subscription_id = found.id \
             ORDER BY found.id",
            [after.into(), i64::try_from(limit).unwrap_or(i64::MAX).into()],
        );
        let rows = self.orm.query_all(ask).await?;
        let found = rows.iter().map(|row| {
            let (id, tenant) = (SubscriptionId(row.try_get_by_index(0)?), row.try_get_by_index::<String>(1)?);
            Ok(WithWork {
                id,
                tenant: tenant.parse().map_err(|_| Error::corrupt("tenant of subscription", id))?,
                last: Sequence(row.try_get_by_index(2)?),
                version: row.try_get_by_index(3)?,
            })
        });
        found.collect()
    }
}

/// As the partial indexes say it, so that the planner sees that they serve.
const UNFINISHED: &str = "status < 3";

/// From the end of the last attempt to the time of the next, as the clock had it that wrote both; by
/// `delivery_attempts_of_delivery`.
const RETRY_DELAY_MS: &str = "CASE WHEN next_attempt_at_ms IS NOT NULL THEN next_attempt_at_ms - \
    (SELECT a.attempted_at_ms + a.duration_ms FROM delivery_attempts a \
    WHERE a.delivery_id = webhook_deliveries.id AND a.attempt_number = webhook_deliveries.attempt_count) END";

const _: () = assert!(DeliveryStatus::Success.code() == 3);
