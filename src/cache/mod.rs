//! What was read or written a moment ago, so that it need not be read again.
//!
//! Everything here can be lost at any time: a miss is a read of the store. Both caches are bounded,
//! payloads by their bytes.
//!
//! What is kept of a subscription is never older than what the store shows: while something other than
//! a person changes it, it is *in doubt* and read from the store.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use moka::future::Cache;
use moka::ops::compute::Op;
use posthorn_domain::id::{EventId, SubscriptionId};
use posthorn_domain::subscription::Subscription;

use crate::store::{Error, Payload, Store};

/// Payloads of events that were just accepted: some thousands of them, sent in a moment.
const PAYLOAD_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What an entry costs beside its bytes.
const PAYLOAD_OVERHEAD_BYTES: usize = 200;
/// Subscriptions that take in or send now, at a KiB or two each.
const SUBSCRIPTIONS_MAX: u64 = 20_000;

/// The caches in front of the store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Caches {
    store: Store,
    payloads: Cache<EventId, Arc<Payload>>,
    subscriptions: Cache<SubscriptionId, Arc<Subscription>>,
    doubt: Arc<Doubt>,
}

#[derive(Debug, Default)]
struct Doubt {
    ids: RwLock<HashSet<SubscriptionId>>,
    /// Grows with each doubt, so that what was read before one is not kept after it.
    count: AtomicU64,
}

impl Caches {
    /// Empty caches in front of `store`.
    #[must_use]
    pub fn new(store: Store) -> Self {
        let weight = |_: &EventId, payload: &Arc<Payload>| {
            u32::try_from(payload.bytes.len() + payload.content_type.len() + PAYLOAD_OVERHEAD_BYTES)
                .unwrap_or(u32::MAX)
        };
        Self {
            store,
            payloads: Cache::builder().max_capacity(PAYLOAD_BYTES_MAX).weigher(weight).build(),
            subscriptions: Cache::builder().max_capacity(SUBSCRIPTIONS_MAX).build(),
            doubt: Arc::default(),
        }
    }

    /// Keeps a payload that will be sent soon.
    pub async fn keep_payload(&self, id: EventId, payload: Payload) {
        // What came in is a piece of its connection's buffer and would keep all of that alive, which
        // the cache's bound knows nothing of: 512 MiB were held by 64 MiB of 1 KiB payloads.
        let bytes = Bytes::copy_from_slice(&payload.bytes);
        self.payloads.insert(id, Arc::new(Payload { bytes, ..payload })).await;
    }

    /// A payload, from the store where it is not at hand; none where retention removed it.
    pub async fn payload(&self, id: EventId) -> Result<Option<Arc<Payload>>, Error> {
        if let Some(payload) = self.payloads.get(&id).await {
            return Ok(Some(payload));
        }
        Ok(self.store.event_payload(id).await?.map(Arc::new))
    }

    /// Forgets a payload that was delivered.
    pub async fn forget_payload(&self, id: EventId) {
        self.payloads.invalidate(&id).await;
    }

    /// A subscription; none where it is not there.
    pub async fn subscription(&self, id: SubscriptionId) -> Result<Option<Arc<Subscription>>, Error> {
        let doubts = self.doubt.count.load(Ordering::Acquire);
        let in_doubt = self.is_in_doubt(id);
        if !in_doubt && let Some(subscription) = self.subscriptions.get(&id).await {
            return Ok(Some(subscription));
        }
        let Some(view) = self.store.subscription_view(id).await? else { return Ok(None) };
        if in_doubt || self.doubt.count.load(Ordering::Acquire) != doubts {
            return Ok(Some(Arc::new(view.subscription)));
        }
        Ok(Some(self.keep_subscription(view.subscription).await))
    }

    /// Reads these from the store until they are [trusted](Self::trust) again: a change of them is about
    /// to be committed, and whoever has seen it there must not be answered from before.
    ///
    /// Of none costs nothing, and keeps nothing from being kept.
    pub fn doubt(&self, ids: &[SubscriptionId]) {
        if ids.is_empty() {
            return;
        }
        self.doubt.ids.write().unwrap_or_else(PoisonError::into_inner).extend(ids);
        self.doubt.count.fetch_add(1, Ordering::AcqRel);
    }

    /// The change of these is committed, or did not come about.
    pub async fn trust(&self, ids: &[SubscriptionId]) {
        if ids.is_empty() {
            return;
        }
        for id in ids {
            self.forget_subscription(*id).await;
        }
        let mut doubted = self.doubt.ids.write().unwrap_or_else(PoisonError::into_inner);
        doubted.retain(|id| !ids.contains(id));
    }

    fn is_in_doubt(&self, id: SubscriptionId) -> bool {
        self.doubt.ids.read().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    /// Keeps a subscription, unless a newer copy is there; returns the newer of the two.
    pub async fn keep_subscription(&self, subscription: Subscription) -> Arc<Subscription> {
        let subscription = Arc::new(subscription);
        let newer = Arc::clone(&subscription);
        let result = self
            .subscriptions
            .entry(subscription.id)
            .and_compute_with(async |entry| match entry {
                Some(entry) if entry.value().version >= newer.version => Op::Nop,
                _ => Op::Put(newer),
            })
            .await;
        result.into_entry().map_or(subscription, moka::Entry::into_value)
    }

    /// Forgets a subscription.
    pub async fn forget_subscription(&self, id: SubscriptionId) {
        self.subscriptions.invalidate(&id).await;
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::store::Settings;

    #[tokio::test]
    async fn a_kept_payload_keeps_nothing_else_alive() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("posthorn.db").display());
        let caches = Caches::new(Store::connect(&Settings { url }).await.unwrap());
        let buffer = Bytes::from(vec![b' '; 1024 * 1024]);
        let id = EventId(Uuid::now_v7());
        let payload = Payload { content_type: "application/json".to_owned(), bytes: buffer.slice(..10) };
        caches.keep_payload(id, payload).await;
        assert_eq!(caches.payload(id).await.unwrap().unwrap().bytes, [b' '; 10].as_slice());
        assert!(buffer.is_unique(), "the buffer that it came in is held");
    }
}
