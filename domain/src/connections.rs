//! Whose connection gives way where there are too many.
//!
//! Nobody is turned away for being one too many as long as another only waits for its client: of the holder that has
//! the most, the one that waits longest goes. A connection is its network's until a key or a signature proved right
//! on it; from then on it is that tenant's. Those that are proved have places that the others cannot take, and the
//! last places are for those that are not proved yet, since everybody begins as one of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use crate::tenant::Tenant;

/// Whose something is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// Of somebody who has proved nothing: an address, of IPv6 the first 64 bits, which is what one host has.
    Network(IpAddr),
    /// A tenant's.
    Tenant(Tenant),
    /// Of who sees everything.
    Admin,
}

impl Holder {
    /// Who calls from `address`.
    #[must_use]
    pub fn of_address(address: IpAddr) -> Self {
        Self::Network(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
            v4 @ IpAddr::V4(_) => v4,
        })
    }

    /// Whether a key or a signature proved who it is.
    #[must_use]
    pub const fn is_proved(&self) -> bool {
        !matches!(self, Self::Network(_))
    }
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// In all.
    pub all: usize,
    /// Of those that are not proved: the rest is kept for those that are.
    pub unproved: usize,
    /// Of those of one network that are not proved; none: no cap.
    pub of_network: Option<usize>,
    /// Those not proved that do not give way to others: who comes must have the time to prove something.
    pub unproved_kept: usize,
}

/// How many connections there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// In all.
    pub all: usize,
    /// Not proved.
    pub unproved: usize,
    /// Of the network that the new one comes from, not proved.
    pub of_network: usize,
}

/// Among whom a connection must give way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crowd {
    /// Those of the newcomer's network that are not proved.
    Network,
    /// Those that are not proved.
    Unproved,
    /// Those that are proved.
    Proved,
}

impl Caps {
    /// Where it is full for one more that is not proved yet; none where there is room.
    #[must_use]
    pub fn crowd(&self, counts: Counts) -> Option<Crowd> {
        if self.of_network.is_some_and(|cap| counts.of_network >= cap) {
            Some(Crowd::Network)
        } else if counts.unproved >= self.unproved {
            Some(Crowd::Unproved)
        } else if counts.all < self.all {
            None
        } else if counts.unproved > self.unproved_kept {
            Some(Crowd::Unproved)
        } else {
            Some(Crowd::Proved)
        }
    }
}

/// One of those there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate<I> {
    /// Which.
    pub id: I,
    /// Whose.
    pub holder: Holder,
    /// How much it holds of what is scarce: 1 where that is the number of connections.
    pub weight: u64,
    /// Since when it waits for its client; none: its client waits, and it does not give way.
    pub waits_since: Option<Instant>,
}

/// Which `count` of `candidates` give way: each time, of the holder with the most, the one that waits longest.
#[must_use]
pub fn give_way<I: Copy + Ord>(candidates: Vec<Candidate<I>>, count: usize) -> Vec<I> {
    let mut groups: BTreeMap<Holder, Group<I>> = BTreeMap::new();
    for candidate in candidates {
        let group = groups.entry(candidate.holder).or_insert(Group { weight: 0, waiting: Vec::new() });
        group.weight = group.weight.saturating_add(candidate.weight);
        if let Some(since) = candidate.waits_since {
            group.waiting.push((since, candidate.id, candidate.weight));
        }
    }
    let mut groups: Vec<_> = groups.into_values().filter(|group| !group.waiting.is_empty()).collect();
    for group in &mut groups {
        // The one that waits longest is the last.
        group.waiting.sort_unstable_by(|a, b| b.cmp(a));
    }
    let mut going = Vec::new();
    while going.len() < count {
        let some = groups.iter_mut().filter(|group| !group.waiting.is_empty());
        let Some(most) = some.max_by_key(|group| group.weight) else { break };
        let Some((_, id, weight)) = most.waiting.pop() else { break };
        most.weight = most.weight.saturating_sub(weight);
        going.push(id);
    }
    going
}

/// What one holder has.
struct Group<I> {
    weight: u64,
    /// Those that could give way: since when they wait, which, and how much they hold.
    waiting: Vec<(Instant, I, u64)>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn network(last: u8) -> Holder {
        Holder::of_address(IpAddr::from([192, 0, 2, last]))
    }

    #[test]
    fn hosts_are_told_apart_by_their_network() {
        for (address, counted) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ] {
            let expected = Holder::Network(counted.parse().unwrap());
            assert_eq!(Holder::of_address(address.parse().unwrap()), expected);
        }
    }

    #[test]
    fn it_is_full_in_several_ways() {
        const CAPS: Caps = Caps { all: 100, unproved: 80, of_network: Some(20), unproved_kept: 10 };
        for (all, unproved, of_network, crowd) in [
            (0, 0, 0, None),
            (99, 79, 19, None),
            (20, 20, 20, Some(Crowd::Network)),
            (80, 80, 0, Some(Crowd::Unproved)),
            (100, 11, 0, Some(Crowd::Unproved)),
            (100, 10, 0, Some(Crowd::Proved)),
            (100, 0, 0, Some(Crowd::Proved)),
        ] {
            let counts = Counts { all, unproved, of_network };
            assert_eq!(CAPS.crowd(counts), crowd, "{counts:?}");
            let counts = Counts { of_network: 0, ..counts };
            let behind_proxy = Caps { of_network: None, ..CAPS };
            assert_ne!(behind_proxy.crowd(counts), Some(Crowd::Network));
        }
    }

    #[test]
    fn who_has_the_most_gives_way_first() {
        let start = Instant::now();
        let waits = |id, holder: &Holder, since: u64| Candidate {
            id,
            holder: holder.clone(),
            weight: 1,
            waits_since: Some(start + Duration::from_secs(since)),
        };
        let busy =
            |id, holder: &Holder| Candidate { id, holder: holder.clone(), weight: 1, waits_since: None };
        let (one, two) = (network(1), network(2));
        for (case, candidates, count, going) in [
            ("the one that waits longest", vec![waits(1, &one, 5), waits(2, &one, 3)], 1, vec![2]),
            (
                "of who has the most",
                vec![waits(1, &one, 0), waits(2, &two, 5), waits(3, &two, 6)],
                1,
                vec![2],
            ),
            (
                "who is served counts, and stays",
                vec![waits(1, &one, 0), busy(2, &two), busy(3, &two), waits(4, &two, 9)],
                1,
                vec![4],
            ),
            ("nobody who is served", vec![busy(1, &one)], 1, vec![]),
            ("no more than there are", vec![waits(1, &one, 0)], 5, vec![1]),
        ] {
            assert_eq!(give_way(candidates, count), going, "{case}");
        }
        let heavy = Candidate { weight: 9, ..waits(1, &one, 9) };
        assert_eq!(give_way(vec![heavy, waits(2, &two, 0), waits(3, &two, 0)], 1), [1], "by weight");
    }

    proptest! {
        /// Nobody with fewer gives way while another with more waits.
        #[test]
        fn holders_are_evened_out(hosts in prop::collection::vec(0..4_u8, 1..60), count in 1..40_usize) {
            let start = Instant::now();
            let candidates: Vec<_> = hosts.iter().enumerate().map(|(id, &host)| Candidate {
                id, holder: network(host), weight: 1, waits_since: Some(start),
            }).collect();
            let going = give_way(candidates, count);
            prop_assert_eq!(going.len(), count.min(hosts.len()));
            let before = |host: u8| hosts.iter().map(|&other| usize::from(other == host)).sum::<usize>();
            let gone = |host| going.iter().filter(|&&id| hosts[id] == host).count();
            let most_left = (0..4).map(|host| before(host) - gone(host)).max().unwrap_or(0);
            for host in 0..4 {
                prop_assert!(gone(host) == 0 || before(host) - gone(host) + 1 >= most_left);
            }
        }
    }
}
