//! The slots that this node holds, and until when it may act on that.
//!
//! On SQLite there is one process, which holds all of them for good.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use posthorn_domain::cluster::{Epoch, SLOTS, Slot, Standing, may_start, standing};

/// What is held. Read for each request, written a few times a minute.
pub(super) struct Leases {
    lease: Duration,
    table: RwLock<Table>,
    /// Other nodes are alive.
    company: AtomicBool,
    /// What all times below are counted from, in milliseconds.
    since: Instant,
    /// All that was committed until then is known here.
    known: AtomicU64,
    /// When the last search for work that came to its end began.
    searched: AtomicU64,
}

struct Table {
    epochs: [Option<Epoch>; SLOTS],
    /// Held, and not being handed over.
    served: [bool; SLOTS],
    /// When the renewal that came through last was sent; none where nothing has to be renewed.
    renewed: Option<Instant>,
}

impl Table {
    fn serves(&self, slot: Slot) -> bool {
        self.served.get(usize::from(slot.0)).copied().unwrap_or(false)
    }

    fn standing(&self, lease: Duration, now: Instant) -> Standing {
        self.renewed.map_or(Standing::Valid, |renewed| standing(renewed, lease, now))
    }
}

impl Leases {
    /// All slots, for good.
    pub(super) fn whole(lease: Duration) -> Self {
        let table = Table { epochs: [Some(Epoch::default()); SLOTS], served: [true; SLOTS], renewed: None };
        Self::of(lease, table)
    }

    /// No slots yet.
    pub(super) fn shared(lease: Duration) -> Self {
        let table = Table { epochs: [None; SLOTS], served: [false; SLOTS], renewed: Some(Instant::now()) };
        Self::of(lease, table)
    }

    fn of(lease: Duration, table: Table) -> Self {
        Self {
            lease,
            table: RwLock::new(table),
            company: AtomicBool::new(false),
            since: Instant::now(),
            known: AtomicU64::new(0),
            searched: AtomicU64::new(0),
        }
    }

    /// How long a lease is.
    pub(super) const fn lease(&self) -> Duration {
        self.lease
    }

    /// Under which a slot is held; none where it is not.
    pub(super) fn epoch(&self, slot: Slot) -> Option<Epoch> {
        self.table().epochs.get(usize::from(slot.0)).copied().flatten()
    }

    /// Whether the slot's lanes run here, as far as this node has noticed.
    pub(super) fn serves(&self, slot: Slot) -> bool {
        self.table().serves(slot)
    }

    /// Whether the slot's lanes run here and nowhere else at `now`. Where the leases are over another node may have the
    /// slot already, though this one may take seconds to notice, and keeps it where its renewal comes through late.
    pub(super) fn serves_alone(&self, slot: Slot, now: Instant) -> bool {
        let table = self.table();
        table.standing(self.lease, now) != Standing::Over && table.serves(slot)
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
        self.table().standing(self.lease, now)
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

    /// Other nodes are alive, or none is. Until one was seen nobody else can have changed anything.
    pub(super) fn set_company(&self, company: bool) {
        if !self.company.load(Ordering::Relaxed) {
            self.knows_until(Instant::now());
        }
        self.company.store(company, Ordering::Relaxed);
    }

    /// Whether a request for the slot may leave now.
    pub(super) fn may_send(&self, slot: Slot, now: Instant) -> bool {
        self.may_start(now) && self.epoch(slot).is_some()
    }

    /// Whether anything may start now: the leases are valid, and whatever others changed a moment ago is known.
    pub(super) fn may_start(&self, now: Instant) -> bool {
        let known = self.since + Duration::from_millis(self.known.load(Ordering::Relaxed));
        may_start(self.table().renewed, self.lease, self.has_company().then_some(known), now)
    }

    /// All that others had committed by `at` is known here.
    pub(super) fn knows_until(&self, at: Instant) {
        self.known.fetch_max(self.millis(at), Ordering::Relaxed);
    }

    /// A search for work that began at `began` has come to its end. What it found is with the lanes by the end of the
    /// next one, at the latest.
    pub(super) fn searched(&self, began: Instant) {
        let before = self.searched.fetch_max(self.millis(began), Ordering::Relaxed);
        self.known.fetch_max(before, Ordering::Relaxed);
    }

    /// Whether a search that began at `at` or later has come to its end.
    pub(super) fn has_searched_since(&self, at: Instant) -> bool {
        self.searched.load(Ordering::Relaxed) >= self.millis(at)
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.since).as_millis()).unwrap_or(u64::MAX)
    }

    fn table(&self) -> RwLockReadGuard<'_, Table> {
        // Nothing in here panics half-way through a change.
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_lease_is_over_others_may_serve_as_well() {
        let (lease, nearly) = (Duration::from_secs(15), Duration::from_millis(14_999));
        let leases = Leases::shared(lease);
        let (slot, sent) = (Slot(7), Instant::now());
        leases.add(&[(slot, Epoch::default())]);
        leases.renewed(sent);
        for (age, alone) in [(Duration::ZERO, true), (nearly, true), (lease, false)] {
            assert_eq!(leases.serves_alone(slot, sent + age), alone, "{age:?}");
        }
        assert!(leases.serves(slot), "a renewal may come through late");
        assert!(!leases.serves_alone(Slot(8), sent));
        leases.stop_serving(&[slot]);
        assert!(!leases.serves_alone(slot, sent));
        assert!(Leases::whole(lease).serves_alone(slot, sent + lease * 100), "on SQLite for good");
    }
}
