//! The limits in flight that lanes have found out, for those who look; nothing depends on them.
//!
//! Bounded by the lanes in memory: each takes its own away when it leaves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use posthorn_domain::id::SubscriptionId;

/// The limits of all lanes in memory.
#[derive(Clone, Default)]
pub(super) struct Limits(Arc<Mutex<HashMap<SubscriptionId, u32>>>);

impl Limits {
    /// What the lane of `id` allows now; none where it is not in memory.
    pub(super) fn of(&self, id: SubscriptionId) -> Option<u32> {
        self.all().get(&id).copied()
    }

    /// Lanes in memory.
    pub(super) fn lanes(&self) -> usize {
        self.all().len()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<SubscriptionId, u32>> {
        // Nothing in here panics half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The limit of one lane, shown for as long as the lane is there.
pub(super) struct ShownLimit {
    limits: Limits,
    id: SubscriptionId,
    limit: u32,
}

impl ShownLimit {
    pub(super) fn new(limits: &Limits, id: SubscriptionId, limit: u32) -> Self {
        limits.all().insert(id, limit);
        Self { limits: limits.clone(), id, limit }
    }

    /// The limit from now on; free where it is the same.
    pub(super) fn show(&mut self, limit: u32) {
        if limit != self.limit {
            self.limit = limit;
            self.limits.all().insert(self.id, limit);
        }
    }
}

impl Drop for ShownLimit {
    fn drop(&mut self) {
        self.limits.all().remove(&self.id);
    }
}
