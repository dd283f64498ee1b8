//! Places in flight on this node.
//!
//! A place is taken before a request starts, travels with it, and is given back when its outcome
//! is committed. So it bounds requests, their outcomes on the way to the store, and all messages
//! about them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A place in flight; given back when dropped.
#[derive(Debug)]
pub(super) struct Place(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

/// Gives out places, first come first served.
#[derive(Debug)]
pub(super) struct Admission {
    places: Arc<Semaphore>,
    size: u32,
    closed: AtomicBool,
}

impl Admission {
    pub(super) fn new(size: u32) -> Self {
        let places = usize::try_from(size).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(places)), size, closed: AtomicBool::new(false) }
    }

    /// A place, if one is free now.
    pub(super) fn try_take(&self) -> Option<Place> {
        if self.closed.load(Ordering::Acquire) {
            return None;
        }
        Arc::clone(&self.places).try_acquire_owned().ok().map(Place)
    }

    /// Waits for a place; none once closed.
    pub(super) async fn take(&self) -> Option<Place> {
        let permit = Arc::clone(&self.places).acquire_owned().await.ok()?;
        (!self.closed.load(Ordering::Acquire)).then_some(Place(permit))
    }

    /// Gives out no more places.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Waits until every place is given back; false where that takes longer than `patience`.
    pub(super) async fn drained(&self, patience: Duration) -> bool {
        tokio::time::timeout(patience, self.places.acquire_many(self.size)).await.is_ok()
    }
}
