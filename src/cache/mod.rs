//! What was read or written a moment ago, so that it need not be read again.
//!
//! Everything here can be lost at any time: a miss is a read of the store. What is in memory is bounded,
//! payloads by their bytes. Behind it stands what the nodes share through Redis (`shared.rs`), where there is
//! one.
//!
//! What is kept of a subscription is never older than what the store shows: while something other than
//! a person changes it, it is *in doubt* and read from the store.

mod redis;
mod shared;
mod tallies;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use moka::future::Cache;
use moka::ops::compute::Op;
use posthorn_domain::id::{EventId, SubscriptionId};
use posthorn_domain::payload::Payload;
use posthorn_domain::subscription::{RateLimit, Subscription};
use posthorn_domain::tenant::{Tenant, TenantSettings};
use posthorn_domain::time::Timestamp;
use posthorn_domain::views::Stats;

use crate::store::shared_cache::{decode_tenant, encode_tenant};
use crate::store::{Error, Store};

pub use shared::{Bucket, Turns};

use redis::Redis;
use shared::{Key, Marks, Shared};
use tallies::Tallies;

/// Payloads of events that were just accepted: some thousands of them, sent in a moment.
const PAYLOAD_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What an entry costs beside its bytes.
const PAYLOAD_OVERHEAD_BYTES: usize = 200;
/// Subscriptions that take in or send now, at a KiB or two each.
const SUBSCRIPTIONS_MAX: u64 = 20_000;
/// How old a subscription gets here: the last bound, should a change not be heard of.
const SUBSCRIPTION_AGE_MAX: Duration = Duration::from_mins(1);

/// The caches in front of the store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Caches {
    store: Store,
    payloads: Cache<EventId, Arc<Payload>>,
    subscriptions: Cache<SubscriptionId, Arc<Subscription>>,
    tallies: Tallies,
    doubt: Arc<Doubt>,
    /// What others change is heard of; else every subscription is in doubt.
    hears: Arc<AtomicBool>,
    /// None where there is one process only.
    shared: Option<Arc<Shared>>,
}

/// What is not to be answered from before, from [`Caches::doubt`] to [`Caches::trust`].
#[must_use = "it is to be trusted again"]
#[derive(Debug)]
pub struct Doubts {
    ids: Vec<SubscriptionId>,
    marks: Option<Marks>,
}

#[derive(Debug, Default)]
struct Doubt {
    /// With how many changes of each are under way.
    ids: RwLock<HashMap<SubscriptionId, u32>>,
    /// Grows with each doubt, so that what was read before one is not kept after it.
    count: AtomicU64,
}

impl Doubt {
    fn begin(&self, ids: &[SubscriptionId]) {
        let mut doubted = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        for id in ids {
            *doubted.entry(*id).or_default() += 1;
        }
    }

    fn end(&self, ids: &[SubscriptionId]) {
        let mut doubted = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        for id in ids {
            let left = doubted.remove(id).unwrap_or_default();
            if left > 1 {
                doubted.insert(*id, left - 1);
            }
        }
    }

    fn is_of(&self, id: SubscriptionId) -> bool {
        self.ids.read().unwrap_or_else(PoisonError::into_inner).contains_key(&id)
    }
}

impl Caches {
    /// Empty caches in front of `store`, and what the nodes share through the Redis at `redis_url`.
    pub fn new(store: Store, redis_url: Option<&str>) -> Result<Self, Error> {
        let unusable = |reason| Error::Unusable(format!("REDIS_URL: {reason}"));
        let shared = match redis_url {
            _ if !store.is_shared() => None,
            Some(url) => Some(Shared::new(Some(Redis::connect(url).map_err(unusable)?), store.clone())),
            None => Some(Shared::new(None, store.clone())),
        };
        let weight = |_: &EventId, payload: &Arc<Payload>| {
            let texts = payload.content_type.len() + payload.forwarded.weight();
            u32::try_from(payload.bytes.len() + texts + PAYLOAD_OVERHEAD_BYTES).unwrap_or(u32::MAX)
        };
        Ok(Self {
            store,
            payloads: Cache::builder().max_capacity(PAYLOAD_BYTES_MAX).weigher(weight).build(),
            subscriptions: Cache::builder()
                .max_capacity(SUBSCRIPTIONS_MAX)
                .time_to_live(SUBSCRIPTION_AGE_MAX)
                .build(),
            tallies: Tallies::new(),
            doubt: Arc::default(),
            hears: Arc::new(AtomicBool::new(true)),
            shared: shared.map(Arc::new),
        })
    }

    /// Looks after what is shared. Does not return.
    pub async fn watch(&self) {
        match &self.shared {
            Some(shared) => shared.watch().await,
            None => std::future::pending().await,
        }
    }

    /// Whether what other processes change is heard of. While it is not, subscriptions are read from the
    /// store.
    pub async fn hear(&self, hears: bool) {
        self.hears.store(false, Ordering::Release);
        self.find_shared().await;
        self.hears.store(hears, Ordering::Release);
    }

    /// What is shared is kept elsewhere from now on. What was read where it was kept before may be older than
    /// the change that moved it.
    pub async fn find_shared(&self) {
        if let Some(shared) = &self.shared {
            shared.find_place().await;
        }
        self.doubt.count.fetch_add(1, Ordering::AcqRel);
        self.subscriptions.invalidate_all();
    }

    /// Another process changed a subscription.
    pub async fn changed_elsewhere(&self, id: SubscriptionId) {
        self.doubt.count.fetch_add(1, Ordering::AcqRel);
        self.forget_subscription(id).await;
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
        let in_doubt = !self.hears.load(Ordering::Acquire) || self.doubt.is_of(id);
        if !in_doubt && let Some(subscription) = self.subscriptions.get(&id).await {
            return Ok(Some(subscription));
        }
        let key = Key::Subscription(id);
        let found = self.find_shared_entry(&key, in_doubt).await;
        let known = found
            .bytes
            .as_deref()
            .and_then(|bytes| self.store.decode_subscription(bytes))
            .filter(|found| found.id == id);
        let is_shared = known.is_some();
        let subscription = match known {
            Some(subscription) => subscription,
            None => match self.store.subscription_view(id).await? {
                Some(view) => view.subscription,
                None => return Ok(None),
            },
        };
        if in_doubt || self.doubt.count.load(Ordering::Acquire) != doubts {
            return Ok(Some(Arc::new(subscription)));
        }
        if !is_shared && let Ok(bytes) = self.store.encode_subscription(&subscription) {
            self.share(found.place, subscription.version, bytes);
        }
        let kept = self.keep_subscription(subscription).await;
        // A change that was told of between that look and this keeping found nothing to forget.
        if self.doubt.count.load(Ordering::Acquire) != doubts {
            self.forget_subscription(id).await;
        }
        Ok(Some(kept))
    }

    /// A tenant's part of the statistics; where it takes long to count, as counted a while ago.
    pub async fn stats_of_tenant(&self, tenant: &Tenant, now: Timestamp) -> Result<Stats, Error> {
        self.tallies.get(tenant, self.store.stats_of_tenant(tenant, now)).await
    }

    /// What a tenant may use.
    pub async fn tenant_settings(&self, tenant: &Tenant) -> Result<TenantSettings, Error> {
        let doubts = self.doubt.count.load(Ordering::Acquire);
        let in_doubt = !self.hears.load(Ordering::Acquire);
        let found = self.find_shared_entry(&Key::Tenant(tenant.clone()), in_doubt).await;
        if let Some(settings) = found.bytes.as_deref().and_then(decode_tenant) {
            return Ok(settings);
        }
        let settings = self.store.tenant_settings(tenant).await?;
        if self.doubt.count.load(Ordering::Acquire) == doubts
            && let Ok(bytes) = encode_tenant(tenant, &settings)
        {
            self.share(found.place, settings.version, bytes);
        }
        Ok(settings)
    }

    async fn find_shared_entry(&self, key: &Key, in_doubt: bool) -> shared::Found {
        match &self.shared {
            Some(shared) if !in_doubt => shared.find(key).await,
            _ => shared::Found::NOWHERE,
        }
    }

    /// Nobody waits for it: where it comes to nothing, the next to read it tries again.
    fn share(&self, place: Option<String>, version: i64, bytes: Vec<u8>) {
        if let (Some(shared), Some(place)) = (&self.shared, place) {
            let shared = Arc::clone(shared);
            tokio::spawn(async move { shared.put(&place, version, bytes).await });
        }
    }

    /// Reads these from the store until they are [trusted](Self::trust) again: a change of them is about
    /// to be committed, and whoever has seen it there must not be answered from before.
    ///
    /// Of none costs nothing, and keeps nothing from being kept.
    pub async fn doubt(&self, ids: &[SubscriptionId]) -> Doubts {
        if ids.is_empty() {
            return Doubts { ids: Vec::new(), marks: None };
        }
        self.doubt.begin(ids);
        self.doubt.count.fetch_add(1, Ordering::AcqRel);
        let keys: Vec<_> = ids.iter().copied().map(Key::Subscription).collect();
        Doubts { ids: ids.to_vec(), marks: self.mark(&keys).await }
    }

    /// As [`doubt`](Self::doubt), of a tenant's settings.
    pub async fn doubt_tenant(&self, tenant: &Tenant) -> Doubts {
        self.doubt.count.fetch_add(1, Ordering::AcqRel);
        Doubts { ids: Vec::new(), marks: self.mark(&[Key::Tenant(tenant.clone())]).await }
    }

    async fn mark(&self, keys: &[Key]) -> Option<Marks> {
        match &self.shared {
            Some(shared) => Some(shared.mark(keys).await),
            None => None,
        }
    }

    /// The change of these is committed, or did not come about.
    pub async fn trust(&self, Doubts { ids, marks }: Doubts) {
        if let (Some(shared), Some(marks)) = (&self.shared, marks) {
            shared.unmark(marks).await;
        }
        if ids.is_empty() {
            return;
        }
        for id in &ids {
            self.forget_subscription(*id).await;
        }
        self.doubt.end(&ids);
    }

    /// Whether turns of a pace can be [had](Self::take_turns) together with the other nodes.
    pub fn has_turns(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.has_turns())
    }

    /// Takes up to `wanted` turns of a pace that all nodes keep together, and gives back some that were not
    /// used; none where Redis is not there. Another version of the limit is another pace.
    pub async fn take_turns(
        &self,
        of: (Bucket, &Tenant, i64),
        limit: RateLimit,
        wanted: u32,
        given_back: u32,
    ) -> Option<Turns> {
        self.shared.as_ref()?.take(of, limit, wanted, given_back).await
    }

    /// Keeps a subscription, unless a newer copy is there; returns the newer of the two.
    ///
    /// One of which a secret cannot be read is not kept: who mends it may be another process.
    pub async fn keep_subscription(&self, subscription: Subscription) -> Arc<Subscription> {
        let subscription = Arc::new(subscription);
        if !subscription.unreadable.is_empty() {
            return subscription;
        }
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
    use posthorn_domain::forward::ForwardedHeaders;
    use posthorn_domain::hops::Hops;
    use uuid::Uuid;

    use super::*;
    use crate::store::Settings;

    #[tokio::test]
    async fn a_kept_payload_keeps_nothing_else_alive() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("posthorn.db").display());
        let caches = Caches::new(Store::connect(&Settings::at(url)).await.unwrap(), None).unwrap();
        let buffer = Bytes::from(vec![b' '; 1024 * 1024]);
        let id = EventId(Uuid::now_v7());
        let payload = Payload {
            content_type: "application/json".to_owned(),
            bytes: buffer.slice(..10),
            hops: Hops::default(),
            forwarded: ForwardedHeaders::default(),
        };
        caches.keep_payload(id, payload).await;
        assert_eq!(caches.payload(id).await.unwrap().unwrap().bytes, [b' '; 10].as_slice());
        assert!(buffer.is_unique(), "the buffer that it came in is held");
    }
}
