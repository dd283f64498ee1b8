//! Deliveries: read, and what a person may do to one.

use std::sync::Arc;

use posthorn_domain::audit::{Actor, Stamp};
use posthorn_domain::delivery::{Attempt, Delivery, DeliveryStatus, WaitingFor};
use posthorn_domain::id::{DeliveryId, Sequence, SubscriptionId};
use posthorn_domain::payload::Payload;
use posthorn_domain::subscription::SubscriptionStatus;
use posthorn_domain::tenant::Tenant;
use posthorn_domain::views::DeliveryFilter;
use uuid::Uuid;

use super::changes::to_its_end;
use super::{Access, Error, Inner, Missing, Service, Transition};
use crate::dispatch::{Accepted, IngestError};
use crate::store::{self, Change, Replayed};

/// A delivery, with why it is not being sent right now; no reason where it is finished.
pub type Explained = (Delivery, Option<WaitingFor>);

impl Service {
    /// One page of a subscription's deliveries, the newest first, and where the next one begins.
    pub async fn list_deliveries(
        &self,
        access: &Access,
        id: SubscriptionId,
        filter: &DeliveryFilter,
        limit: u32,
    ) -> Result<(Vec<Explained>, Option<Sequence>), Error> {
        let store = self.0.read(access).await?;
        self.0.subscription(access, id).await?;
        let found = store.list_deliveries(id, filter, limit).await?;
        let waiting = self.0.waiting_for(id, &found.items).await?;
        Ok((found.items.into_iter().zip(waiting).collect(), found.go_on_before))
    }

    /// A delivery.
    pub async fn delivery(&self, access: &Access, id: DeliveryId) -> Result<Explained, Error> {
        let store = self.0.read(access).await?;
        self.0.check_delivery(access, id).await?;
        self.0.explained(there(store.delivery(id).await?)?).await
    }

    /// A delivery with its attempts, the oldest first.
    pub async fn delivery_with_attempts(
        &self,
        access: &Access,
        id: DeliveryId,
    ) -> Result<(Explained, Vec<Attempt>), Error> {
        let store = self.0.read(access).await?;
        self.0.check_delivery(access, id).await?;
        let delivery = there(store.delivery(id).await?)?;
        let attempts = store.attempts_of_delivery(id).await?;
        Ok((self.0.explained(delivery).await?, attempts))
    }

    /// A subscription's attempts, the newest first.
    pub async fn attempts(
        &self,
        access: &Access,
        id: SubscriptionId,
        limit: u32,
    ) -> Result<Vec<Attempt>, Error> {
        let store = self.0.read(access).await?;
        self.0.subscription(access, id).await?;
        Ok(store.attempts_of_subscription(id, limit).await?)
    }

    /// What a delivery sends.
    pub async fn payload(&self, access: &Access, id: DeliveryId) -> Result<Payload, Error> {
        let store = self.0.read(access).await?;
        self.0.check_delivery(access, id).await?;
        there(store.payload(id).await?)
    }

    /// Makes a delivery that waits for its retry due now; one that is due stays as it is.
    pub async fn retry(&self, access: &Access, id: DeliveryId) -> Result<Explained, Error> {
        let (delivery, tenant) = self.0.unfinished(access, id).await?;
        let waits = delivery.status == DeliveryStatus::FailedAttempt
            && delivery.next_attempt_at.is_some_and(|due| due > self.0.clock.now());
        if !waits {
            return self.0.explained(delivery).await;
        }
        let permit = self.0.changes.permit(&tenant).await?;
        let (inner, stamp) = (Arc::clone(&self.0), self.0.stamp(access.actor()));
        let change = to_its_end(permit, async move {
            let change = inner.store.retry_delivery(id, stamp).await?;
            if let Change::Done(delivery) = &change {
                inner.dispatch.due(delivery);
            }
            Ok(change)
        });
        self.0.explained(done(change.await?)?).await
    }

    /// Ends an unfinished delivery `failed`; a lane that was paused by it goes on.
    pub async fn skip(&self, access: &Access, id: DeliveryId) -> Result<Explained, Error> {
        let (_, tenant) = self.0.unfinished(access, id).await?;
        let permit = self.0.changes.permit(&tenant).await?;
        let (inner, stamp) = (Arc::clone(&self.0), self.0.stamp(access.actor()));
        let change = to_its_end(permit, async move {
            let change = inner.store.skip_delivery(id, stamp).await?;
            if let Change::Done(delivery) = &change {
                inner.dispatch.skipped(delivery);
                inner.resume_after_skip(stamp.by, delivery).await?;
            }
            Ok(change)
        });
        self.0.explained(done(change.await?)?).await
    }

    /// Puts a delivery's event at the end of the line once more. Counts as handed in.
    ///
    /// May be dropped: the replay is then stored or not.
    pub async fn replay(&self, access: &Access, id: DeliveryId) -> Result<Accepted, Error> {
        let tenant = self.0.tenant_of_delivery(access, id).await?;
        self.0.dispatch.take_ingest(&tenant).await?;
        let permit = self.0.changes.permit(&tenant).await?;
        let (inner, stamp) = (Arc::clone(&self.0), self.0.stamp(access.actor()));
        let new = DeliveryId(Uuid::now_v7());
        match to_its_end(permit, async move { inner.make_replay(id, new, stamp).await }).await? {
            Replayed::Stored(delivery) => Ok(Accepted { delivery_id: delivery.id, replayed: false }),
            Replayed::NotFound => Err(Error::NotFound(Missing::Delivery)),
            Replayed::SubscriptionDeleted => Err(Error::SubscriptionDeleted),
            Replayed::BacklogFull(_) => Err(IngestError::BACKLOG_FULL.into()),
        }
    }
}

impl Inner {
    /// Whose a delivery is, where it is there for who asks. Those of a deleted subscription are still its tenant's.
    async fn tenant_of_delivery(&self, access: &Access, id: DeliveryId) -> Result<Tenant, Error> {
        let tenant = self.store.tenant_of_delivery(id).await?;
        there(tenant.filter(|tenant| access.sees(tenant)))
    }

    /// Refuses a delivery that is not there for who asks. Nothing is read for who sees everything.
    async fn check_delivery(&self, access: &Access, id: DeliveryId) -> Result<(), Error> {
        if access.is_admin() { Ok(()) } else { self.tenant_of_delivery(access, id).await.map(drop) }
    }

    /// An unfinished delivery that is there for who asks, and whose it is.
    async fn unfinished(&self, access: &Access, id: DeliveryId) -> Result<(Delivery, Tenant), Error> {
        let tenant = self.tenant_of_delivery(access, id).await?;
        let delivery = there(self.store.delivery(id).await?)?;
        if delivery.status.is_finished() { Err(Error::Finished) } else { Ok((delivery, tenant)) }
    }

    async fn explained(&self, delivery: Delivery) -> Result<Explained, Error> {
        let waiting = self.waiting_for(delivery.subscription_id, std::slice::from_ref(&delivery)).await?;
        Ok((delivery, waiting.into_iter().next().flatten()))
    }

    /// A lane that the skipped delivery paused goes on.
    async fn resume_after_skip(&self, by: Actor, skipped: &Delivery) -> Result<(), store::Error> {
        use posthorn_domain::subscription::StatusReason::RetriesExhausted;
        let id = skipped.subscription_id;
        let Some(subscription) = self.caches.subscription(id).await? else { return Ok(()) };
        let by_retries = subscription.status == SubscriptionStatus::Paused
            && subscription.status_reason == Some(RetriesExhausted);
        if by_retries && skipped.attempt_count > 0 {
            let resume = Transition::Resume;
            self.make(by, resume.action(), id, resume.change()).await?;
        }
        Ok(())
    }

    /// Stores a replay, once more after its lane was counted where that seemed to be full, and tells its lane. Not to be
    /// dropped half-way.
    async fn make_replay(
        &self,
        id: DeliveryId,
        new: DeliveryId,
        stamp: Stamp,
    ) -> Result<Replayed, store::Error> {
        let store = || self.store.replay_delivery(id, new, self.dispatch.settings().backlog_max, stamp);
        let mut replayed = store().await?;
        if let Replayed::BacklogFull(lane) = replayed
            && self.dispatch.recount(lane).await?
        {
            replayed = store().await?;
        }
        if let Replayed::Stored(delivery) = &replayed
            && let Some(subscription) = self.caches.subscription(delivery.subscription_id).await?
        {
            self.dispatch.added(subscription.tenant.clone(), delivery);
        }
        Ok(replayed)
    }
}

fn there<T>(found: Option<T>) -> Result<T, Error> {
    found.ok_or(Error::NotFound(Missing::Delivery))
}

fn done(change: Change) -> Result<Delivery, Error> {
    match change {
        Change::Done(delivery) => Ok(delivery),
        Change::Finished => Err(Error::Finished),
        Change::NotFound => Err(Error::NotFound(Missing::Delivery)),
    }
}
