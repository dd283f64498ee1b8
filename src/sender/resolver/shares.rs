//! Who may look a name up now: shared by tenants as places in flight are.
//!
//! A name whose servers keep silent holds its share until its time is over. So it is with look-ups as it is with
//! requests: those of one tenant must not keep another's waiting, and names that kept silent before hold at most
//! half of all.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use posthorn_domain::places::{Claim, Places, TenantLimits};
use posthorn_domain::tenant::Tenant;
use tokio::sync::oneshot;

/// Look-ups have no limits of a tenant's own.
#[derive(Clone, Copy, Debug)]
struct NoLimits;

impl TenantLimits for NoLimits {
    fn in_flight_max(&self) -> Option<u32> {
        None
    }

    fn take_turn(&self, _: Instant) -> Result<(), Instant> {
        Ok(())
    }
}

/// Leave to look one name up; given back when dropped.
pub(super) struct Permit {
    shares: Arc<Shares>,
    tenant: Tenant,
    claim: Claim,
    /// It was given back already.
    returned: bool,
}

/// Gives leave.
pub(super) struct Shares {
    places: Mutex<Places<NoLimits, oneshot::Sender<Permit>>>,
}

impl Shares {
    /// For so many look-ups at once.
    pub(super) fn new(size: u32) -> Arc<Self> {
        Arc::new(Self { places: Mutex::new(Places::new(size)) })
    }

    /// Waits for leave; `claim` is [`Claim::Doubtful`] where the name kept silent before. None only where
    /// nobody is there to give it any more.
    ///
    /// May be dropped: the leave then goes to the next.
    pub(super) async fn permit(self: &Arc<Self>, tenant: &Tenant, claim: Claim) -> Option<Permit> {
        let waits = {
            let mut places = self.places();
            if places.take(tenant, &NoLimits, claim, now()) {
                return Some(self.give(tenant.clone(), claim));
            }
            let (waiter, waits) = oneshot::channel();
            places.wait(tenant, &NoLimits, claim, waiter);
            waits
        };
        self.hand_out();
        waits.await.ok()
    }

    /// Gives what is free to those that wait for it. A tenant that waits for its share alone is asked for again
    /// with the next that comes back, which is at most one look-up's time away.
    fn hand_out(self: &Arc<Self>) {
        while let Some((permit, waiter)) = self.next() {
            // Whoever left does not need it.
            if let Err(mut permit) = waiter.send(permit) {
                // Not by dropping it, which would hand out inside of handing out.
                permit.give_back();
            }
        }
    }

    fn next(self: &Arc<Self>) -> Option<(Permit, oneshot::Sender<Permit>)> {
        let grant = self.places().grant(now())?;
        Some((self.give(grant.tenant, grant.claim), grant.waiter))
    }

    fn give(self: &Arc<Self>, tenant: Tenant, claim: Claim) -> Permit {
        Permit { shares: Arc::clone(self), tenant, claim, returned: false }
    }

    fn places(&self) -> MutexGuard<'_, Places<NoLimits, oneshot::Sender<Permit>>> {
        // Counted in a few steps, none of which panics.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    fn give_back(&mut self) {
        if !std::mem::replace(&mut self.returned, true) {
            self.shares.places().give_back(&self.tenant, self.claim);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.returned {
            self.give_back();
            self.shares.hand_out();
        }
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_left_is_passed_over() {
        let (a, b): (Tenant, Tenant) = ("a".parse().unwrap(), "b".parse().unwrap());
        let shares = Shares::new(1);
        let held = shares.permit(&a, Claim::First).await.unwrap();
        let mut leaving = Box::pin(shares.permit(&a, Claim::First));
        let mut staying = Box::pin(shares.permit(&b, Claim::First));
        for waits in [&mut leaving, &mut staying] {
            assert!(futures_util::poll!(waits).is_pending());
        }
        drop(leaving);
        drop(held);
        let permit = staying.await.unwrap();
        assert_eq!(permit.tenant, b);
        drop(permit);
        assert_eq!(shares.places().held(), 0);
    }
}
