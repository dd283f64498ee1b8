//! Who gets the next free place in flight.
//!
//! A node has so many places, and each request needs one. While some are free, whoever asks gets
//! one. When they are scarce:
//!
//! - the next goes to the tenant that holds the fewest, and of those to the one served longest ago
//!   (max-min fairness); within the tenant its subscriptions take turns;
//! - a tenant holds at most half, once another has asked within the last ten minutes: endpoints that
//!   answer just before the time-out keep their places for long, so those of the others must not have
//!   to come free first. Who has been alone for that long may hold all;
//! - the last few are for subscriptions that hold none, and the very last for tenants that hold
//!   few: so there are some for whoever comes after a tenant that was alone. Each of them takes at most
//!   half of what is free, so that the next one finds some as well;
//! - endpoints whose last attempt failed hold at most half of all places together, since it is they
//!   who hang.
//!
//! A tenant's own limits come on top: its places at once, and its rate. One whose rate is used up
//! waits as a whole, and its subscriptions keep their turns.
//!
//! Kept at all times: nobody waits who could have a place, unless time alone has brought that about
//! ([`Places::next_wakeup`]). So whoever asks anew overtakes no one.

mod claims;
mod company;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::tenant::Tenant;
use claims::PerClaim;
use company::Company;

/// Of a node's places, the last of so many are for subscriptions that hold none: an eighth.
const FIRST_SHARE: u32 = 8;
/// Of a node's places, the last of so many are for tenants that hold few. A healthy endpoint gives
/// its place back within milliseconds, so a few are enough for all of them.
const NEW_TENANT_SHARE: u32 = 64;
/// Of a node's places, one of so many may be held by a tenant that is not alone.
const TENANT_SHARE: u32 = 2;
/// Of a node's places, one of so many may be held by endpoints whose last attempt failed.
const DOUBTFUL_SHARE: u32 = 2;
/// Lanes that may wait in memory for each place, all tenants together: enough that none stands free
/// while the next lanes are read.
const WAITING_SHARE: u32 = 2;

/// What a place is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    /// The only request in flight of its subscription.
    First,
    /// One beside others of its subscription.
    Further,
    /// One to an endpoint whose last attempt failed.
    Doubtful,
}

impl Claim {
    const ALL: [Self; 3] = [Self::First, Self::Further, Self::Doubtful];
}

/// A tenant's limits, as they are now.
pub trait TenantLimits {
    /// Requests in flight at most; none: no limit.
    fn in_flight_max(&self) -> Option<u32>;

    /// Takes a turn of the tenant's rate, or says when there will be one.
    fn take_turn(&self, now: Instant) -> Result<(), Instant>;
}

impl<T: TenantLimits> TenantLimits for Arc<T> {
    fn in_flight_max(&self) -> Option<u32> {
        T::in_flight_max(self)
    }

    fn take_turn(&self, now: Instant) -> Result<(), Instant> {
        T::take_turn(self, now)
    }
}

/// A place that was given to one who waited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant<L, W> {
    /// Whose it is.
    pub tenant: Tenant,
    /// That tenant's limits.
    pub limits: L,
    /// What for.
    pub claim: Claim,
    /// Who waited.
    pub waiter: W,
}

/// The places of one node. `L` are a tenant's limits, `W` is who waits.
#[derive(Debug)]
pub struct Places<L, W> {
    size: u32,
    held: u32,
    /// Held by endpoints whose last attempt failed.
    doubtful: u32,
    /// Those that hold a place or wait for one.
    tenants: BTreeMap<Tenant, Holder<L, W>>,
    /// Per claim, the tenants that wait with it and are within their limits.
    in_line: PerClaim<BTreeSet<Turn>>,
    /// Tenants whose rate is used up until then.
    resting: BTreeSet<(Instant, Tenant)>,
    /// Tenants that wait because they hold their share, and are not alone. As each of them holds half, they are
    /// one or two.
    at_share: BTreeSet<Tenant>,
    company: Company,
    grants: u64,
}

/// Places held, the number of the last grant, and whose they are: the least is next.
type Turn = (u32, u64, Tenant);

#[derive(Debug)]
struct Holder<L, W> {
    limits: L,
    held: u32,
    waiting: PerClaim<VecDeque<W>>,
    /// The number of the last grant to each claim, so that these take turns as well.
    served: PerClaim<u64>,
    rests_until: Option<Instant>,
}

impl<L, W> Places<L, W> {
    /// So many places, all free.
    #[must_use]
    pub fn new(size: u32) -> Self {
        Self {
            size,
            held: 0,
            doubtful: 0,
            tenants: BTreeMap::new(),
            in_line: PerClaim::default(),
            resting: BTreeSet::new(),
            at_share: BTreeSet::new(),
            company: Company::NONE,
            grants: 0,
        }
    }

    /// Places that are held.
    #[must_use]
    pub const fn held(&self) -> u32 {
        self.held
    }

    /// When [`grant`](Self::grant) is to be asked again though no place came back.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Instant> {
        let rests = self.resting.first().map(|(until, _)| *until);
        let shares = self.at_share.iter().filter_map(|tenant| self.company.until(tenant));
        shares.chain(rests).min()
    }

    /// Whether a further lane of the tenant may be read into memory to wait there for a place, beside
    /// those that are `coming` already. Those that hold places or wait for them share the room evenly.
    #[must_use]
    pub fn has_room(&self, tenant: &Tenant, claim: Claim, coming: usize) -> bool {
        self.waiting(tenant, claim) + coming < self.waiting_max()
    }

    /// Whether a lane of the tenant that has nothing in flight should wait outside of memory: there is
    /// room for a second lot of those that were let in while there was room for the first.
    #[must_use]
    pub fn is_crowded(&self, tenant: &Tenant, claim: Claim) -> bool {
        claim != Claim::Further && self.waiting(tenant, claim) >= 2 * self.waiting_max()
    }

    fn waiting(&self, tenant: &Tenant, claim: Claim) -> usize {
        self.tenants.get(tenant).map_or(0, |holder| holder.waiting.of(claim).len())
    }

    fn waiting_max(&self) -> usize {
        let all = usize::try_from(self.size.saturating_mul(WAITING_SHARE)).unwrap_or(usize::MAX);
        (all / self.tenants.len().max(1)).max(1)
    }

    /// Until when a tenant waits for its rate, where it does.
    #[must_use]
    pub fn rests_until(&self, tenant: &Tenant) -> Option<Instant> {
        self.tenants.get(tenant)?.rests_until
    }

    const fn free(&self) -> u32 {
        self.size.saturating_sub(self.held)
    }

    /// Whether the node has a place for such a claim.
    const fn has_place(&self, claim: Claim) -> bool {
        match claim {
            Claim::First => self.free() > 0,
            Claim::Further => self.free() > self.size / FIRST_SHARE,
            Claim::Doubtful => self.free() > 0 && self.doubtful < self.size.div_ceil(DOUBTFUL_SHARE),
        }
    }

    /// Whether a tenant that holds so many may take one of what is free.
    const fn may_take(&self, held: u32) -> bool {
        let free = self.free();
        free > self.size / NEW_TENANT_SHARE || held == 0 || 2 * held < free
    }

    /// How many a tenant may hold.
    fn tenant_max(&self, tenant: &Tenant, now: Instant) -> u32 {
        let alone = self.company.until(tenant).is_none_or(|until| until <= now);
        if alone { self.size } else { self.size.div_ceil(TENANT_SHARE) }
    }

    const fn count(&mut self, claim: Claim) {
        self.held += 1;
        if matches!(claim, Claim::Doubtful) {
            self.doubtful += 1;
        }
    }
}

impl<L: TenantLimits + Clone, W> Places<L, W> {
    /// Takes a place at once; false where it has to be waited for.
    pub fn take(&mut self, tenant: &Tenant, limits: &L, claim: Claim, now: Instant) -> bool {
        self.company.note(tenant, now);
        self.wake(now);
        let held = self.tenants.get(tenant).map_or(0, |holder| holder.held);
        let may_take = self.has_place(claim) && self.may_take(held) && held < self.tenant_max(tenant, now);
        let taken = self.with_new(tenant, limits, |holder, grant| {
            may_take
                && holder.waiting.of(claim).is_empty()
                && holder.is_within_limits()
                && holder.hold(claim, grant, now)
        });
        if taken {
            self.count(claim);
        }
        taken
    }

    /// Waits for a place.
    pub fn wait(&mut self, tenant: &Tenant, limits: &L, claim: Claim, waiter: W) {
        self.with_new(tenant, limits, |holder, _| holder.waiting.of_mut(claim).push_back(waiter));
    }

    /// Gives a place back; [`grant`](Self::grant) says whose it is next.
    pub fn give_back(&mut self, tenant: &Tenant, claim: Claim) {
        self.held = self.held.saturating_sub(1);
        if claim == Claim::Doubtful {
            self.doubtful = self.doubtful.saturating_sub(1);
        }
        self.with(tenant, |holder, _| holder.held = holder.held.saturating_sub(1));
    }

    /// A tenant's limits were changed.
    pub fn changed(&mut self, tenant: &Tenant) {
        self.with(tenant, |holder, _| holder.rests_until = None);
    }

    /// All tenants' limits were changed.
    pub fn all_changed(&mut self) {
        let tenants: Vec<Tenant> = self.tenants.keys().cloned().collect();
        for tenant in tenants {
            self.changed(&tenant);
        }
    }

    /// Gives the next place away; to be asked until it says `None`.
    pub fn grant(&mut self, now: Instant) -> Option<Grant<L, W>> {
        self.wake(now);
        loop {
            let (claim, tenant) = self.next()?;
            if self.holds_its_share(&tenant, now) {
                // Out of the line, until it gives a place back or is alone.
                self.leave_line(&tenant);
                self.at_share.insert(tenant);
                continue;
            }
            let granted = self.with(&tenant, |holder, grant| {
                let held = holder.hold(claim, grant, now);
                let waiter = if held { holder.waiting.of_mut(claim).pop_front() } else { None };
                waiter.map(|waiter| (holder.limits.clone(), waiter))
            });
            if let Some((limits, waiter)) = granted.flatten() {
                self.count(claim);
                return Some(Grant { tenant, limits, claim, waiter });
            }
        }
    }

    /// Whose turn it is.
    fn next(&self) -> Option<(Claim, Tenant)> {
        let open = Claim::ALL.into_iter().filter(|claim| self.has_place(*claim));
        let heads = open.filter_map(|claim| Some((self.in_line.of(claim).first()?, claim)));
        let ((held, _, tenant), claim) = heads.min_by_key(|(turn, _)| *turn)?;
        // All others hold as many or more.
        self.may_take(*held).then(|| (claim, tenant.clone()))
    }

    fn holds_its_share(&self, tenant: &Tenant, now: Instant) -> bool {
        self.tenants.get(tenant).is_some_and(|holder| holder.held >= self.tenant_max(tenant, now))
    }

    /// Lets those wait for a place again whose rate has recovered, or who are alone by now.
    fn wake(&mut self, now: Instant) {
        while let Some((until, tenant)) = self.resting.first()
            && *until <= now
        {
            let tenant = tenant.clone();
            self.with(&tenant, |holder, _| holder.rests_until = None);
        }
        let alone: Vec<Tenant> =
            self.at_share.iter().filter(|tenant| !self.holds_its_share(tenant, now)).cloned().collect();
        for tenant in alone {
            self.with(&tenant, |_, _| ());
        }
    }

    fn with_new<R>(
        &mut self,
        tenant: &Tenant,
        limits: &L,
        change: impl FnOnce(&mut Holder<L, W>, u64) -> R,
    ) -> R
    where
        R: Default,
    {
        if !self.tenants.contains_key(tenant) {
            self.tenants.insert(tenant.clone(), Holder::new(limits.clone()));
        }
        self.with(tenant, change).unwrap_or_default()
    }

    /// Changes a tenant's entry, where there is one, and puts it in its new place in line. Hands
    /// `change` the number that the next grant bears.
    fn with<R>(&mut self, tenant: &Tenant, change: impl FnOnce(&mut Holder<L, W>, u64) -> R) -> Option<R> {
        self.leave_line(tenant);
        self.grants += 1;
        let holder = self.tenants.get_mut(tenant)?;
        let result = change(holder, self.grants);
        if holder.held == 0 && !holder.waits() {
            self.tenants.remove(tenant);
            return Some(result);
        }
        if let Some(until) = holder.rests_until {
            self.resting.insert((until, tenant.clone()));
        } else if holder.is_within_limits() {
            for claim in Claim::ALL.into_iter().filter(|claim| !holder.waiting.of(*claim).is_empty()) {
                let turn = (holder.held, *holder.served.of(claim), tenant.clone());
                self.in_line.of_mut(claim).insert(turn);
            }
        }
        Some(result)
    }

    /// Takes a tenant's entry out of wherever it waits.
    fn leave_line(&mut self, tenant: &Tenant) {
        let Some(holder) = self.tenants.get(tenant) else { return };
        if !holder.waits() && holder.rests_until.is_none() {
            return;
        }
        for claim in Claim::ALL {
            let turn = (holder.held, *holder.served.of(claim), tenant.clone());
            self.in_line.of_mut(claim).remove(&turn);
        }
        if let Some(until) = holder.rests_until {
            self.resting.remove(&(until, tenant.clone()));
        }
        self.at_share.remove(tenant);
    }
}

impl<L: TenantLimits, W> Holder<L, W> {
    fn new(limits: L) -> Self {
        let (waiting, served) = (PerClaim::new(), PerClaim::default());
        Self { limits, held: 0, waiting, served, rests_until: None }
    }

    fn waits(&self) -> bool {
        Claim::ALL.into_iter().any(|claim| !self.waiting.of(claim).is_empty())
    }

    fn is_within_limits(&self) -> bool {
        self.rests_until.is_none() && self.limits.in_flight_max().is_none_or(|max| self.held < max)
    }

    /// Takes a turn and a place, or rests until there is a turn.
    fn hold(&mut self, claim: Claim, grant: u64, now: Instant) -> bool {
        match self.limits.take_turn(now) {
            Ok(()) => {
                self.held += 1;
                *self.served.of_mut(claim) = grant;
                true
            }
            Err(until) => {
                self.rests_until = Some(until);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests;
