//! Deliveries: reading them, and what a person may do to one.

use posthorn_domain::audit::{Action, Stamp, Subject};
use posthorn_domain::delivery::{Delivery, DeliveryStatus, OrderingKey};
use posthorn_domain::hops::Hops;
use posthorn_domain::id::{DeliveryId, EventId, Sequence, SubscriptionId};
use posthorn_domain::payload::Payload;
use posthorn_domain::tenant::Tenant;
use posthorn_domain::time::Timestamp;
use sea_orm::{
    ActiveModelTrait as _, ActiveValue::Set, ColumnTrait as _, ConnectionTrait as _, EntityTrait as _,
    IntoActiveModel as _, JoinType, QueryFilter as _, QueryOrder as _, QuerySelect as _, Statement,
};

use super::database::Transaction;
use super::entity::subscriptions;
use super::entity::webhook_deliveries::{Column, Entity, Model};
use super::lane_wide::LaneWide;
use super::notices::{self, Notice};
use super::stats::{Counts, Writer};
use super::subscriptions::live;
use super::{Error, Store, audit, columns, tx};

/// What came of a change that only an unfinished delivery may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was made; this is the delivery now.
    Done(Delivery),
    /// The delivery is finished.
    Finished,
    /// There is no such delivery.
    NotFound,
}

/// What came of a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// A new delivery stands at the end of the line.
    Stored(Delivery),
    /// There is no such delivery.
    NotFound,
    /// There is no longer a subscription to send it to.
    SubscriptionDeleted,
    /// See [`Answer::BacklogFull`](super::intake::Answer::BacklogFull).
    BacklogFull(SubscriptionId),
}

/// Why a skipped delivery ended.
const SKIPPED: &str = "skipped";

impl Store {
    /// One delivery, by primary key.
    pub async fn delivery(&self, id: DeliveryId) -> Result<Option<Delivery>, Error> {
        let Some(row) = Entity::find_by_id(id.0).one(&self.orm).await? else { return Ok(None) };
        let lane = self.lane_wide(SubscriptionId(row.subscription_id), std::slice::from_ref(&row)).await?;
        to_delivery(lane.judge(row)).map(Some)
    }

    /// What holds for the whole lane of these deliveries, where that may concern one of them.
    pub(super) async fn lane_wide(&self, id: SubscriptionId, rows: &[Model]) -> Result<LaneWide, Error> {
        if rows.iter().all(|row| row.status >= DeliveryStatus::Success.code()) {
            return Ok(LaneWide::default());
        }
        LaneWide::of(&self.orm, id).await
    }

    /// Whose a delivery is, by primary keys; also where its subscription was deleted.
    pub async fn tenant_of_delivery(&self, id: DeliveryId) -> Result<Option<Tenant>, Error> {
        let found = Entity::find_by_id(id.0)
            .join(
                JoinType::InnerJoin,
                Entity::belongs_to(subscriptions::Entity)
                    .from(Column::SubscriptionId)
                    .to(subscriptions::Column::Id)
                    .into(),
            )
            .select_only()
            .column(subscriptions::Column::Tenant)
            .into_tuple::<String>()
            .one(&self.orm)
            .await?;
        found.map(|name| name.parse().map_err(|_| Error::corrupt("tenant of delivery", id))).transpose()
    }

    /// The number of the earliest unfinished delivery of a lane, or of those with a key in it; by
    /// `webhook_deliveries_unfinished` or `…_by_key`.
    pub async fn first_unfinished(
        &self,
        id: SubscriptionId,
        key: Option<&OrderingKey>,
    ) -> Result<Option<Sequence>, Error> {
        let mut query = Entity::find()
            .select_only()
            .column(Column::Sequence)
            .filter(Column::SubscriptionId.eq(id.0))
            .filter(Column::Status.lt(DeliveryStatus::Success.code()));
        if let Some(key) = key {
            query = query.filter(Column::OrderingKey.eq(&*key.0));
        }
        let first: Option<i64> =
            query.order_by_asc(Column::Sequence).limit(1).into_tuple().one(&self.orm).await?;
        Ok(first.map(Sequence))
    }

    /// The payload of a delivery's event, by primary keys.
    pub async fn payload(&self, id: DeliveryId) -> Result<Option<Payload>, Error> {
        self.read_payload(
            "SELECT e.content_type, e.payload, e.hops, e.forwarded_headers FROM webhook_deliveries d \
             JOIN events e ON e.id = d.event_id WHERE d.id = $1",
            id.0,
        )
        .await
    }

    /// An event's payload, by primary key.
    pub async fn event_payload(&self, id: EventId) -> Result<Option<Payload>, Error> {
        let sql = "SELECT content_type, payload, hops, forwarded_headers FROM events WHERE id = $1";
        self.read_payload(sql, id.0).await
    }

    async fn read_payload(&self, sql: &str, id: uuid::Uuid) -> Result<Option<Payload>, Error> {
        let ask = Statement::from_sql_and_values(self.lanes.get_database_backend(), sql, [id.into()]);
        let Some(row) = self.lanes.query_one(ask).await? else { return Ok(None) };
        let bytes: Vec<u8> = row.try_get_by_index(1)?;
        let hops = Hops::of_stored(row.try_get_by_index(2)?);
        let forwarded = columns::of_headers(row.try_get_by_index(3)?, id)?;
        Ok(Some(Payload { content_type: row.try_get_by_index(0)?, bytes: bytes.into(), hops, forwarded }))
    }

    /// Makes a delivery that waits for its retry due at once.
    pub async fn retry_delivery(&self, id: DeliveryId, stamp: Stamp) -> Result<Change, Error> {
        let now = stamp.at;
        self.change_unfinished(id, (stamp, Action::DeliveryRetried), Notice::RetryNow, move |row, _| {
            if row.status == DeliveryStatus::FailedAttempt.code() {
                row.next_attempt_at_ms = row.next_attempt_at_ms.map(|due| due.min(now.as_millis()));
            }
        })
        .await
    }

    /// Ends a delivery `failed` without another attempt.
    pub async fn skip_delivery(&self, id: DeliveryId, stamp: Stamp) -> Result<Change, Error> {
        let now = stamp.at;
        self.change_unfinished(id, (stamp, Action::DeliverySkipped), Notice::Skipped, move |row, counts| {
            row.status = DeliveryStatus::Failed.code();
            row.completed_at_ms = Some(now.as_millis());
            row.next_attempt_at_ms = None;
            row.error = Some(SKIPPED.to_owned());
            counts.failed = 1;
        })
        .await
    }

    async fn change_unfinished(
        &self,
        id: DeliveryId,
        (stamp, action): (Stamp, Action),
        tell: fn(SubscriptionId, Sequence) -> Notice,
        change: impl FnOnce(&mut Model, &mut Counts) + Send + 'static,
    ) -> Result<Change, Error> {
        tx::run(self, move |tx| {
            Box::pin(async move {
                let Some(row) = tx::locking(tx, Entity::find_by_id(id.0)).one(tx).await? else {
                    return Ok(Change::NotFound);
                };
                let lane = LaneWide::of(tx, SubscriptionId(row.subscription_id)).await?;
                let mut row = lane.judge(row);
                if row.status >= DeliveryStatus::Success.code() {
                    return Ok(Change::Finished);
                }
                let mut counts = Counts::default();
                let before = row.clone();
                change(&mut row, &mut counts);
                if row == before {
                    return Ok(Change::Done(to_delivery(row)?));
                }
                let row = row.into_active_model().reset_all().update(tx).await?;
                counts.add(tx, stamp.at, Writer::Control).await?;
                let delivery = to_delivery(row)?;
                let subject = Subject::Delivery(id, delivery.subscription_id);
                audit::note(tx, stamp, action, &subject, &[]).await?;
                notices::tell(tx, &tell(delivery.subscription_id, delivery.sequence)).await?;
                Ok(Change::Done(delivery))
            })
        })
        .await
    }

    /// Puts the event of delivery `original` at the end of its subscription's line once more, as
    /// delivery `id`.
    pub async fn replay_delivery(
        &self,
        original: DeliveryId,
        id: DeliveryId,
        backlog_max: i64,
        stamp: Stamp,
    ) -> Result<Replayed, Error> {
        let now = stamp.at;
        tx::run(self, move |tx| {
            Box::pin(async move {
                let Some(old) = tx::locking(tx, Entity::find_by_id(original.0)).one(tx).await? else {
                    return Ok(Replayed::NotFound);
                };
                let lane = SubscriptionId(old.subscription_id);
                let Some(sequence) = take_sequence(tx, lane, backlog_max).await? else {
                    let found = live(lane).one(tx).await?;
                    return Ok(found.map_or(Replayed::SubscriptionDeleted, |_| Replayed::BacklogFull(lane)));
                };
                let more = "UPDATE events SET reference_count = reference_count + 1 WHERE id = $1";
                if tx::execute(tx, more, [old.event_id.into()]).await? == 0 {
                    return Err(Error::corrupt("delivery without an event", original));
                }
                let row = Model {
                    id: id.0,
                    replay_of: Some(original.0),
                    sequence,
                    status: DeliveryStatus::Pending.code(),
                    idempotency_key: None,
                    attempt_count: 0,
                    retry_base: 0,
                    next_attempt_at_ms: None,
                    error: None,
                    created_at_ms: now.as_millis(),
                    completed_at_ms: None,
                    planned_version: None,
                    ..old
                };
                let mut active = row.into_active_model().reset_all();
                active.id = Set(id.0);
                let row = active.insert(tx).await?;
                let counts = Counts { accepted: 1, ..Counts::default() };
                counts.add(tx, now, Writer::Control).await?;
                let subject = Subject::Delivery(original, lane);
                audit::note(tx, stamp, Action::DeliveryReplayed, &subject, &[]).await?;
                notices::tell(tx, &Notice::Accepted(vec![(lane, Sequence(sequence))])).await?;
                Ok(Replayed::Stored(to_delivery(row)?))
            })
        })
        .await
    }
}

/// The next number of a lane, under its row's lock; none where the subscription is gone or its
/// backlog is full.
async fn take_sequence(tx: &Transaction, id: SubscriptionId, backlog_max: i64) -> Result<Option<i64>, Error> {
    let take = Statement::from_sql_and_values(
        tx.get_database_backend(),
        "UPDATE lanes SET next_sequence = next_sequence + 1 \
         WHERE subscription_id = $1 AND next_sequence <= finished + $2 RETURNING next_sequence - 1",
        [id.0.into(), backlog_max.into()],
    );
    let row = tx.query_one(take).await?;
    Ok(row.map(|row| row.try_get_by_index(0)).transpose()?)
}

pub(super) fn to_delivery(row: Model) -> Result<Delivery, Error> {
    Ok(Delivery {
        id: DeliveryId(row.id),
        subscription_id: SubscriptionId(row.subscription_id),
        event_id: EventId(row.event_id),
        replay_of: row.replay_of.map(DeliveryId),
        status: DeliveryStatus::from_code(row.status).ok_or_else(|| Error::corrupt("status", row.status))?,
        sequence: Sequence(row.sequence),
        ordering_key: row.ordering_key.map(|key| OrderingKey(key.into())),
        attempt_count: u32::try_from(row.attempt_count).unwrap_or(0),
        next_attempt_at: row.next_attempt_at_ms.map(Timestamp::from_millis),
        error: row.error,
        created_at: Timestamp::from_millis(row.created_at_ms),
        completed_at: row.completed_at_ms.map(Timestamp::from_millis),
    })
}
