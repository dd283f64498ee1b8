//! Why a delivery is not being sent right now.

use std::collections::BTreeMap;

use posthorn_domain::circuit::CircuitState;
use posthorn_domain::cluster::Slot;
use posthorn_domain::delivery::{Delivery, OrderingKey, WaitingFor};
use posthorn_domain::id::{Sequence, SubscriptionId};
use posthorn_domain::subscription::{Ordering, Subscription};
use posthorn_domain::waiting::{Facts, StoredCircuit};

use super::Inner;
use crate::store::Error;

impl Inner {
    /// Why each of `deliveries`, all of one subscription, is not being sent right now; none for
    /// those that are finished.
    pub(super) async fn waiting_for(
        &self,
        id: SubscriptionId,
        deliveries: &[Delivery],
    ) -> Result<Vec<Option<WaitingFor>>, Error> {
        if deliveries.iter().all(|delivery| delivery.status.is_finished()) {
            return Ok(vec![None; deliveries.len()]);
        }
        let Some(view) = self.store.subscription_view(id).await? else {
            return Ok(vec![None; deliveries.len()]);
        };
        let held =
            self.dispatch.held(id, deliveries.iter().map(|delivery| delivery.sequence).collect()).await;
        let slot = Slot::of(id);
        let has_owner = self.dispatch.runs(slot) || self.store.is_owned(slot).await?;
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
            let clock = self.clock;
            reasons.push(facts.explain(clock.now(), |at| clock.timestamp(at)));
        }
        Ok(reasons)
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
            let first = self.store.first_unfinished(subscription.id, key.as_ref()).await?;
            lines.insert(key, first);
            first
        };
        Ok(first.filter(|first| *first < delivery.sequence))
    }
}

/// The earliest unfinished delivery of each line, asked for once: many of a page stand in the same.
type Lines = BTreeMap<Option<OrderingKey>, Option<Sequence>>;
