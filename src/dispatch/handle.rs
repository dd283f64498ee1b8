//! What is asked of dispatch from outside: events handed in, and what was changed told to lanes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use posthorn_domain::cluster::{Cluster, Slot};
use posthorn_domain::delivery::Delivery;
use posthorn_domain::id::{NodeId, Sequence, SubscriptionId};
use posthorn_domain::lane::{Held, Queued, Ticket};
use posthorn_domain::subscription::Subscription;
use posthorn_domain::tenant::{Quotas, Tenant, TenantSettings};
use tokio::sync::oneshot;

use super::dispatcher::DispatcherMsg;
use super::ingest_error::IngestError;
use super::{Parts, Settings};
use crate::store::Error;

/// How long an actor may take to say why it holds a delivery.
const EXPLAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// The face of dispatch. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) parts: Arc<Parts>,
}

impl Handle {
    /// A subscription was changed: this is it now.
    pub fn changed(&self, subscription: Arc<Subscription>) {
        self.parts.dispatcher.tell(DispatcherMsg::Changed(subscription));
    }

    /// A subscription was deleted.
    pub fn deleted(&self, id: SubscriptionId) {
        self.parts.dispatcher.tell(DispatcherMsg::Deleted(id));
        self.parts.deletions.begin();
    }

    /// A delivery that waited for its retry is due.
    pub fn due(&self, delivery: &Delivery) {
        let message = DispatcherMsg::RetryNow(delivery.subscription_id, delivery.sequence);
        self.parts.dispatcher.tell(message);
    }

    /// Somebody ended a delivery.
    pub fn skipped(&self, delivery: &Delivery) {
        let message = DispatcherMsg::Skipped(delivery.subscription_id, delivery.sequence);
        self.parts.dispatcher.tell(message);
    }

    /// A new delivery stands at the end of its line. All nodes were told with the commit; this spares the lane that runs
    /// here a read.
    pub fn added(&self, tenant: Tenant, delivery: &Delivery) {
        let ticket = Ticket {
            id: delivery.id,
            event_id: delivery.event_id,
            replay_of: delivery.replay_of,
            sequence: delivery.sequence,
        };
        let key = delivery.ordering_key.clone();
        let queued = Queued { ticket, key, attempt_count: 0, retry_base: 0, due: None };
        let added = vec![(delivery.subscription_id, tenant, queued)];
        self.parts.dispatcher.tell(DispatcherMsg::Accepted(added));
    }

    /// What a lane knows of its deliveries with these numbers; nothing where it does not run here, or takes long to
    /// answer.
    pub async fn held(&self, id: SubscriptionId, sequences: Vec<Sequence>) -> Vec<Option<Held>> {
        let ((reply, answer), count) = (oneshot::channel(), sequences.len());
        self.parts.dispatcher.tell(DispatcherMsg::Explain(id, sequences, reply));
        match tokio::time::timeout(EXPLAIN_TIMEOUT, answer).await {
            Ok(Ok(held)) => held,
            _ => vec![None; count],
        }
    }

    /// Whether the slot's lanes run here and may start something now.
    #[must_use]
    pub fn runs(&self, slot: Slot) -> bool {
        self.parts.leases.serves(slot) && self.parts.leases.may_start(Instant::now())
    }

    /// How dispatch is set up.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.parts.settings
    }

    /// Requests that may be in flight to a subscription's endpoint now, where its lane has found that out.
    #[must_use]
    pub fn in_flight_limit(&self, id: SubscriptionId) -> Option<u32> {
        self.parts.limits.of(id)
    }

    /// Counts a lane whose backlog seems full; whether there is room after all.
    pub async fn recount(&self, id: SubscriptionId) -> Result<bool, Error> {
        self.parts.backlogs.recount(id).await
    }

    /// A tenant's quotas, by its own settings and by the configuration.
    pub async fn quotas(&self, tenant: &Tenant) -> Result<Quotas, Error> {
        let own = self.parts.tenants.get(tenant).await?.settings().quotas;
        Ok(own.or(self.parts.settings.quotas))
    }

    /// Takes a turn of a tenant's `control_limit`, or says how long to wait for one.
    pub async fn take_call(&self, tenant: &Tenant) -> Result<Option<Duration>, Error> {
        self.parts.tenants.take_call(tenant).await
    }

    /// Takes a turn at handing something in for a tenant.
    pub async fn take_ingest(&self, tenant: &Tenant) -> Result<(), IngestError> {
        self.parts.tenants.take_ingest(tenant).await.map(drop)
    }

    /// A tenant's settings were changed to these; none: nobody knows whether they were.
    pub fn tenant_changed(&self, tenant: &Tenant, settings: Option<TenantSettings>) {
        match settings {
            Some(settings) => {
                self.parts.tenants.apply(tenant, settings);
                self.parts.admission.changed(tenant);
            }
            None => self.parts.tenants.doubt(tenant),
        }
    }

    /// Slots that no node may send for, since none can take them; 0 where all is well.
    #[must_use]
    pub fn stuck_slots(&self) -> usize {
        self.parts.membership.stuck()
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.parts.membership.node
    }

    /// The cluster where this is the only node.
    #[must_use]
    pub fn alone(&self) -> Cluster {
        self.parts.membership.alone()
    }
}
