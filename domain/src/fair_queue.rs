//! Who is next of many who wait on behalf of others, such as reads on behalf of tenants: those in whose name they wait
//! take turns, so that one of a few waits as long beside a crowd of one name as beside one.
//!
//! Bounded, in all and for each name. Of one name the first that came is the first to go.

use std::collections::{BTreeMap, VecDeque};

/// Who waits, in whose name.
#[derive(Debug)]
pub struct FairQueue<K, T> {
    lines: BTreeMap<K, VecDeque<T>>,
    /// Each name in `lines` once, the next first.
    turns: VecDeque<K>,
    len: usize,
    len_max: usize,
    line_max: usize,
}

impl<K: Clone + Ord, T> FairQueue<K, T> {
    /// An empty one for `len_max` in all and `line_max` of one name.
    #[must_use]
    pub const fn new(len_max: usize, line_max: usize) -> Self {
        Self { lines: BTreeMap::new(), turns: VecDeque::new(), len: 0, len_max, line_max }
    }

    /// Has `item` wait in the name of `key`; gives it back where there is no room.
    pub fn push(&mut self, key: K, item: T) -> Result<(), T> {
        let waiting = self.lines.get(&key).map_or(0, VecDeque::len);
        if self.len >= self.len_max || waiting >= self.line_max {
            return Err(item);
        }
        if waiting == 0 {
            self.turns.push_back(key.clone());
        }
        self.lines.entry(key).or_default().push_back(item);
        self.len += 1;
        self.check();
        Ok(())
    }

    /// The next one of those whose name `may` go; the others keep their turn.
    pub fn pop(&mut self, may: impl Fn(&K) -> bool) -> Option<(K, T)> {
        let place = self.turns.iter().position(may)?;
        let key = self.turns.remove(place)?;
        let line = self.lines.get_mut(&key)?;
        let item = line.pop_front()?;
        self.len -= 1;
        if line.is_empty() {
            self.lines.remove(&key);
        } else {
            self.turns.push_back(key.clone());
        }
        self.check();
        Some((key, item))
    }

    /// Forgets those that wait no longer.
    pub fn retain(&mut self, still_waits: impl Fn(&T) -> bool) {
        for line in self.lines.values_mut() {
            line.retain(&still_waits);
        }
        self.lines.retain(|_, line| !line.is_empty());
        self.turns.retain(|key| self.lines.contains_key(key));
        self.len = self.lines.values().map(VecDeque::len).sum();
        self.check();
    }

    /// How many wait.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn check(&self) {
        debug_assert!(self.len <= self.len_max, "no more wait than may");
        debug_assert!(self.turns.len() == self.lines.len(), "each name with one that waits has one turn");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_take_turns() {
        let mut queue = FairQueue::new(10, 5);
        for (name, item) in [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("b", 6)] {
            assert_eq!(queue.push(name, item), Ok(()));
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(|_| true)).map(|(_, item)| item).collect();
        assert_eq!(order, [1, 4, 5, 2, 6, 3]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_crowd_fills_its_own_line_alone() {
        let mut queue = FairQueue::new(6, 4);
        let taken = (0..9).filter(|item| queue.push("crowd", *item).is_ok()).count();
        assert_eq!(taken, 4);
        assert_eq!(queue.push("other", 0), Ok(()));
        assert_eq!((queue.push("third", 0), queue.push("fourth", 7)), (Ok(()), Err(7)), "full in all");
    }

    #[test]
    fn who_may_not_go_keeps_its_turn() {
        let mut queue = FairQueue::new(9, 9);
        for name in ["a", "b", "a"] {
            assert_eq!(queue.push(name, ()), Ok(()));
        }
        assert_eq!(queue.pop(|name| *name != "a"), Some(("b", ())));
        assert_eq!(queue.pop(|name| *name != "a"), None);
        assert_eq!(queue.pop(|_| true), Some(("a", ())));
        queue.retain(|()| false);
        assert_eq!((queue.len(), queue.pop(|_| true)), (0, None));
    }

    proptest! {
        /// Between two of one name every other name that waits all the while goes once.
        #[test]
        fn nobody_goes_twice_while_another_waits(names in prop::collection::vec(0_u8..5, 0..60)) {
            let mut queue = FairQueue::new(60, 60);
            for (item, name) in names.iter().enumerate() {
                prop_assert!(queue.push(*name, item).is_ok());
            }
            let order: Vec<_> = std::iter::from_fn(|| queue.pop(|_| true)).collect();
            prop_assert_eq!(order.len(), names.len());
            for (first, (name, _)) in order.iter().enumerate() {
                let Some(second) = order.iter().skip(first + 1).position(|(other, _)| other == name) else { continue };
                let between: Vec<_> = order[first + 1..first + 1 + second].iter().map(|(other, _)| *other).collect();
                let waiting = order[first + 1..].iter().map(|(other, _)| *other).filter(|other| other != name);
                for other in waiting {
                    prop_assert!(between.contains(&other) , "{} goes twice while {} waits", name, other);
                }
            }
        }
    }
}
