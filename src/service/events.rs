//! Events handed in for one subscription.

use std::sync::Arc;

use posthorn_domain::forward::ForwardedHeaders;
use posthorn_domain::hops::Hops;
use posthorn_domain::id::SubscriptionId;
use posthorn_domain::subscription::{Subscription, SubscriptionStatus};

use super::{Access, Error, Missing, Service};
use crate::dispatch::{Accepted, NewEvent};

impl Service {
    /// The subscription that somebody without a key hands an event in for. Who asks proves with its secret that the
    /// subscription is there for him ([`Access::Ingest`]), and is told nothing of it before.
    pub async fn addressed_subscription(
        &self,
        id: SubscriptionId,
    ) -> Result<Option<Arc<Subscription>>, Error> {
        Ok(self.0.caches.subscription(id).await?)
    }

    /// Refuses an event of so many bytes that [`ingest`](Self::ingest) would refuse at once, before its bytes are
    /// checked.
    pub fn check_room(
        &self,
        access: &Access,
        subscription: &Subscription,
        bytes: usize,
    ) -> Result<(), Error> {
        check(access, subscription.id, &subscription.tenant)?;
        Ok(self.0.dispatch.check_room(&subscription.tenant, bytes)?)
    }

    /// Stores an event and its delivery, and returns once both are on disk.
    ///
    /// May be dropped: the event is then stored or not.
    pub async fn ingest(&self, access: &Access, event: NewEvent) -> Result<Accepted, Error> {
        check(access, event.subscription_id, &event.tenant)?;
        Ok(self.0.dispatch.accept(event).await?)
    }

    /// Sends a `posthorn.test` event the normal way.
    pub async fn send_test(&self, access: &Access, id: SubscriptionId) -> Result<Accepted, Error> {
        let subscription = self.0.subscription(access, id).await?;
        if subscription.status == SubscriptionStatus::Disabled {
            return Err(Error::Disabled);
        }
        let payload = serde_json::json!({
            "type": "posthorn.test",
            "timestamp": self.0.clock.now().to_string(),
            "data": { "subscription_id": id.to_string() },
        });
        let event = NewEvent {
            subscription_id: id,
            tenant: subscription.tenant.clone(),
            content_type: "application/json".to_owned(),
            payload: payload.to_string().into(),
            idempotency_key: None,
            ordering_key: None,
            hops: Hops::default(),
            forwarded: ForwardedHeaders::default(),
        };
        Ok(self.0.dispatch.accept(event).await?)
    }
}

fn check(access: &Access, id: SubscriptionId, tenant: &posthorn_domain::tenant::Tenant) -> Result<(), Error> {
    if access.may_ingest(id, tenant) { Ok(()) } else { Err(Error::NotFound(Missing::Subscription)) }
}
