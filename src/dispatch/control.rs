//! What the API may ask of dispatch: every change is committed first and told to its lane after.

mod deliveries;
mod events;

use posthorn_domain::circuit::{CircuitState, CircuitView};
use posthorn_domain::views::{Stats, SubscriptionView};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use posthorn_domain::audit::{Action, Actor, Stamp};
use posthorn_domain::id::{NodeId, SubscriptionId};
use posthorn_domain::rotation::Replaced;
use posthorn_domain::signature::{SIGNING_SECRET_BYTES, SigningSecret};
use posthorn_domain::subscription::{SigningSecrets, Subscription, SubscriptionConfig, SubscriptionStatus};
use posthorn_domain::tenant::Tenant;
use posthorn_domain::time::Timestamp;
use uuid::Uuid;

use super::Parts;
use super::changes::{ChangeError, ChangePermit, to_its_end};
use super::dispatcher::DispatcherMsg;
use super::reads::{Reading, ReadsBusy};
use crate::store::{Error, Store};
use posthorn_domain::cluster::Cluster;

pub use events::{Accepted, IngestError, NewEvent};

/// The face of dispatch for the API. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    pub(super) parts: Arc<Parts>,
}

/// What came of a change of a subscription's standing.
#[derive(Clone, Debug, PartialEq)]
pub enum Transition {
    /// This is the subscription now.
    Done(Box<SubscriptionView>),
    /// It is disabled, and only enabling it changes that.
    Disabled,
    /// It is paused, and only resuming it changes that.
    Paused,
    /// There is no such subscription.
    NotFound,
}

impl Control {
    pub(super) fn new(parts: Arc<Parts>) -> Self {
        Self { parts }
    }

    fn stamp(&self, by: Actor) -> Stamp {
        Stamp { by, at: self.parts.clock.now() }
    }

    /// The store, for what one request reads in the tenant's name, or an admin's. To be held as long as it reads.
    pub async fn read(&self, tenant: Option<&Tenant>) -> Result<Reading<'_>, ReadsBusy> {
        self.parts.reads.begin(&self.parts.store, tenant).await
    }

    /// The store, for what does not wait for [its turn](Self::read).
    pub fn store(&self) -> &Store {
        &self.parts.store
    }

    /// Stores a new subscription, where its tenant may have one more.
    pub async fn create(
        &self,
        by: Actor,
        tenant: Tenant,
        config: SubscriptionConfig,
    ) -> Result<SubscriptionView, ChangeError> {
        let state = self.parts.tenants.get(&tenant).await?;
        let quotas = state.settings().quotas.or(self.parts.settings.quotas);
        let permit = self.parts.changes.permit(state).await?;
        let now = self.parts.clock.now();
        let subscription = Subscription {
            id: SubscriptionId(Uuid::now_v7()),
            tenant,
            config,
            signing: SigningSecrets { current: fresh_signing_secret(), replaced: Replaced::default() },
            replaced_keys: Replaced::default(),
            unreadable: BTreeSet::new(),
            status: SubscriptionStatus::Active,
            status_reason: None,
            version: 1,
            endpoint_version: 1,
            retries_version: 1,
            created_at: now,
            updated_at: now,
        };
        let parts = Arc::clone(&self.parts);
        let created = to_its_end(permit, async move {
            let (max, stamp) = (quotas.max_subscriptions, Stamp { by, at: now });
            if !parts.store.insert_subscription(&subscription, max, stamp).await? {
                return Ok(None);
            }
            // Its first events come soon, and maybe many at once.
            parts.caches.keep_subscription(subscription.clone()).await;
            let circuit =
                CircuitView { state: CircuitState::Closed, consecutive_failures: 0, retry_at: None };
            Ok(Some(SubscriptionView { subscription, circuit }))
        });
        let max = quotas.max_subscriptions.unwrap_or(u32::MAX);
        created.await?.ok_or(ChangeError::TooManySubscriptions { max })
    }

    /// Changes what a person may set, told the time; none where the subscription is not there.
    pub async fn update(
        &self,
        by: Actor,
        id: SubscriptionId,
        change: impl Fn(&mut Subscription, Timestamp) + Send + 'static,
    ) -> Result<Option<SubscriptionView>, ChangeError> {
        let now = self.parts.clock.now();
        self.change(by, Action::SubscriptionUpdated, id, move |subscription| change(subscription, now)).await
    }

    /// Deletes a subscription; false where it is not there.
    pub async fn delete(&self, by: Actor, id: SubscriptionId) -> Result<bool, ChangeError> {
        let Some(subscription) = self.subscription(id).await? else { return Ok(false) };
        let permit = self.permit(&subscription.tenant).await?;
        let parts = Arc::clone(&self.parts);
        to_its_end(permit, async move {
            let doubts = parts.caches.doubt(&[id]).await;
            let deleted = parts.store.delete_subscription(id, Stamp { by, at: parts.clock.now() }).await;
            parts.caches.trust(doubts).await;
            if matches!(deleted, Ok(true)) {
                parts.dispatcher.tell(DispatcherMsg::Deleted(id));
                parts.deletions.begin();
            }
            deleted
        })
        .await
    }

    /// Holds deliveries from now on; events are accepted.
    pub async fn pause(&self, by: Actor, id: SubscriptionId) -> Result<Transition, ChangeError> {
        self.transition(by, Action::SubscriptionPaused, id).await
    }

    /// Ends a pause.
    pub async fn resume(&self, by: Actor, id: SubscriptionId) -> Result<Transition, ChangeError> {
        self.transition(by, Action::SubscriptionResumed, id).await
    }

    /// Ends a disablement; one that is active stays as it is.
    pub async fn enable(&self, by: Actor, id: SubscriptionId) -> Result<Transition, ChangeError> {
        self.transition(by, Action::SubscriptionEnabled, id).await
    }

    /// Takes no more events, and holds what was accepted before.
    pub async fn disable(&self, by: Actor, id: SubscriptionId) -> Result<Transition, ChangeError> {
        self.transition(by, Action::SubscriptionDisabled, id).await
    }

    async fn transition(
        &self,
        by: Actor,
        action: Action,
        id: SubscriptionId,
    ) -> Result<Transition, ChangeError> {
        let after = self.change(by, action, id, transition(action)).await?;
        let Some(after) = after else { return Ok(Transition::NotFound) };
        Ok(match after.subscription.status {
            SubscriptionStatus::Disabled if action != Action::SubscriptionDisabled => Transition::Disabled,
            SubscriptionStatus::Paused if action == Action::SubscriptionEnabled => Transition::Paused,
            SubscriptionStatus::Active | SubscriptionStatus::Paused | SubscriptionStatus::Disabled => {
                Transition::Done(Box::new(after))
            }
        })
    }

    /// Replaces the signing secret, by a fresh one where none is given; the old one signs for `overlap` more.
    pub async fn rotate_signing_secret(
        &self,
        by: Actor,
        id: SubscriptionId,
        new: Option<SigningSecret>,
        overlap: Duration,
    ) -> Result<Option<SubscriptionView>, ChangeError> {
        let (new, now) = (new.unwrap_or_else(fresh_signing_secret), self.parts.clock.now());
        self.change(by, Action::SigningSecretRotated, id, move |subscription| {
            subscription.rotate_signing_secret(new.clone(), overlap, now);
        })
        .await
    }

    /// Changes a subscription; one that is like that already stays as it is.
    async fn change(
        &self,
        by: Actor,
        action: Action,
        id: SubscriptionId,
        change: impl Fn(&mut Subscription) + Send + 'static,
    ) -> Result<Option<SubscriptionView>, ChangeError> {
        let Some(view) = self.parts.store.subscription_view(id).await? else { return Ok(None) };
        let mut wished = view.subscription.clone();
        change(&mut wished);
        if wished == view.subscription {
            return Ok(Some(view));
        }
        let permit = self.permit(&view.subscription.tenant).await?;
        let parts = Arc::clone(&self.parts);
        to_its_end(permit, async move { make(&parts, by, action, id, change).await }).await
    }

    /// The right to make a change for a tenant.
    pub(super) async fn permit(&self, tenant: &Tenant) -> Result<ChangePermit, ChangeError> {
        let state = self.parts.tenants.get(tenant).await?;
        self.parts.changes.permit(state).await
    }

    /// A subscription, mostly from the cache; none where it is not there.
    pub async fn subscription(&self, id: SubscriptionId) -> Result<Option<Arc<Subscription>>, Error> {
        self.parts.caches.subscription(id).await
    }

    /// Requests that may be in flight to a subscription's endpoint now: what its lane has found out,
    /// or where it would begin.
    #[must_use]
    pub fn in_flight_limit(&self, subscription: &Subscription) -> u32 {
        let start = subscription.config.in_flight(&self.parts.settings.defaults).start();
        self.parts.limits.of(subscription.id).unwrap_or(start)
    }

    /// The system at a glance, or a tenant's part of it.
    pub async fn stats(&self, tenant: Option<&Tenant>) -> Result<Stats, Error> {
        let now = self.parts.clock.now();
        match tenant {
            None => self.parts.store.stats(now).await,
            Some(tenant) => self.parts.caches.stats_of_tenant(tenant, now).await,
        }
    }

    /// Slots that no node may send for, since none can take them; 0 where all is well.
    pub fn stuck_slots(&self) -> usize {
        self.parts.membership.stuck()
    }

    /// This node, and all nodes with the slots that they hold.
    pub async fn cluster(&self) -> Result<(NodeId, Cluster), Error> {
        let membership = &self.parts.membership;
        let cluster =
            if self.parts.store.is_shared() { self.parts.store.cluster().await? } else { membership.alone() };
        Ok((membership.node, cluster))
    }
}

/// Makes a change of a subscription, and tells of it. Not to be dropped half-way.
async fn make(
    parts: &Parts,
    by: Actor,
    action: Action,
    id: SubscriptionId,
    change: impl Fn(&mut Subscription) + Send + 'static,
) -> Result<Option<SubscriptionView>, Error> {
    let doubts = parts.caches.doubt(&[id]).await;
    let stamp = Stamp { by, at: parts.clock.now() };
    let update = parts.store.update_subscription(id, stamp, action, change).await;
    parts.caches.trust(doubts).await;
    if let Ok(Some(update)) = &update {
        let after = parts.caches.keep_subscription(update.after.subscription.clone()).await;
        parts.dispatcher.tell(DispatcherMsg::Changed(after));
    }
    Ok(update?.map(|update| update.after))
}

/// What a person's wish makes of a subscription's standing.
fn transition(action: Action) -> impl Fn(&mut Subscription) + Send + 'static {
    use SubscriptionStatus::{Active, Disabled, Paused};
    let (from, to) = match action {
        Action::SubscriptionPaused => (&[Active][..], Paused),
        Action::SubscriptionEnabled => (&[Disabled][..], Active),
        Action::SubscriptionDisabled => (&[Active, Paused][..], Disabled),
        _ => (&[Paused][..], Active),
    };
    move |subscription| {
        // A person's wish stands over a reason of the machine's.
        if from.contains(&subscription.status) {
            subscription.status = to;
            subscription.status_reason = None;
        }
    }
}

fn fresh_signing_secret() -> SigningSecret {
    SigningSecret::from_random(rand::random::<[u8; SIGNING_SECRET_BYTES]>())
}
