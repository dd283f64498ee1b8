//! Whether a tenant is alone.

use std::time::{Duration, Instant};

use crate::tenant::Tenant;

/// How long after another one asked a tenant is taken for not alone: longer than traffic of a few events
/// pauses, and than a place is held.
pub(super) const COMPANY_TIME: Duration = Duration::from_mins(10);
/// How exactly it is known when somebody asked: so who waits for the end of it is not told of each.
pub(super) const COMPANY_STEP: Duration = Duration::from_secs(1);

/// The two tenants that asked last, the last one first, and when. So it is known of each tenant when another
/// one did.
#[derive(Debug)]
pub(super) struct Company([Option<(Tenant, Instant)>; 2]);

impl Company {
    /// Nobody has asked.
    pub(super) const NONE: Self = Self([None, None]);

    /// The tenant asks.
    pub(super) fn note(&mut self, tenant: &Tenant, now: Instant) {
        let [last, before] = &mut self.0;
        if last.as_ref().is_none_or(|(name, _)| name != tenant) {
            std::mem::swap(last, before);
        }
        match last {
            Some((name, at)) if name == tenant => {
                if now.saturating_duration_since(*at) >= COMPANY_STEP {
                    *at = now;
                }
            }
            other => *other = Some((tenant.clone(), now)),
        }
    }

    /// Until when the tenant is not alone; none where nobody else asked.
    pub(super) fn until(&self, tenant: &Tenant) -> Option<Instant> {
        let others = self.0.iter().flatten().filter(|(name, _)| name != tenant);
        others.map(|(_, at)| *at + COMPANY_TIME).max()
    }
}
