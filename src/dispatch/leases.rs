//! The slots that this node holds, and until when it may act on that.
//!
//! On SQLite there is one process, which holds all of them for good.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use posthorn_domain::cluster::{Epoch, SLOTS, Slot, Standing, standing};

/// What is held. Read for each request, written a few times a minute.
pub(super) struct Leases {
    lease: Duration,
    table: RwLock<Table>,
    /// Other nodes are alive.
    company: AtomicBool,
}

struct Table {
    epochs: [Option<Epoch>; SLOTS],
    /// Held, and not being handed over.
    served: [bool; SLOTS],
    /// When the renewal that came through last was sent; none where nothing has to be renewed.
    renewed: Option<Instant>,
}

impl Leases {
    /// All slots, for good.
    pub(super) fn whole(lease: Duration) -> Self {
        let table = Table { epochs: [Some(Epoch::default()); SLOTS], served: [true; SLOTS], renewed: None };
        Self { lease, table: RwLock::new(table), company: AtomicBool::new(false) }
    }

    /// No slots yet.
    pub(super) fn shared(lease: Duration) -> Self {
        let table = Table { epochs: [None; SLOTS], served: [false; SLOTS], renewed: Some(Instant::now()) };
        Self { lease, table: RwLock::new(table), company: AtomicBool::new(false) }
    }

    /// How long a lease is.
    pub(super) const fn lease(&self) -> Duration {
        self.lease
    }

    /// Under which a slot is held; none where it is not.
    pub(super) fn epoch(&self, slot: Slot) -> Option<Epoch> {
        self.table().epochs.get(usize::from(slot.0)).copied().flatten()
    }

    /// Whether the slot's lanes run here.
    pub(super) fn serves(&self, slot: Slot) -> bool {
        self.table().served.get(usize::from(slot.0)).copied().unwrap_or(false)
    }

    /// These are about to be handed over.
    pub(super) fn stop_serving(&self, slots: &[Slot]) {
        let mut table = self.table_mut();
        for slot in slots {
            if let Some(served) = table.served.get_mut(usize::from(slot.0)) {
                *served = false;
            }
        }
    }

    /// All that is held, in order.
    pub(super) fn held(&self) -> Vec<(Slot, Epoch)> {
        let table = self.table();
        Slot::all().zip(&table.epochs).filter_map(|(slot, epoch)| Some((slot, (*epoch)?))).collect()
    }

    /// What the leases allow at `now`.
    pub(super) fn standing(&self, now: Instant) -> Standing {
        self.table().renewed.map_or(Standing::Valid, |renewed| standing(renewed, self.lease, now))
    }

    /// A renewal that was sent then came through.
    pub(super) fn renewed(&self, sent: Instant) {
        self.table_mut().renewed = Some(sent);
    }

    /// These are held from now on.
    pub(super) fn add(&self, slots: &[(Slot, Epoch)]) {
        let mut table = self.table_mut();
        for (slot, epoch) in slots {
            let place = usize::from(slot.0);
            let Table { epochs, served, .. } = &mut *table;
            if let (Some(entry), Some(served)) = (epochs.get_mut(place), served.get_mut(place)) {
                (*entry, *served) = (Some(*epoch), true);
            }
        }
    }

    /// These are no longer held under these epochs; returns those that were.
    pub(super) fn remove(&self, slots: &[(Slot, Epoch)]) -> Vec<Slot> {
        let mut table = self.table_mut();
        let Table { epochs, served, .. } = &mut *table;
        let held = |(slot, epoch): &(Slot, Epoch)| {
            let place = usize::from(slot.0);
            epochs.get_mut(place)?.take_if(|held| held == epoch)?;
            *served.get_mut(place)? = false;
            Some(*slot)
        };
        slots.iter().filter_map(held).collect()
    }

    /// Whether other nodes are alive, as far as was seen.
    pub(super) fn has_company(&self) -> bool {
        self.company.load(Ordering::Relaxed)
    }

    /// Other nodes are alive, or none is.
    pub(super) fn set_company(&self, company: bool) {
        self.company.store(company, Ordering::Relaxed);
    }

    fn table(&self) -> RwLockReadGuard<'_, Table> {
        // Nothing in here panics half-way through a change.
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}
