//! That no key stands in another's way, however long its line is.

use std::collections::BTreeMap;

use super::*;

/// A store with nothing but numbers and keys: key `n` for every number of the list `n`.
struct Store(BTreeMap<i64, String>);

impl Store {
    fn page(&self, load: &Load) -> Vec<Queued> {
        let wanted = |sequence: i64, key: &str| match &load.scope {
            Scope::Without(keys) => keys.iter().all(|other| &*other.0 != key),
            Scope::Key(only, last) => &*only.0 == key && sequence <= last.0,
        };
        let rows = self.0.range(load.after.0 + 1..).filter(|(sequence, key)| wanted(**sequence, key));
        rows.take(load.limit).map(|(sequence, key)| keyed(*sequence, key)).collect()
    }

    /// A lane that begins to read.
    fn rig(&self, policy: Policy) -> Rig {
        let last = self.0.last_key_value().map_or(0, |(last, _)| *last);
        Rig::reading(policy, last)
    }

    /// Answers pages until none is awaited.
    fn serve(&self, rig: &mut Rig) -> Vec<Start> {
        let mut started = Vec::new();
        while let Some(load) = rig.load.take() {
            let page = self.page(&load);
            started.extend(rig.loaded(page));
        }
        started
    }

    fn end(&mut self, rig: &mut Rig, sequence: i64) -> Vec<Start> {
        self.0.remove(&sequence);
        let mut started = rig.end(sequence, SUCCESS);
        started.extend(self.serve(rig));
        started
    }
}

fn store(keys: impl IntoIterator<Item = String>) -> Store {
    Store((1..).zip(keys).collect())
}

fn repeat(key: &str, times: usize) -> impl Iterator<Item = String> + use<> {
    std::iter::repeat_n(key.to_owned(), times)
}

#[test]
fn a_blocked_key_costs_one_place_whatever_stands_behind_it() {
    let mut store = store(repeat("blocked", 10_000).chain(repeat("free", 3)));
    let mut rig = store.rig(policy(Ordering::Key, 10));
    assert_eq!(numbers(&store.serve(&mut rig)), [1, 10_001]);
    assert_eq!(rig.end(1, FAILURE), []);
    store.serve(&mut rig);
    assert_eq!(rig.lane.window.len(), 1 + 3, "the head that waits, and the other key");
    assert_eq!(numbers(&store.end(&mut rig, 10_001)), [10_002]);
    assert_eq!(rig.accept([keyed(10_004, "blocked"), keyed(10_005, "new")]), [(10_005, 1)]);
    assert_eq!(rig.lane.window.len(), 1 + 2 + 1);
    assert_eq!(rig.wait(10), [(1, 2)]);
    assert_eq!(numbers(&store.end(&mut rig, 1)), [2], "its line goes on where it stood");
    assert_eq!(numbers(&store.end(&mut rig, 2)), [3]);
}

#[test]
fn what_a_key_has_beyond_the_last_page_is_not_lost() {
    let mut store = store(repeat("only", 300));
    let mut rig = store.rig(policy(Ordering::Key, 10));
    assert_eq!(numbers(&store.serve(&mut rig)), [1]);
    for sequence in 1..300 {
        assert_eq!(numbers(&store.end(&mut rig, sequence)), [sequence + 1]);
    }
}

#[test]
fn keys_found_blocked_in_the_store_take_one_place_each() {
    let keys = 100;
    let blocked = (0..keys).flat_map(|key| repeat(&format!("blocked {key}"), 20));
    let store = store(blocked.chain(repeat("free", 1)));
    let mut rig = store.rig(policy(Ordering::Key, 10));
    let later = rig.now + secs(100);
    let mut started = Vec::new();
    while let Some(load) = rig.load.take() {
        let mut page = store.page(&load);
        for queued in page.iter_mut().filter(|queued| queued.ticket.sequence.0 % 20 == 1) {
            if queued.ticket.sequence.0 <= keys * 20 {
                (queued.attempt_count, queued.due) = (1, Some(later));
            }
        }
        started.extend(rig.loaded(page));
    }
    assert_eq!(numbers(&started), [2001]);
    assert_eq!(rig.lane.window.len(), 100 + 1);
}

#[test]
fn one_that_waits_in_the_middle_of_its_line_holds_the_rest() {
    // Another ordering had let it be tried before its turn.
    let mut rig = Rig::new(policy(Ordering::Key, 10));
    let due = rig.now + secs(5);
    rig.accept([keyed(1, "a")]);
    rig.end(1, FAILURE);
    rig.accept((2..=20).map(|sequence| keyed(sequence, "a")));
    rig.wait(10);
    assert_eq!(rig.end(1, SUCCESS), []);
    let second = Queued { attempt_count: 1, due: Some(due + secs(10)), ..keyed(2, "a") };
    assert_eq!(rig.loaded([second].into_iter().chain((3..=13).map(|n| keyed(n, "a")))), []);
    assert_eq!(rig.wait(5), [(2, 2)]);
    assert_eq!(rig.end(2, SUCCESS), []);
    assert_eq!(rig.load.as_ref().map(|load| load.after), Some(Sequence(2)), "3 has not gone");
}

#[test]
fn one_that_comes_to_wait_at_the_head_sends_the_rest_back() {
    let mut rig = Rig::opening(policy(Ordering::Key, 10));
    let due = rig.now + secs(5);
    let second = Queued { attempt_count: 1, due: Some(due), ..keyed(2, "a") };
    let rest = (3..=8).map(|sequence| keyed(sequence, "a"));
    assert_eq!(rig.loaded([keyed(1, "a"), second].into_iter().chain(rest)), [(1, 1)]);
    assert_eq!(rig.lane.window.len(), 8);
    assert_eq!(rig.end(1, SUCCESS), []);
    assert_eq!(rig.lane.window.len(), 1);
}

#[test]
fn what_is_accepted_behind_a_blocked_key_stays_in_the_store() {
    let mut rig = Rig::new(policy(Ordering::Key, 10));
    rig.accept([keyed(1, "a")]);
    rig.end(1, FAILURE);
    assert_eq!(rig.accept((2..=9).map(|sequence| keyed(sequence, "a"))), []);
    assert_eq!(rig.lane.window.len(), 1);
    assert_eq!(rig.wait(10), [(1, 2)]);
    assert_eq!(rig.end(1, SUCCESS), []);
    assert!(rig.load.is_some());
}

#[test]
fn keys_in_flight_never_fill_the_window() {
    for in_flight_max in [2, 9, 16, 17, 100, 1000] {
        let busy = in_flight_max - 1;
        let lines = (0..busy).flat_map(|key| repeat(&format!("busy {key}"), 20));
        let store = store(lines.chain(repeat("free", 1)));
        let mut rig = store.rig(policy(Ordering::Key, in_flight_max));
        let started = store.serve(&mut rig);
        let last = i64::from(busy) * 20 + 1;
        assert_eq!(numbers(&started).last(), Some(&last), "{in_flight_max} in flight");
        assert_eq!(started.len(), usize::try_from(in_flight_max).expect("a small number"));
    }
}

#[test]
fn a_limit_raised_makes_room_for_more_keys() {
    let lines = (0..16).flat_map(|key| repeat(&format!("busy {key}"), 50));
    let store = store(lines.chain(repeat("free", 1)));
    let mut rig = store.rig(policy(Ordering::Key, 1));
    store.serve(&mut rig);
    let mut started = rig.change(rules(policy(Ordering::Key, 17)));
    started.extend(store.serve(&mut rig));
    assert_eq!(numbers(&started).last(), Some(&801));
}

#[test]
fn keys_that_come_back_leave_time_for_keys_unheard_of() {
    // Hot keys end as fast as they are read, so that one of them is always wanted.
    let hot = (0..100).flat_map(|key| repeat(&format!("hot {key:03}"), 100));
    let cold = (0..400).map(|key| format!("cold {key:03}"));
    let mut store = store(hot.chain(cold));
    let mut rig = store.rig(policy(Ordering::Key, 1000));
    let mut flying = VecDeque::new();
    for page in 0..200 {
        let Some(load) = rig.load.take() else { break };
        let rows = store.page(&load);
        flying.extend(numbers(&rig.loaded(rows)));
        for _ in 0..2 {
            let hot = flying.iter().position(|sequence| *sequence <= 10_000);
            let Some(sequence) = hot.and_then(|at| flying.remove(at)) else { continue };
            store.0.remove(&sequence);
            flying.extend(numbers(&rig.end(sequence, SUCCESS)));
        }
        let cold = flying.iter().filter(|sequence| **sequence > 10_000).count();
        if cold == 400 {
            return;
        }
        assert!(page < 199, "{cold} of 400 after {page} pages");
    }
}

#[test]
fn wanted_keys_take_turns() {
    // Each key has a place of its own, so that each delivery is read by itself.
    let lines = (0..50).flat_map(|key| repeat(&format!("key {key:02}"), 40));
    let mut store = store(lines);
    let mut rig = store.rig(policy(Ordering::Key, 1000));
    let mut flying: VecDeque<i64> = numbers(&store.serve(&mut rig)).into();
    assert_eq!(flying.len(), 50);
    let mut ended = BTreeMap::<i64, u32>::new();
    for _ in 0..500 {
        // Requests end faster than pages come.
        for _ in 0..2 {
            let Some(sequence) = flying.pop_front() else { continue };
            store.0.remove(&sequence);
            *ended.entry((sequence - 1) / 40).or_default() += 1;
            flying.extend(numbers(&rig.end(sequence, SUCCESS)));
        }
        if let Some(load) = rig.load.take() {
            let rows = store.page(&load);
            flying.extend(numbers(&rig.loaded(rows)));
        }
    }
    let (least, most) = (ended.values().min(), ended.values().max());
    assert!(ended.len() == 50 && least.zip(most).is_some_and(|(a, b)| b - a <= 2), "{ended:?}");
}
