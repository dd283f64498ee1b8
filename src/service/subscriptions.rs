//! Subscriptions: made, read, changed, held and deleted.

use std::sync::Arc;
use std::time::Duration;

use posthorn_domain::api_key::Scope;
use posthorn_domain::audit::{Action, Actor, Stamp};
use posthorn_domain::circuit::{CircuitState, CircuitView};
use posthorn_domain::id::SubscriptionId;
use posthorn_domain::signature::{SIGNING_SECRET_BYTES, SigningSecret};
use posthorn_domain::subscription::{Subscription, SubscriptionConfig, SubscriptionStatus};
use posthorn_domain::tenant::Tenant;
use posthorn_domain::time::Timestamp;
use posthorn_domain::views::{Page, SubscriptionFilter, SubscriptionView};
use uuid::Uuid;

use super::changes::to_its_end;
use super::{Access, Error, Inner, Missing, Service};
use crate::store;

/// A change of what a subscription may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// Deliveries are held from now on; events are accepted.
    Pause,
    /// A pause ends.
    Resume,
    /// A disablement ends; one that is active stays as it is.
    Enable,
    /// No more events are taken, and what was accepted before is held.
    Disable,
}

impl Service {
    /// Stores a new subscription, where its tenant may have one more.
    pub async fn create_subscription(
        &self,
        access: &Access,
        tenant: Tenant,
        config: SubscriptionConfig,
    ) -> Result<SubscriptionView, Error> {
        access.check_known()?;
        if !access.sees(&tenant) {
            return Err(Error::Forbidden);
        }
        let inner = Arc::clone(&self.0);
        let quotas = inner.dispatch.quotas(&tenant).await?;
        let permit = inner.changes.permit(&tenant).await?;
        let stamp = inner.stamp(access.actor());
        let id = SubscriptionId(Uuid::now_v7());
        let subscription = Subscription::new(id, tenant, config, fresh_signing_secret(), stamp.at);
        let created = to_its_end(permit, async move {
            let max = quotas.max_subscriptions;
            if !inner.store.insert_subscription(&subscription, max, stamp).await? {
                return Ok(None);
            }
            // Its first events come soon, and maybe many at once.
            inner.caches.keep_subscription(subscription.clone()).await;
            let circuit =
                CircuitView { state: CircuitState::Closed, consecutive_failures: 0, retry_at: None };
            Ok(Some(SubscriptionView { subscription, circuit }))
        });
        let max = quotas.max_subscriptions.unwrap_or(u32::MAX);
        created.await?.ok_or(Error::TooManySubscriptions { max })
    }

    /// One page of the subscriptions that are there, the newest first.
    pub async fn list_subscriptions(
        &self,
        access: &Access,
        filter: SubscriptionFilter,
        page: u32,
        limit: u32,
    ) -> Result<Page<SubscriptionView>, Error> {
        let store = self.0.read(access).await?;
        let tenant = match access.scope().narrowed(filter.tenant.as_ref()) {
            Scope::All => None,
            Scope::Tenant(own) => Some(own.clone()),
            Scope::Nothing => return Ok(Page::default()),
        };
        Ok(store.list_subscriptions(&SubscriptionFilter { tenant, ..filter }, page, limit).await?)
    }

    /// A subscription with what people are shown beside it.
    pub async fn subscription_view(
        &self,
        access: &Access,
        id: SubscriptionId,
    ) -> Result<SubscriptionView, Error> {
        let store = self.0.read(access).await?;
        seen(access, store.subscription_view(id).await?)
    }

    /// A subscription, mostly from the cache.
    pub async fn subscription(
        &self,
        access: &Access,
        id: SubscriptionId,
    ) -> Result<Arc<Subscription>, Error> {
        self.0.subscription(access, id).await
    }

    /// A subscription whose deliveries anybody may verify, by public keys; it is there for everybody.
    pub async fn verifiable_subscription(&self, id: SubscriptionId) -> Result<Arc<Subscription>, Error> {
        let found = self.0.caches.subscription(id).await?;
        there(found.filter(|found| found.config.asymmetric_signature))
    }

    /// Changes what a person may set, told the time.
    pub async fn update_subscription(
        &self,
        access: &Access,
        id: SubscriptionId,
        change: impl Fn(&mut Subscription, Timestamp) + Send + 'static,
    ) -> Result<SubscriptionView, Error> {
        let now = self.0.clock.now();
        let change = move |subscription: &mut Subscription| change(subscription, now);
        self.change(access, Action::SubscriptionUpdated, id, change).await
    }

    /// Deletes a subscription.
    pub async fn delete_subscription(&self, access: &Access, id: SubscriptionId) -> Result<(), Error> {
        let subscription = self.0.subscription(access, id).await?;
        let permit = self.0.changes.permit(&subscription.tenant).await?;
        let (inner, stamp) = (Arc::clone(&self.0), self.0.stamp(access.actor()));
        let deleted = to_its_end(permit, async move {
            let doubts = inner.caches.doubt(&[id]).await;
            let deleted = inner.store.delete_subscription(id, stamp).await;
            inner.caches.trust(doubts).await;
            if matches!(deleted, Ok(true)) {
                inner.dispatch.deleted(id);
            }
            deleted
        });
        there(deleted.await?.then_some(()))
    }

    /// Changes what a subscription may do.
    pub async fn transition(
        &self,
        access: &Access,
        transition: Transition,
        id: SubscriptionId,
    ) -> Result<SubscriptionView, Error> {
        let after = self.change(access, transition.action(), id, transition.change()).await?;
        match (after.subscription.status, transition) {
            (SubscriptionStatus::Disabled, Transition::Pause | Transition::Resume | Transition::Enable) => {
                Err(Error::Disabled)
            }
            (SubscriptionStatus::Paused, Transition::Enable) => Err(Error::Paused),
            _ => Ok(after),
        }
    }

    /// Replaces the signing secret, by a fresh one where none is given; the old one signs for `overlap` more.
    pub async fn rotate_signing_secret(
        &self,
        access: &Access,
        id: SubscriptionId,
        new: Option<SigningSecret>,
        overlap: Duration,
    ) -> Result<SubscriptionView, Error> {
        let (new, now) = (new.unwrap_or_else(fresh_signing_secret), self.0.clock.now());
        self.change(access, Action::SigningSecretRotated, id, move |subscription| {
            subscription.rotate_signing_secret(new.clone(), overlap, now);
        })
        .await
    }

    /// Requests that may be in flight to a subscription's endpoint now: what its lane has found out,
    /// or where it would begin.
    #[must_use]
    pub fn in_flight_limit(&self, subscription: &Subscription) -> u32 {
        let start = subscription.config.in_flight(&self.0.dispatch.settings().defaults).start();
        self.0.dispatch.in_flight_limit(subscription.id).unwrap_or(start)
    }

    /// Changes a subscription; one that is like that already stays as it is.
    async fn change(
        &self,
        access: &Access,
        action: Action,
        id: SubscriptionId,
        change: impl Fn(&mut Subscription) + Send + 'static,
    ) -> Result<SubscriptionView, Error> {
        let view = seen(access, self.0.store.subscription_view(id).await?)?;
        let mut wished = view.subscription.clone();
        change(&mut wished);
        if wished == view.subscription {
            return Ok(view);
        }
        let permit = self.0.changes.permit(&view.subscription.tenant).await?;
        let (inner, by) = (Arc::clone(&self.0), access.actor());
        there(to_its_end(permit, async move { inner.make(by, action, id, change).await }).await?)
    }
}

impl Inner {
    /// The subscription, where it is there for who asks.
    pub(super) async fn subscription(
        &self,
        access: &Access,
        id: SubscriptionId,
    ) -> Result<Arc<Subscription>, Error> {
        let found = self.caches.subscription(id).await?;
        there(found.filter(|found| access.sees(&found.tenant)))
    }

    /// Makes a change of a subscription, and tells of it; none where it is not there. Not to be dropped half-way.
    pub(super) async fn make(
        &self,
        by: Actor,
        action: Action,
        id: SubscriptionId,
        change: impl Fn(&mut Subscription) + Send + 'static,
    ) -> Result<Option<SubscriptionView>, store::Error> {
        let doubts = self.caches.doubt(&[id]).await;
        let stamp = Stamp { by, at: self.clock.now() };
        let update = self.store.update_subscription(id, stamp, action, change).await;
        self.caches.trust(doubts).await;
        if let Ok(Some(update)) = &update {
            let after = self.caches.keep_subscription(update.after.subscription.clone()).await;
            self.dispatch.changed(after);
        }
        Ok(update?.map(|update| update.after))
    }
}

impl Transition {
    pub(super) const fn action(self) -> Action {
        match self {
            Self::Pause => Action::SubscriptionPaused,
            Self::Resume => Action::SubscriptionResumed,
            Self::Enable => Action::SubscriptionEnabled,
            Self::Disable => Action::SubscriptionDisabled,
        }
    }

    /// What a person's wish makes of a subscription.
    pub(super) fn change(self) -> impl Fn(&mut Subscription) + Send + 'static {
        use SubscriptionStatus::{Active, Disabled, Paused};
        let (from, to) = match self {
            Self::Pause => (&[Active][..], Paused),
            Self::Resume => (&[Paused][..], Active),
            Self::Enable => (&[Disabled][..], Active),
            Self::Disable => (&[Active, Paused][..], Disabled),
        };
        move |subscription| {
            // A person's wish stands over a reason of the machine's.
            if from.contains(&subscription.status) {
                subscription.status = to;
                subscription.status_reason = None;
            }
        }
    }
}

/// The subscription, where it is there for who asks.
fn seen(access: &Access, found: Option<SubscriptionView>) -> Result<SubscriptionView, Error> {
    there(found.filter(|view| access.sees(&view.subscription.tenant)))
}

fn there<T>(found: Option<T>) -> Result<T, Error> {
    found.ok_or(Error::NotFound(Missing::Subscription))
}

fn fresh_signing_secret() -> SigningSecret {
    SigningSecret::from_random(rand::random::<[u8; SIGNING_SECRET_BYTES]>())
}
