//! How many bytes may wait in memory for clients: to arrive, or to be taken.
//!
//! A holder may have as much as stays free (dynamic thresholds: Choudhury and Hahne, "Dynamic Queue Length Thresholds for
//! Shared-Memory Packet Switches", 1998). So one alone gets half of all, two a third each, and however many there are,
//! something is left for the next. Those who have proved nothing share a part of it, since they can be as many as they
//! like.

use std::collections::BTreeMap;

use crate::connections::Holder;

/// Bytes that wait in memory, by whose they are.
#[derive(Debug)]
pub struct ByteBudget {
    all: u64,
    unproved: u64,
    used: u64,
    used_unproved: u64,
    holders: BTreeMap<Holder, u64>,
}

impl ByteBudget {
    /// So many bytes in all, and of these so many for those who have proved nothing.
    #[must_use]
    pub const fn new(all: u64, unproved: u64) -> Self {
        Self { all, unproved, used: 0, used_unproved: 0, holders: BTreeMap::new() }
    }

    /// Takes `bytes` for `holder`, where it may have them.
    #[must_use]
    pub fn take(&mut self, holder: &Holder, bytes: u64) -> bool {
        let own = self.used_by(holder).saturating_add(bytes);
        let free = |all: u64, used: u64| all.saturating_sub(used.saturating_add(bytes));
        let fits = own <= free(self.all, self.used)
            && (holder.is_proved() || own <= free(self.unproved, self.used_unproved));
        if fits {
            self.take_anyway(holder, bytes);
        }
        fits
    }

    /// Takes `bytes` that are there already.
    pub fn take_anyway(&mut self, holder: &Holder, bytes: u64) {
        self.used = self.used.saturating_add(bytes);
        if !holder.is_proved() {
            self.used_unproved = self.used_unproved.saturating_add(bytes);
        }
        let own = self.holders.entry(holder.clone()).or_default();
        *own = own.saturating_add(bytes);
    }

    /// Gives back `bytes` that were taken for `holder`.
    pub fn give_back(&mut self, holder: &Holder, bytes: u64) {
        self.used = self.used.saturating_sub(bytes);
        if !holder.is_proved() {
            self.used_unproved = self.used_unproved.saturating_sub(bytes);
        }
        if let Some(own) = self.holders.get_mut(holder) {
            *own = own.saturating_sub(bytes);
            if *own == 0 {
                self.holders.remove(holder);
            }
        }
    }

    /// What `holder` has.
    #[must_use]
    pub fn used_by(&self, holder: &Holder) -> u64 {
        self.holders.get(holder).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::tenant::Tenant;

    fn tenant(name: &str) -> Holder {
        Holder::Tenant(name.parse::<Tenant>().unwrap())
    }

    fn network(last: u8) -> Holder {
        Holder::of_address(IpAddr::from([192, 0, 2, last]))
    }

    #[test]
    fn everybody_may_have_as_much_as_stays_free() {
        let mut budget = ByteBudget::new(1000, 400);
        for (case, holder, bytes, taken) in [
            ("half of all for one alone", tenant("a"), 500, true),
            ("and no more", tenant("a"), 1, false),
            ("half of the rest for the next", tenant("b"), 250, true),
            ("and so on", tenant("c"), 126, false),
            ("and so on", tenant("c"), 125, true),
            ("who proved nothing has less", network(1), 63, false),
            ("something is always left", network(1), 62, true),
        ] {
            assert_eq!(budget.take(&holder, bytes), taken, "{case}");
        }
        budget.give_back(&tenant("a"), 500);
        assert!(!budget.take(&network(1), 139), "of the part of those who proved nothing at most half");
        assert!(budget.take(&network(1), 138));
        assert_eq!(budget.used_by(&network(1)), 200);
    }

    proptest! {
        /// Never more than there is, and a holder that comes new gets something.
        #[test]
        fn there_is_always_room_for_another(asks in prop::collection::vec((0..9_u8, 1..200_u64), 0..200)) {
            let mut budget = ByteBudget::new(10_000, 4000);
            let mut taken = Vec::new();
            for (who, bytes) in asks {
                let holder = if who < 5 { network(who) } else { tenant(&format!("t{who}")) };
                if budget.take(&holder, bytes) {
                    taken.push((holder, bytes));
                }
                prop_assert!(budget.used <= 10_000 && budget.used_unproved <= 4000);
            }
            prop_assert!(budget.take(&tenant("new"), 10), "{budget:?}");
            budget.give_back(&tenant("new"), 10);
            for (holder, bytes) in taken {
                budget.give_back(&holder, bytes);
            }
            prop_assert_eq!((budget.used, budget.used_unproved, budget.holders.len()), (0, 0, 0));
        }
    }
}
