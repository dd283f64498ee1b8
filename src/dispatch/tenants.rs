//! Tenants in use: what each may use now, and how much of it is used up.
//!
//! Loaded when first asked for, and forgotten once nothing holds one and its limiters are full
//! again: then the next load makes the same of it. So memory follows the tenants in use, not those
//! that exist.
//!
//! Of two copies of the settings the newer wins, whichever comes first: a load that began before a
//! change and ends after it changes nothing. A tenant that is being loaded is in the map already and
//! held by the load, so a change always finds what it has to change.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use posthorn_domain::stored_bytes::StoredBytes;
use posthorn_domain::tenant::{Quotas, Tenant, TenantSettings};
use tokio::sync::Notify;
use tracing::warn;

use super::ingest_error::{IngestError, RETRY_AFTER};
use super::quota::{Asks, Quota};
use crate::cache::{Bucket, Caches};
use crate::store::Error;

/// Tenants that are kept without asking whether they are in use: some MiB. Below it none is loaded
/// twice.
const SWEEP_FROM: usize = 8192;

/// The tenants in use.
pub(super) struct Tenants {
    caches: Caches,
    asks: Arc<Asks>,
    known: Mutex<Known>,
}

struct Known {
    /// What a tenant may have where its settings say nothing.
    quotas: Quotas,
    /// Nodes that are alive: each keeps to an equal share of every tenant's limits.
    nodes: u32,
    tenants: HashMap<Tenant, Entry>,
    /// How many there may be before the next sweep.
    sweep_beyond: usize,
}

struct Entry {
    state: Arc<TenantState>,
    /// Whether the state's settings are the tenant's.
    loaded: bool,
}

/// One tenant in use. Whoever keeps it keeps it current.
#[derive(Debug)]
pub(super) struct TenantState {
    name: Tenant,
    settings: Mutex<TenantSettings>,
    /// This node's share of `max_in_flight`; 0: no limit.
    in_flight_max: AtomicU32,
    /// Over the tenant's deliveries.
    rate: Quota,
    /// Over what the tenant hands in.
    ingest: Quota,
    /// Over its calls of the API.
    control: Quota,
    /// Bytes of payloads that it may store; `u64::MAX`: no limit.
    stored_bytes_max: AtomicU64,
    stored: Mutex<StoredBytes>,
    /// What it has stored was counted.
    counted: Notify,
    asks: Arc<Asks>,
}

impl Tenants {
    pub(super) fn new(caches: Caches, quotas: Quotas) -> Self {
        let known = Known { quotas, nodes: 1, tenants: HashMap::new(), sweep_beyond: SWEEP_FROM };
        Self { asks: Arc::new(Asks::new(caches.clone())), caches, known: Mutex::new(known) }
    }

    /// What is to be asked of Redis.
    pub(super) fn asks(&self) -> &Arc<Asks> {
        &self.asks
    }

    /// A tenant, where it is in use.
    pub(super) fn in_use(&self, tenant: &Tenant) -> Option<Arc<TenantState>> {
        self.known().tenants.get(tenant).map(|entry| Arc::clone(&entry.state))
    }

    /// A tenant, from the store where it is not in use yet.
    pub(super) async fn get(&self, tenant: &Tenant) -> Result<Arc<TenantState>, Error> {
        let (state, loaded) = self.known().entry(tenant, Instant::now(), &self.asks);
        if !loaded {
            let settings = self.caches.tenant_settings(tenant).await?;
            self.apply(tenant, settings);
        }
        Ok(state)
    }

    /// Takes a turn at handing something in.
    pub(super) async fn take_ingest(&self, tenant: &Tenant) -> Result<Arc<TenantState>, IngestError> {
        let state = self.get(tenant).await.map_err(|error| {
            warn!(%error, "what a tenant may hand in could not be read");
            IngestError::Busy { retry_after: RETRY_AFTER }
        })?;
        let taken = state.ingest.take_soon(tenant, &self.asks).await;
        taken.map_err(|next| IngestError::QuotaSpent {
            retry_after: next.saturating_duration_since(Instant::now()),
        })?;
        Ok(state)
    }

    /// Takes a turn at calling the API, or says how long to wait for one.
    pub(super) async fn take_call(&self, tenant: &Tenant) -> Result<Option<Duration>, Error> {
        let taken = self.get(tenant).await?.control.take_soon(tenant, &self.asks).await;
        Ok(taken.err().map(|next| next.saturating_duration_since(Instant::now())))
    }

    /// Settings as they are stored; they hold at once, unless newer ones are known.
    pub(super) fn apply(&self, tenant: &Tenant, settings: TenantSettings) {
        let mut known = self.known();
        let (nodes, quotas) = (known.nodes, known.quotas);
        if let Some(entry) = known.tenants.get_mut(tenant) {
            entry.state.renew(settings, nodes, quotas);
            entry.loaded = true;
        }
    }

    /// So many nodes are alive; whether that is news.
    pub(super) fn share(&self, nodes: u32) -> bool {
        let mut known = self.known();
        let news = std::mem::replace(&mut known.nodes, nodes) != nodes;
        if news {
            let quotas = known.quotas;
            known.tenants.values().for_each(|entry| entry.state.share(nodes, quotas));
        }
        news
    }

    /// Whatever is known of the tenant may be old: it is read anew before it is used again.
    pub(super) fn doubt(&self, tenant: &Tenant) {
        if let Some(entry) = self.known().tenants.get_mut(tenant) {
            entry.loaded = false;
        }
    }

    /// As [`doubt`](Self::doubt), of all tenants.
    pub(super) fn doubt_all(&self) {
        self.known().tenants.values_mut().for_each(|entry| entry.loaded = false);
    }

    /// Reads what somebody else changed, where the tenant is in use.
    pub(super) async fn read_again(&self, tenant: &Tenant) -> Result<(), Error> {
        self.doubt(tenant);
        if self.in_use(tenant).is_some() {
            self.get(tenant).await?;
        }
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A panic in here leaves no entry half-way.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// The tenant's state, and whether it was loaded.
    fn entry(&mut self, tenant: &Tenant, now: Instant, asks: &Arc<Asks>) -> (Arc<TenantState>, bool) {
        if let Some(entry) = self.tenants.get(tenant) {
            return (Arc::clone(&entry.state), entry.loaded);
        }
        if self.tenants.len() >= self.sweep_beyond {
            self.sweep(now);
        }
        let state = Arc::new(TenantState::new(tenant.clone(), Arc::clone(asks)));
        state.share(self.nodes, self.quotas);
        self.tenants.insert(tenant.clone(), Entry { state: Arc::clone(&state), loaded: false });
        (state, false)
    }

    /// Forgets whom nothing holds and who has nothing to remember. The next one comes when there are
    /// twice as many, so that each insertion pays for a look at two.
    fn sweep(&mut self, now: Instant) {
        self.tenants.retain(|_, entry| Arc::strong_count(&entry.state) > 1 || !entry.state.is_fresh(now));
        self.tenants.shrink_to(self.tenants.len() * 2);
        self.sweep_beyond = SWEEP_FROM.max(self.tenants.len() * 2);
    }
}

impl TenantState {
    fn new(name: Tenant, asks: Arc<Asks>) -> Self {
        Self {
            name,
            settings: Mutex::default(),
            in_flight_max: AtomicU32::new(0),
            rate: Quota::new(Bucket::Deliveries),
            ingest: Quota::new(Bucket::Ingest),
            control: Quota::new(Bucket::Control),
            stored_bytes_max: AtomicU64::new(u64::MAX),
            stored: Mutex::default(),
            counted: Notify::new(),
            asks,
        }
    }

    /// The pace of one kind.
    pub(super) fn quota(&self, bucket: Bucket) -> &Quota {
        match bucket {
            Bucket::Deliveries => &self.rate,
            Bucket::Ingest => &self.ingest,
            Bucket::Control => &self.control,
        }
    }

    /// Takes a turn at sending something, or says when to ask again at the latest.
    pub(super) fn take_turn(&self, now: Instant) -> Result<(), Instant> {
        self.rate.take(now, &self.name, &self.asks).map_err(|refusal| refusal.at(now))
    }

    /// Who it is.
    pub(super) const fn name(&self) -> &Tenant {
        &self.name
    }

    /// What it may use now, on all nodes; without what the configuration says.
    pub(super) fn settings(&self) -> TenantSettings {
        *self.lock()
    }

    /// Requests that it may have in flight on this node.
    pub(super) fn in_flight_max(&self) -> Option<u32> {
        Some(self.in_flight_max.load(Ordering::Relaxed)).filter(|max| *max > 0)
    }

    /// Bytes of payloads that it may store on all nodes.
    pub(super) fn stored_bytes_max(&self) -> Option<u64> {
        Some(self.stored_bytes_max.load(Ordering::Relaxed)).filter(|max| *max < u64::MAX)
    }

    /// What it has stored, so far as is known.
    pub(super) fn stored(&self) -> MutexGuard<'_, StoredBytes> {
        // Numbers that are changed in one step.
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells when what it has stored was counted.
    pub(super) const fn counted(&self) -> &Notify {
        &self.counted
    }

    /// These are its settings, unless it has newer ones.
    fn renew(&self, settings: TenantSettings, nodes: u32, quotas: Quotas) {
        let mut current = self.lock();
        if settings.version > current.version {
            *current = settings;
            self.keep_to(settings, nodes, quotas);
        }
    }

    fn share(&self, nodes: u32, quotas: Quotas) {
        let settings = self.lock();
        self.keep_to(*settings, nodes, quotas);
    }

    /// Keeps to these settings where the configuration says `quotas`.
    fn keep_to(&self, settings: TenantSettings, nodes: u32, quotas: Quotas) {
        let settings = TenantSettings { quotas: settings.quotas.or(quotas), ..settings };
        let TenantSettings { rate_limit, ingest_limit, quotas, version, .. } = settings;
        let share = settings.share_of(nodes);
        self.in_flight_max.store(share.max_in_flight.unwrap_or(0), Ordering::Relaxed);
        self.rate.keep_to(rate_limit, version, nodes, share.rate_limit);
        self.ingest.keep_to(ingest_limit, version, nodes, share.ingest_limit);
        self.control.keep_to(quotas.control_limit, version, nodes, share.quotas.control_limit);
        self.stored_bytes_max.store(quotas.max_stored_bytes.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn is_fresh(&self, now: Instant) -> bool {
        let paces = [&self.rate, &self.ingest, &self.control];
        paces.iter().all(|pace| pace.is_replenished(now)) && self.stored().is_idle()
    }

    fn lock(&self) -> MutexGuard<'_, TenantSettings> {
        // A copy of a few numbers: there is no half-way.
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use posthorn_domain::audit::{Actor, Stamp};
    use posthorn_domain::subscription::RateLimit;
    use posthorn_domain::time::Timestamp;

    use super::super::quota::Refusal;
    use super::*;
    use crate::store::{Settings, Store};

    const LIMIT: RateLimit = RateLimit { requests_per_second: 1.0 / 60.0, burst: 1 };

    #[tokio::test]
    async fn all_who_ask_share_one_state() {
        let world = World::new().await;
        world.store_limit("acme").await;
        let (first, second) = (world.get("acme").await, world.get("acme").await);
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(first.settings().ingest_limit, Some(LIMIT));
        world.hand_in(&first, Instant::now()).unwrap();
        assert!(world.hand_in(&second, Instant::now()).is_err());
        world.hand_in(&*world.get("other").await, Instant::now()).unwrap();
    }

    #[tokio::test]
    async fn the_newer_settings_win() {
        let world = World::new().await;
        let state = world.get("acme").await;
        for (version, burst, expected) in [(2, 20, 20), (1, 10, 20), (2, 11, 20), (3, 30, 30)] {
            let limit = Some(RateLimit { burst, ..LIMIT });
            let settings = TenantSettings { rate_limit: limit, version, ..TenantSettings::default() };
            world.tenants.apply(&tenant("acme"), settings);
            assert_eq!(state.settings().rate_limit.unwrap().burst, expected, "after version {version}");
        }
        assert_eq!(world.get("acme").await.settings().version, 3, "what is known is not read again");
    }

    /// A load reads the old settings; before it ends, a change is committed and told, and a sweep
    /// goes by.
    #[tokio::test]
    async fn a_load_leaves_no_old_settings() {
        let world = World::new().await;
        let (held, loaded) = world.entry("acme", Instant::now());
        assert!(!loaded);
        let old = world.store.tenant_settings(&tenant("acme")).await.unwrap();
        let new = world.store_limit("acme").await;
        world.tenants.apply(&tenant("acme"), new);
        world.tenants.known().sweep(Instant::now());
        world.tenants.apply(&tenant("acme"), old);
        assert_eq!(held.settings(), new);
        drop(held);
        assert_eq!(world.get("acme").await.settings(), new);
    }

    #[tokio::test]
    async fn what_is_in_doubt_is_read_again() {
        let world = World::new().await;
        let state = world.get("acme").await;
        let new = world.store_limit("acme").await;
        assert_eq!(world.get("acme").await.settings(), TenantSettings::default(), "known, so not read");
        world.tenants.doubt(&tenant("acme"));
        world.get("acme").await;
        assert_eq!(state.settings(), new);
    }

    #[tokio::test]
    async fn only_those_in_use_are_kept() {
        let world = World::new().await;
        let held = world.get("held").await;
        world.store_limit("spent").await;
        let now = Instant::now();
        world.hand_in(&*world.get("spent").await, now).unwrap();
        for n in 0..5 * SWEEP_FROM {
            world.entry(&n.to_string(), now);
        }
        let names: Vec<_> = {
            let mut known = world.tenants.known();
            assert!(known.tenants.len() <= SWEEP_FROM, "{} are kept", known.tenants.len());
            known.sweep(now);
            known.tenants.keys().map(ToString::to_string).collect()
        };
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(Arc::ptr_eq(&held, &world.get("held").await));
        assert!(world.hand_in(&*world.get("spent").await, now).is_err(), "its spent turn was forgotten");
        drop(held);
        world.tenants.known().sweep(now + std::time::Duration::from_mins(1));
        assert!(world.tenants.known().tenants.is_empty());
    }

    struct World {
        store: Store,
        tenants: Tenants,
        _folder: tempfile::TempDir,
    }

    impl World {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let url = format!("sqlite://{}", folder.path().join("posthorn.db").display());
            let store = Store::connect(&Settings::at(url)).await.unwrap();
            store.migrate_up().await.unwrap();
            let caches = Caches::new(store.clone(), None).unwrap();
            Self { store, tenants: Tenants::new(caches, Quotas::default()), _folder: folder }
        }

        fn entry(&self, name: &str, now: Instant) -> (Arc<TenantState>, bool) {
            self.tenants.known().entry(&tenant(name), now, self.tenants.asks())
        }

        fn hand_in(&self, state: &TenantState, now: Instant) -> Result<(), Refusal> {
            state.ingest.take(now, state.name(), self.tenants.asks())
        }

        async fn get(&self, name: &str) -> Arc<TenantState> {
            self.tenants.get(&tenant(name)).await.unwrap()
        }

        /// In the store alone, as another would do it.
        async fn store_limit(&self, name: &str) -> TenantSettings {
            let limit = |settings: &mut TenantSettings| settings.ingest_limit = Some(LIMIT);
            let stamp = Stamp { by: Actor::Anyone, at: Timestamp::from_millis(0) };
            self.store.update_tenant(tenant(name), stamp, limit).await.unwrap()
        }
    }

    fn tenant(name: &str) -> Tenant {
        name.parse().unwrap()
    }
}
