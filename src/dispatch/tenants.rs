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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use posthorn_domain::tenant::{Tenant, TenantSettings};
use tracing::warn;

use super::ingest_writer::RETRY_AFTER;
use super::pace::Pace;
use super::{Control, IngestError};
use crate::store::{Error, Store};

/// Tenants that are kept without asking whether they are in use: some MiB. Below it none is loaded
/// twice.
const SWEEP_FROM: usize = 8192;

/// The tenants in use.
pub(super) struct Tenants {
    store: Store,
    known: Mutex<Known>,
}

struct Known {
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
    /// Over the tenant's deliveries.
    pub(super) rate: Pace,
    /// Over what the tenant hands in.
    pub(super) ingest: Pace,
}

impl Tenants {
    pub(super) fn new(store: Store) -> Self {
        let known = Known { tenants: HashMap::new(), sweep_beyond: SWEEP_FROM };
        Self { store, known: Mutex::new(known) }
    }

    /// A tenant, from the store where it is not in use yet.
    pub(super) async fn get(&self, tenant: &Tenant) -> Result<Arc<TenantState>, Error> {
        let (state, loaded) = self.known().entry(tenant, Instant::now());
        if !loaded {
            let settings = self.store.tenant_settings(tenant).await?;
            self.apply(tenant, settings);
        }
        Ok(state)
    }

    /// Takes a turn at handing something in.
    pub(super) async fn take_ingest(&self, tenant: &Tenant) -> Result<(), IngestError> {
        let state = self.get(tenant).await.map_err(|error| {
            warn!(%error, "what a tenant may hand in could not be read");
            IngestError::Busy { retry_after: RETRY_AFTER }
        })?;
        let now = Instant::now();
        let spent =
            |next: Instant| IngestError::QuotaSpent { retry_after: next.saturating_duration_since(now) };
        state.ingest.take(now).map_err(spent)
    }

    /// Settings as they are stored; they hold at once, unless newer ones are known.
    pub(super) fn apply(&self, tenant: &Tenant, settings: TenantSettings) {
        if let Some(entry) = self.known().tenants.get_mut(tenant) {
            entry.state.renew(settings);
            entry.loaded = true;
        }
    }

    /// Whatever is known of the tenant may be old: it is read anew before it is used again.
    fn doubt(&self, tenant: &Tenant) {
        if let Some(entry) = self.known().tenants.get_mut(tenant) {
            entry.loaded = false;
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A panic in here leaves no entry half-way.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// The tenant's state, and whether it was loaded.
    fn entry(&mut self, tenant: &Tenant, now: Instant) -> (Arc<TenantState>, bool) {
        if let Some(entry) = self.tenants.get(tenant) {
            return (Arc::clone(&entry.state), entry.loaded);
        }
        if self.tenants.len() >= self.sweep_beyond {
            self.sweep(now);
        }
        let state = Arc::new(TenantState::new(tenant.clone()));
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
    fn new(name: Tenant) -> Self {
        Self { name, settings: Mutex::default(), rate: Pace::new(None), ingest: Pace::new(None) }
    }

    /// Who it is.
    pub(super) const fn name(&self) -> &Tenant {
        &self.name
    }

    /// What it may use now.
    pub(super) fn settings(&self) -> TenantSettings {
        *self.lock()
    }

    /// These are its settings, unless it has newer ones.
    fn renew(&self, settings: TenantSettings) {
        let mut current = self.lock();
        if settings.version > current.version {
            *current = settings;
            self.rate.set(settings.rate_limit);
            self.ingest.set(settings.ingest_limit);
        }
    }

    fn is_fresh(&self, now: Instant) -> bool {
        self.rate.is_replenished(now) && self.ingest.is_replenished(now)
    }

    fn lock(&self) -> MutexGuard<'_, TenantSettings> {
        // A copy of a few numbers: there is no half-way.
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Control {
    /// Changes what a tenant may use. It holds at once.
    ///
    /// May be dropped: the change then goes on alone to its end.
    pub async fn update_tenant(
        &self,
        tenant: Tenant,
        change: impl FnOnce(&mut TenantSettings) + Send + 'static,
    ) -> Result<TenantSettings, Error> {
        let parts = Arc::clone(&self.parts);
        // What is committed must be told, whether or not the client stays.
        let task = tokio::spawn(async move {
            let now = parts.clock.now();
            let updated = parts.store.update_tenant(tenant.clone(), now, change).await;
            match &updated {
                Ok(settings) => {
                    parts.tenants.apply(&tenant, *settings);
                    parts.admission.changed(&tenant);
                }
                Err(_) => parts.tenants.doubt(&tenant),
            }
            updated
        });
        task.await.unwrap_or_else(|_| Err(Error::OutcomeUnknown("the change's task ended early".to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use posthorn_domain::subscription::RateLimit;
    use posthorn_domain::time::Timestamp;

    use super::*;
    use crate::store::Settings;

    const LIMIT: RateLimit = RateLimit { requests_per_second: 1.0 / 60.0, burst: 1 };

    #[tokio::test]
    async fn all_who_ask_share_one_state() {
        let world = World::new().await;
        world.store_limit("acme").await;
        let (first, second) = (world.get("acme").await, world.get("acme").await);
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(first.settings().ingest_limit, Some(LIMIT));
        first.ingest.take(Instant::now()).unwrap();
        assert!(second.ingest.take(Instant::now()).is_err());
        world.get("other").await.ingest.take(Instant::now()).unwrap();
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
        let (held, loaded) = world.tenants.known().entry(&tenant("acme"), Instant::now());
        assert!(!loaded);
        let old = world.tenants.store.tenant_settings(&tenant("acme")).await.unwrap();
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
        world.get("spent").await.ingest.take(now).unwrap();
        for n in 0..5 * SWEEP_FROM {
            world.tenants.known().entry(&tenant(&n.to_string()), now);
        }
        let names: Vec<_> = {
            let mut known = world.tenants.known();
            assert!(known.tenants.len() <= SWEEP_FROM, "{} are kept", known.tenants.len());
            known.sweep(now);
            known.tenants.keys().map(ToString::to_string).collect()
        };
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(Arc::ptr_eq(&held, &world.get("held").await));
        assert!(world.get("spent").await.ingest.take(now).is_err(), "its spent turn was forgotten");
        drop(held);
        world.tenants.known().sweep(now + std::time::Duration::from_mins(1));
        assert!(world.tenants.known().tenants.is_empty());
    }

    struct World {
        tenants: Tenants,
        _folder: tempfile::TempDir,
    }

    impl World {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let url = format!("sqlite://{}", folder.path().join("posthorn.db").display());
            let store = Store::connect(&Settings { url }).await.unwrap();
            store.migrate_up().await.unwrap();
            Self { tenants: Tenants::new(store), _folder: folder }
        }

        async fn get(&self, name: &str) -> Arc<TenantState> {
            self.tenants.get(&tenant(name)).await.unwrap()
        }

        /// In the store alone, as another would do it.
        async fn store_limit(&self, name: &str) -> TenantSettings {
            let limit = |settings: &mut TenantSettings| settings.ingest_limit = Some(LIMIT);
            self.tenants.store.update_tenant(tenant(name), Timestamp::from_millis(0), limit).await.unwrap()
        }
    }

    fn tenant(name: &str) -> Tenant {
        name.parse().unwrap()
    }
}
