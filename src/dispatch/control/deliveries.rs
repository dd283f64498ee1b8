//! What a person may do to one delivery, and why it waits.

use posthorn_domain::circuit::CircuitState;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use posthorn_domain::audit::{Action, Actor};
use posthorn_domain::cluster::Slot;
use posthorn_domain::delivery::{Delivery, DeliveryStatus, OrderingKey, WaitingFor};
use posthorn_domain::id::{DeliveryId, Sequence, SubscriptionId};
use posthorn_domain::lane::Held;
use posthorn_domain::subscription::{Ordering, Subscription, SubscriptionStatus};
use posthorn_domain::tenant::Tenant;
use posthorn_domain::waiting::{Facts, StoredCircuit};
use tokio::sync::oneshot;

use super::{Control, make, transition};
use crate::dispatch::Parts;
use crate::dispatch::changes::{ChangeError, to_its_end};
use crate::dispatch::dispatcher::DispatcherMsg;
use crate::store::{Change, Error};

/// How long an actor may take to say why it holds a delivery.
const EXPLAIN_PATIENCE: Duration = Duration::from_millis(500);

impl Control {
    /// Makes a delivery that waits for its retry due now; one that is due stays as it is.
    pub async fn retry(&self, by: Actor, id: DeliveryId) -> Result<Change, ChangeError> {
        let (delivery, tenant) = match self.unfinished(id).await? {
            Ok(found) => found,
            Err(change) => return Ok(change),
        };
        let waits = delivery.status == DeliveryStatus::FailedAttempt
            && delivery.next_attempt_at.is_some_and(|due| due > self.parts.clock.now());
        if !waits {
            return Ok(Change::Done(delivery));
        }
        let permit = self.permit(&tenant).await?;
        let (parts, stamp) = (Arc::clone(&self.parts), self.stamp(by));
        to_its_end(permit, async move {
            let change = parts.store.retry_delivery(id, stamp).await?;
            if let Change::Done(delivery) = &change {
                let message = DispatcherMsg::RetryNow(delivery.subscription_id, delivery.sequence);
                parts.dispatcher.tell(message);
            }
            Ok(change)
        })
        .await
    }

    /// Ends an unfinished delivery `failed`; a lane that was paused by it goes on.
    pub async fn skip(&self, by: Actor, id: DeliveryId) -> Result<Change, ChangeError> {
        let (_, tenant) = match self.unfinished(id).await? {
            Ok(found) => found,
            Err(change) => return Ok(change),
        };
        let permit = self.permit(&tenant).await?;
        let (parts, stamp) = (Arc::clone(&self.parts), self.stamp(by));
        to_its_end(permit, async move {
            let change = parts.store.skip_delivery(id, stamp).await?;
            if let Change::Done(delivery) = &change {
                let message = DispatcherMsg::Skipped(delivery.subscription_id, delivery.sequence);
                parts.dispatcher.tell(message);
                resume_after_skip(&parts, by, delivery).await?;
            }
            Ok(change)
        })
        .await
    }

    /// An unfinished delivery, and whose it is; else what a change of it comes to.
    async fn unfinished(&self, id: DeliveryId) -> Result<Result<(Delivery, Tenant), Change>, Error> {
        let store = &self.parts.store;
        let Some(delivery) = store.delivery(id).await? else { return Ok(Err(Change::NotFound)) };
        if delivery.status.is_finished() {
            return Ok(Err(Change::Finished));
        }
        let tenant = store.tenant_of_delivery(id).await?;
        Ok(tenant.map(|tenant| (delivery, tenant)).ok_or(Change::NotFound))
    }

    /// Why each of `deliveries`, all of one subscription, is not being sent right now; none for
    /// those that are finished.
    pub async fn waiting_for(
        &self,
        id: SubscriptionId,
        deliveries: &[Delivery],
    ) -> Result<Vec<Option<WaitingFor>>, Error> {
        if deliveries.iter().all(|delivery| delivery.status.is_finished()) {
            return Ok(vec![None; deliveries.len()]);
        }
        let Some(view) = self.parts.store.subscription_view(id).await? else {
            return Ok(vec![None; deliveries.len()]);
        };
        let held = self.held(id, deliveries).await;
        let slot = Slot::of(id);
        let is_here = self.parts.leases.serves(slot) && self.parts.leases.may_start(Instant::now());
        let has_owner = is_here || self.parts.store.is_owned(slot).await?;
        let mut lines = Lines::default();
        let mut reasons = Vec::with_capacity(deliveries.len());
        for (delivery, held) in deliveries.iter().zip(held) {
            let mut facts = Facts {
                status: delivery.status,
                due: delivery.next_attempt_at,
                standing: view.subscription.standing().0,
                earlier: None,
                circuit: match view.circuit.state {
                    CircuitState::Closed => StoredCircuit::Closed,
                    CircuitState::Open | CircuitState::HalfOpen => StoredCircuit::Open(view.circuit.retry_at),
                },
                held,
                has_owner,
            };
            if facts.depend_on_its_line() {
                facts.earlier = self.earlier(&view.subscription, delivery, &mut lines).await?;
            }
            let clock = self.parts.clock;
            reasons.push(facts.explain(clock.now(), |at| clock.timestamp(at)));
        }
        Ok(reasons)
    }

    /// What the lane itself knows of each delivery.
    async fn held(&self, id: SubscriptionId, deliveries: &[Delivery]) -> Vec<Option<Held>> {
        let (reply, answer) = oneshot::channel();
        let sequences = deliveries.iter().map(|delivery| delivery.sequence).collect();
        self.parts.dispatcher.tell(DispatcherMsg::Explain(id, sequences, reply));
        match tokio::time::timeout(EXPLAIN_PATIENCE, answer).await {
            Ok(Ok(held)) => held,
            _ => vec![None; deliveries.len()],
        }
    }

    /// The earlier delivery that `delivery` has to wait for.
    async fn earlier(
        &self,
        subscription: &Subscription,
        delivery: &Delivery,
        lines: &mut Lines,
    ) -> Result<Option<Sequence>, Error> {
        let key = match (subscription.config.ordering, &delivery.ordering_key) {
            (Ordering::Strict, _) => None,
            (Ordering::Key, Some(key)) => Some(key.clone()),
            (Ordering::Key, None) | (Ordering::None, _) => return Ok(None),
        };
        let first = if let Some(first) = lines.get(&key) {
            *first
        } else {
            let first = self.parts.store.first_unfinished(subscription.id, key.as_ref()).await?;
            lines.insert(key, first);
            first
        };
        Ok(first.filter(|first| *first < delivery.sequence))
    }
}

/// The earliest unfinished delivery of each line, asked for once: many of a page stand in the same.
type Lines = BTreeMap<Option<OrderingKey>, Option<Sequence>>;

/// A lane that the skipped delivery paused goes on.
async fn resume_after_skip(parts: &Arc<Parts>, by: Actor, skipped: &Delivery) -> Result<(), Error> {
    use posthorn_domain::subscription::StatusReason::RetriesExhausted;
    let id = skipped.subscription_id;
    let Some(subscription) = parts.caches.subscription(id).await? else { return Ok(()) };
    let by_retries = subscription.status == SubscriptionStatus::Paused
        && subscription.status_reason == Some(RetriesExhausted);
    if by_retries && skipped.attempt_count > 0 {
        let action = Action::SubscriptionResumed;
        make(parts, by, action, id, transition(action)).await?;
    }
    Ok(())
}
