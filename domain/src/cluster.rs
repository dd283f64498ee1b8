//! Which node dispatches which subscriptions: 256 slots, each held by one node by a lease.
//!
//! A subscription's slot is the last byte of its id, which is random in a `UUIDv7` (RFC 9562, section 5.7).
//! Whoever holds a slot dispatches its subscriptions; any node takes any event. A lease has an epoch that grows
//! with each holder, and what is written under an older one changes nothing: that is the guarantee. What a
//! node does by its own clock here is courtesy, so that little is sent twice.

use std::time::{Duration, Instant};

use crate::id::{NodeId, SubscriptionId};
use crate::time::Timestamp;

/// One running process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Chosen at its start.
    pub id: NodeId,
    /// Where it runs, for people.
    pub name: String,
    /// Of its program.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// Since it was heard of last.
    pub silent_for: Duration,
    /// It hands its slots over and takes none.
    pub leaving: bool,
}

/// Who holds a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The slot.
    pub slot: Slot,
    /// Who holds it; none where its lease is over.
    pub node: Option<NodeId>,
}

/// The cluster as the database shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// All that were heard of within some leases, the oldest first.
    pub nodes: Vec<Node>,
    /// All slots, in order.
    pub slots: Vec<Holder>,
}

/// Slots there are.
pub const SLOTS: usize = 256;

/// One of the [`SLOTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u8);

impl Slot {
    /// Of a subscription.
    #[must_use]
    pub const fn of(id: SubscriptionId) -> Self {
        let [.., last] = id.0.into_bytes();
        Self(last)
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).map(Self)
    }
}

/// How often a slot has changed hands. What is written for it names the epoch under which it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub i64);

/// How many slots `me` should hold, where these are all nodes that are alive with what each holds now:
/// the same for all but for one, and the larger shares go to those that hold the most, so that as few slots
/// as possible move. Nodes that see the same come to the same.
#[must_use]
pub fn share(me: NodeId, nodes: &[(NodeId, usize)]) -> usize {
    let mut others = nodes.to_vec();
    others.sort_by_key(|(id, held)| (std::cmp::Reverse(*held), *id));
    let count = others.len().max(1);
    let place = others.iter().position(|(id, _)| *id == me).unwrap_or(count);
    SLOTS / count + usize::from(place < SLOTS % count)
}

/// What a node may do under a lease that it renewed last at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Send.
    Valid,
    /// Finish what is in flight: another node may hold the slots soon.
    Ending,
    /// Nothing: another node may hold the slots now.
    Over,
}

/// The standing at `now` of a lease that was last renewed by a request sent at `renewed`. Its last third is
/// left for what is in flight.
#[must_use]
pub fn standing(renewed: Instant, lease: Duration, now: Instant) -> Standing {
    let age = now.saturating_duration_since(renewed);
    if age >= lease {
        Standing::Over
    } else if age >= lease / 3 * 2 {
        Standing::Ending
    } else {
        Standing::Valid
    }
}

/// How long what is known of subscriptions may be acted on. The answer to a pause promises that nothing starts a second
/// later, wherever that would be, and whatever has fallen silent in between.
pub const CURRENT_FOR: Duration = Duration::from_millis(900);

/// Whether a node may start anything at `now`. Its leases were last renewed by a request sent at `renewed` (`None`: it
/// holds its slots for good), and it knows all that others had committed by `known` (`None`: there are no others).
#[must_use]
pub fn may_start(renewed: Option<Instant>, lease: Duration, known: Option<Instant>, now: Instant) -> bool {
    let is_current = known.is_none_or(|known| now.saturating_duration_since(known) < CURRENT_FOR);
    is_current && renewed.is_none_or(|renewed| standing(renewed, lease, now) == Standing::Valid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn node(n: u128) -> NodeId {
        NodeId(Uuid::from_u128(n))
    }

    fn shares(held: &[usize]) -> Vec<usize> {
        let nodes: Vec<_> = (0..).map(node).zip(held.iter().copied()).collect();
        nodes.iter().map(|(id, _)| share(*id, &nodes)).collect()
    }

    #[test]
    fn slots_are_spread_evenly_and_few_of_them_move() {
        for (held, expected) in [
            (vec![0], vec![256]),
            (vec![256, 0], vec![128, 128]),
            (vec![256, 0, 0], vec![86, 85, 85]),
            (vec![85, 86, 85], vec![85, 86, 85]),
            (vec![86, 86, 84], vec![86, 85, 85]),
            (vec![128, 128, 0], vec![86, 85, 85]),
            (vec![0, 0, 0], vec![86, 85, 85]),
        ] {
            assert_eq!(shares(&held), expected, "{held:?}");
        }
        assert_eq!(share(node(9), &[(node(1), 256)]), 256, "who is not among them takes what is left");
    }

    proptest! {
        #[test]
        fn all_slots_have_a_place_with_any_nodes(held in prop::collection::vec(0_usize..=256, 1..=300)) {
            let shares = shares(&held);
            prop_assert_eq!(shares.iter().sum::<usize>(), SLOTS);
            prop_assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }
    }

    #[test]
    fn a_lease_ends_before_it_is_over() {
        let renewed = Instant::now();
        let lease = Duration::from_secs(15);
        for (seconds, expected) in
            [(0, Standing::Valid), (9, Standing::Valid), (10, Standing::Ending), (15, Standing::Over)]
        {
            let now = renewed + Duration::from_secs(seconds);
            assert_eq!(standing(renewed, lease, now), expected, "{seconds} s");
        }
        assert_eq!(standing(renewed + lease, lease, renewed), Standing::Valid, "clocks that disagree");
    }

    #[test]
    fn nothing_starts_on_old_knowledge_or_an_ending_lease() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let lease = Duration::from_secs(3);
        for (case, renewed, known, now, expected) in [
            ("alone on SQLite", None, None, 100_000, true),
            ("alone", Some(0), None, 1999, true),
            ("the lease ends", Some(0), None, 2000, false),
            ("others were heard of lately", Some(0), Some(0), 899, true),
            ("and not lately", Some(0), Some(0), 900, false),
            ("both count", Some(0), Some(1800), 2000, false),
        ] {
            assert_eq!(may_start(renewed.map(at), lease, known.map(at), at(now)), expected, "{case}");
        }
    }

    #[test]
    fn the_slot_is_the_last_byte() {
        let id = "0199f1c2-7c4b-7c3e-9a41-6b0c2f7fd5e7".parse().unwrap();
        assert_eq!(Slot::of(id), Slot(0xe7));
        assert_eq!(Slot::all().count(), SLOTS);
    }
}
