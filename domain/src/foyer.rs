//! Lanes that have work and are not in memory, because very many wait for a place in flight already.
//!
//! A lane that waits in memory costs some 20 KiB, and a node has places for a few hundred. So only some
//! lanes of each tenant wait there ([`Places::has_room`](crate::places::Places::has_room)); of the others
//! all that is kept is whose they are and in which order they came. Tenants take turns, and so do a
//! tenant's lanes: one that has been in memory for a while goes back to the end
//! while others wait here.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use crate::places::Claim;
use crate::tenant::Tenant;

/// What a lane waits for: its tenant's lanes of the same claim are one queue. Endpoints that fail have
/// queues of their own, since their places are few and come back late.
type Queue = (Tenant, Claim);

/// The lanes that wait outside; `K` names one.
#[derive(Debug)]
pub struct Foyer<K> {
    queues: BTreeMap<Queue, VecDeque<K>>,
    /// Lanes that were called and have not arrived yet.
    coming: BTreeMap<Queue, usize>,
    /// The queue that was called last.
    last: Option<Queue>,
}

impl<K> Default for Foyer<K> {
    fn default() -> Self {
        Self { queues: BTreeMap::new(), coming: BTreeMap::new(), last: None }
    }
}

impl<K> Foyer<K> {
    /// Puts a lane at the end of its queue.
    pub fn put(&mut self, tenant: Tenant, claim: Claim, lane: K) {
        self.queues.entry((tenant, claim)).or_default().push_back(lane);
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Forgets who waits; those who were called are still coming.
    pub fn clear(&mut self) {
        self.queues.clear();
    }

    /// Whether lanes of the tenant wait with this claim.
    #[must_use]
    pub fn waits(&self, tenant: &Tenant, claim: Claim) -> bool {
        self.queues.contains_key(&(tenant.clone(), claim))
    }

    /// The next lane that may come in, and of which queue: those that have room take turns.
    /// `has_room` is told how many are coming already.
    pub fn call(&mut self, has_room: impl Fn(&Tenant, Claim, usize) -> bool) -> Option<(K, Tenant, Claim)> {
        let after = self.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let up_to = self.last.as_ref().map_or(Bound::Unbounded, Bound::Included);
        let later = self.queues.range::<Queue, _>((after, Bound::Unbounded));
        // Without a last one these are the same again, and one look more.
        let from_the_start = self.queues.range::<Queue, _>((Bound::Unbounded, up_to));
        let mut all = later.chain(from_the_start).map(|(queue, _)| queue);
        let coming = |queue| self.coming.get(queue).copied().unwrap_or(0);
        let next = all.find(|queue| has_room(&queue.0, queue.1, coming(queue)))?.clone();
        let lanes = self.queues.get_mut(&next)?;
        let lane = lanes.pop_front();
        if lanes.is_empty() {
            self.queues.remove(&next);
        }
        *self.coming.entry(next.clone()).or_default() += 1;
        self.last = Some(next.clone());
        lane.map(|lane| (lane, next.0, next.1))
    }

    /// A lane that was called waits for its place now, or has left.
    pub fn arrived(&mut self, tenant: Tenant, claim: Claim) {
        let queue = (tenant, claim);
        let Some(coming) = self.coming.get_mut(&queue) else { return };
        *coming = coming.saturating_sub(1);
        if *coming == 0 {
            self.coming.remove(&queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Claim::{Doubtful, First};

    fn tenant(name: &str) -> Tenant {
        name.parse().unwrap()
    }

    fn foyer(lanes: &[(&str, Claim, u32)]) -> Foyer<u32> {
        let mut foyer = Foyer::default();
        for (name, claim, lane) in lanes {
            foyer.put(tenant(name), *claim, *lane);
        }
        foyer
    }

    fn all(foyer: &mut Foyer<u32>, has_room: impl Fn(&Tenant, Claim, usize) -> bool) -> Vec<u32> {
        std::iter::from_fn(|| foyer.call(&has_room).map(|(lane, ..)| lane)).collect()
    }

    #[test]
    fn tenants_take_turns_and_so_do_their_lanes() {
        let mut foyer =
            foyer(&[("a", First, 1), ("a", First, 2), ("a", First, 3), ("b", First, 4), ("b", First, 5)]);
        assert_eq!(all(&mut foyer, |_, _, _| true), [1, 4, 2, 5, 3]);
        assert!(foyer.is_empty());
        foyer.put(tenant("a"), First, 6);
        let called = foyer.call(|_, _, _| true);
        assert_eq!(called, Some((6, tenant("a"), First)), "the one that was last may be next");
        assert_eq!(foyer.call(|_, _, _| true), None);
    }

    #[test]
    fn who_has_no_room_keeps_nobody_else() {
        let mut foyer =
            foyer(&[("a", First, 1), ("a", Doubtful, 2), ("b", First, 3), ("b", First, 4), ("c", First, 5)]);
        assert_eq!(all(&mut foyer, |name, claim, _| *name != tenant("b") && claim == First), [1, 5]);
        assert!(!foyer.waits(&tenant("a"), First) && foyer.waits(&tenant("a"), Doubtful));
        assert_eq!(all(&mut foyer, |_, _, _| true), [2, 3, 4]);
    }

    #[test]
    fn who_is_coming_takes_up_room() {
        let mut foyer = foyer(&[("a", First, 1), ("a", First, 2), ("a", First, 3), ("b", First, 4)]);
        let room = |_: &Tenant, _, coming| coming < 1;
        assert_eq!(all(&mut foyer, room), [1, 4]);
        foyer.arrived(tenant("a"), First);
        foyer.arrived(tenant("c"), First);
        assert_eq!(all(&mut foyer, room), [2]);
        foyer.arrived(tenant("b"), First);
        foyer.arrived(tenant("a"), First);
        assert_eq!(all(&mut foyer, room), [3]);
        foyer.arrived(tenant("a"), First);
        assert!(foyer.coming.is_empty(), "{foyer:?}");
    }
}
