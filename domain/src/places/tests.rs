//! Tables for each rule, and laws over random histories.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;

use super::company::{COMPANY_STEP, COMPANY_TIME};
use super::*;

/// A tenant's limits in a test: turns that are left, and when the next ones come.
#[derive(Clone, Debug, Default)]
struct Limits(Rc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    max: Cell<Option<u32>>,
    next_turn: Cell<Option<Instant>>,
    /// Between two turns; none: no rate.
    period: Option<Duration>,
}

impl TenantLimits for Limits {
    fn in_flight_max(&self) -> Option<u32> {
        self.0.max.get()
    }

    fn take_turn(&self, now: Instant) -> Result<(), Instant> {
        let Some(period) = self.0.period else { return Ok(()) };
        match self.0.next_turn.get() {
            Some(next) if next > now => Err(next),
            _ => {
                self.0.next_turn.set(Some(now + period));
                Ok(())
            }
        }
    }
}

fn at_most(max: u32) -> Limits {
    Limits(Rc::new(Inner { max: Cell::new(Some(max)), ..Inner::default() }))
}

fn every(period: Duration) -> Limits {
    Limits(Rc::new(Inner { period: Some(period), ..Inner::default() }))
}

fn tenant(name: &str) -> Tenant {
    name.parse().unwrap()
}

/// A node in which everybody waits where nothing is free.
struct Rig {
    places: Places<Limits, u32>,
    now: Instant,
    next: u32,
}

impl Rig {
    fn new(size: u32) -> Self {
        Self { places: Places::new(size), now: Instant::now(), next: 0 }
    }

    /// Asks for a place; the number of the waiter where it has to wait.
    fn ask(&mut self, name: &str, limits: &Limits, claim: Claim) -> Option<u32> {
        let tenant = tenant(name);
        if self.places.take(&tenant, limits, claim, self.now) {
            return None;
        }
        self.next += 1;
        self.places.wait(&tenant, limits, claim, self.next);
        Some(self.next)
    }

    /// Asks `count` times; how many got a place at once.
    fn ask_many(&mut self, name: &str, claim: Claim, count: u32) -> u32 {
        let limits = Limits::default();
        (0..count).map(|_| u32::from(self.ask(name, &limits, claim).is_none())).sum()
    }

    fn give_back(&mut self, name: &str, claim: Claim) {
        self.places.give_back(&tenant(name), claim);
    }

    /// Whoever has a place now, in the order in which they got it.
    fn grants(&mut self) -> Vec<(String, Claim, u32)> {
        std::iter::from_fn(|| self.places.grant(self.now))
            .map(|grant| (grant.tenant.to_string(), grant.claim, grant.waiter))
            .collect()
    }

    fn next_tenants(&mut self, back: &str, times: u32) -> Vec<String> {
        let mut names = Vec::new();
        for _ in 0..times {
            self.give_back(back, Claim::First);
            names.extend(self.grants().into_iter().map(|(name, ..)| name));
        }
        names
    }
}

use Claim::{Doubtful, First, Further};

#[test]
fn what_is_free_is_taken_at_once() {
    let mut rig = Rig::new(2);
    assert_eq!(rig.ask_many("a", First, 3), 2);
    assert_eq!(rig.grants(), []);
    rig.give_back("a", First);
    assert_eq!(rig.grants(), [("a".to_owned(), First, 1)]);
    assert_eq!(rig.places.held(), 2);
}

#[test]
fn the_tenant_that_holds_least_is_next() {
    let mut rig = Rig::new(4);
    rig.ask_many("flood", First, 100);
    rig.ask_many("small", First, 3);
    assert_eq!(rig.next_tenants("flood", 4), ["small", "small", "flood", "flood"], "two each");
}

#[test]
fn tenants_that_hold_as_much_take_turns() {
    let mut rig = Rig::new(1);
    rig.ask_many("a", First, 3);
    for name in ["b", "c"] {
        rig.ask_many(name, First, 2);
    }
    let mut holder = "a".to_owned();
    let mut order = Vec::new();
    for _ in 0..6 {
        let next = rig.next_tenants(&holder, 1);
        holder.clone_from(&next[0]);
        order.extend(next);
    }
    assert_eq!(order, ["b", "c", "a", "b", "c", "a"]);
}

#[test]
fn subscriptions_of_a_tenant_take_turns() {
    let mut rig = Rig::new(1);
    assert_eq!(rig.ask_many("a", First, 4), 1);
    let mut order = Vec::new();
    for _ in 0..3 {
        rig.give_back("a", First);
        order.extend(rig.grants().into_iter().map(|(.., waiter)| waiter));
    }
    assert_eq!(order, [1, 2, 3]);
}

#[test]
fn shares_are_kept_free() {
    for (case, claim, size, got) in [
        ("all but the last are for first requests", First, 64, 63),
        ("but for an eighth", Further, 64, 56),
        ("and half", Doubtful, 64, 32),
        ("a small node has no shares", Further, 4, 4),
        ("and lets one try", Doubtful, 1, 1),
    ] {
        assert_eq!(Rig::new(size).ask_many("a", claim, 100), got, "{case}");
    }
}

#[test]
fn a_tenant_that_holds_few_finds_a_place() {
    let mut rig = Rig::new(512);
    assert_eq!(rig.ask_many("flood", First, 1000), 504);
    for (name, got) in [("b", 3), ("c", 2), ("d", 1), ("e", 1), ("f", 1)] {
        assert_eq!(rig.ask_many(name, First, 8), got, "{name}");
    }
    assert_eq!(rig.ask_many("h", First, 1), 0, "there is an end to everything");
    rig.give_back("b", First);
    let granted = rig.grants();
    assert_eq!(granted.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(), ["h"]);
}

#[test]
fn a_tenant_that_is_not_alone_holds_at_most_half() {
    let mut rig = Rig::new(64);
    assert_eq!(rig.ask_many("flood", First, 100), 63, "alone");
    // Endpoints that keep their places do not keep the others waiting: the next that come free are theirs.
    assert_eq!(rig.ask_many("b", First, 40), 1);
    assert_eq!(rig.next_tenants("flood", 31), vec!["b"; 30], "and one more stays free for whoever comes");
    assert_eq!(rig.next_tenants("flood", 1), ["flood"], "each at half");
    assert_eq!(rig.next_tenants("b", 1), ["b"]);
    for _ in 0..8 {
        rig.give_back("b", First);
    }
    assert_eq!(rig.grants().len(), 8, "those of b that waited");
    for _ in 0..30 {
        rig.give_back("b", First);
        rig.grants();
    }
    assert_eq!(rig.places.tenants[&tenant("flood")].held, 32, "though nobody else waits");
    assert_eq!(rig.ask_many("flood", First, 1), 0);
    assert_eq!(rig.ask_many("c", First, 40), 30, "whoever comes finds the others' half");
    for _ in 0..30 {
        rig.give_back("c", First);
    }
    assert!(rig.grants().iter().all(|(name, ..)| name == "c"));
    assert_eq!(rig.places.next_wakeup(), Some(rig.now + COMPANY_TIME));
}

#[test]
fn a_tenant_that_is_alone_again_holds_all() {
    let mut rig = Rig::new(64);
    assert_eq!(rig.ask_many("b", First, 1), 1);
    rig.give_back("b", First);
    assert_eq!(rig.ask_many("flood", First, 100), 32);
    assert_eq!(rig.grants(), []);
    let until = rig.places.next_wakeup().unwrap();
    rig.now += COMPANY_TIME / 2;
    assert_eq!(rig.grants(), []);
    assert_eq!(rig.ask_many("b", First, 1), 1, "which makes it longer");
    rig.give_back("b", First);
    rig.now = until;
    assert_eq!(rig.grants(), []);
    rig.now = rig.places.next_wakeup().unwrap();
    assert_eq!(rig.grants().len(), 31);
    assert_eq!(rig.places.next_wakeup(), None);
}

#[test]
fn no_kind_of_claim_starves_another() {
    let mut rig = Rig::new(2);
    rig.ask_many("a", First, 6);
    rig.ask_many("a", Doubtful, 2);
    let mut claims = Vec::new();
    for _ in 0..4 {
        rig.give_back("a", claims.pop().unwrap_or(First));
        claims.extend(rig.grants().into_iter().map(|(_, claim, _)| claim));
        assert_eq!(claims.len(), 1);
    }
    assert_eq!(rig.places.tenants[&tenant("a")].waiting.doubtful.len(), 0);
}

#[test]
fn a_tenant_keeps_to_its_own_limit() {
    let mut rig = Rig::new(8);
    let limits = at_most(2);
    assert_eq!((0..5).filter_map(|_| rig.ask("a", &limits, First)).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(rig.ask_many("b", First, 3), 3, "others are not touched");
    limits.0.max.set(Some(4));
    assert_eq!(rig.grants(), [], "nobody has said so");
    rig.places.changed(&tenant("a"));
    assert_eq!(rig.grants().len(), 2);
    limits.0.max.set(Some(1));
    rig.places.changed(&tenant("a"));
    for _ in 0..3 {
        rig.give_back("a", First);
        assert_eq!(rig.grants(), []);
    }
    rig.give_back("a", First);
    assert_eq!(rig.grants().len(), 1);
}

#[test]
fn a_tenant_rests_while_its_rate_is_used_up() {
    let mut rig = Rig::new(8);
    let limits = every(Duration::from_secs(1));
    assert_eq!(rig.ask("a", &limits, First), None);
    assert_eq!(rig.ask("a", &limits, First), Some(1));
    assert_eq!(rig.ask("a", &limits, Further), Some(2));
    assert_eq!(rig.grants(), []);
    let until = rig.now + Duration::from_secs(1);
    assert_eq!((rig.places.next_wakeup(), rig.places.rests_until(&tenant("a"))), (Some(until), Some(until)));
    assert_eq!(rig.ask_many("b", First, 1), 1, "others are not touched");
    rig.now = until;
    assert_eq!(rig.grants(), [("a".to_owned(), Further, 2)], "claims take turns");
    rig.now += Duration::from_secs(1);
    assert_eq!(rig.grants(), [("a".to_owned(), First, 1)]);
    assert_eq!(rig.places.next_wakeup(), None);
}

#[test]
fn who_asks_anew_overtakes_no_one() {
    let mut rig = Rig::new(8);
    let limits = every(Duration::from_secs(1));
    assert_eq!(rig.ask("a", &limits, First), None);
    assert_eq!(rig.ask("a", &limits, First), Some(1));
    assert_eq!(rig.grants(), []);
    rig.now += Duration::from_secs(1);
    assert_eq!(rig.ask("a", &limits, First), Some(2));
    assert_eq!(rig.grants(), [("a".to_owned(), First, 1)]);
}

#[test]
fn tenants_share_the_room_to_wait() {
    let mut rig = Rig::new(8);
    let room = |rig: &Rig, name, claim| {
        let tenant = tenant(name);
        (rig.places.has_room(&tenant, claim, 0), rig.places.is_crowded(&tenant, claim))
    };
    assert_eq!(room(&rig, "a", First), (true, false));
    rig.ask_many("a", First, 8 + 15);
    assert_eq!(room(&rig, "a", First), (true, false), "16 may wait for 8 places");
    assert!(!rig.places.has_room(&tenant("a"), First, 1), "and that one is coming");
    rig.ask_many("a", First, 1);
    assert_eq!(room(&rig, "a", First), (false, false), "no more are let in");
    assert_eq!(room(&rig, "a", Doubtful), (true, false), "those that fail wait by themselves");
    rig.ask_many("a", First, 16);
    assert_eq!(room(&rig, "a", First), (false, true));
    rig.ask_many("a", Further, 40);
    assert_eq!(room(&rig, "a", Further), (false, false), "with requests in flight it must stay");
    rig.ask_many("b", First, 7);
    assert_eq!(room(&rig, "b", First), (true, false), "8 each, now that there are two");
    rig.ask_many("b", First, 1);
    assert_eq!(room(&rig, "b", First), (false, false));
}

#[test]
fn nothing_is_kept_of_those_that_left() {
    let mut rig = Rig::new(8);
    for name in ["a", "b"] {
        rig.ask(name, &every(Duration::from_secs(1)), First);
        rig.give_back(name, First);
    }
    assert!(rig.places.tenants.is_empty() && rig.places.resting.is_empty() && rig.places.at_share.is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Ask(usize, Claim),
    GiveBack(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_usize..4, prop::sample::select(&Claim::ALL[..])).prop_map(|(who, claim)| Step::Ask(who, claim)),
        2 => any::<usize>().prop_map(Step::GiveBack),
        1 => (0_u64..3000).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever happens, the limits hold, nobody waits who could have a place, and in the end
    /// everybody who asked has had one.
    #[test]
    fn limits_hold_and_nobody_starves(size in 1_u32..150, steps in prop::collection::vec(step(), 0..300)) {
        let mut rig = Rig::new(size);
        let limits = [Limits::default(), Limits::default(), at_most(3), every(Duration::from_millis(700))];
        let names = ["a", "b", "c", "d"];
        let mut held: Vec<(String, Claim)> = Vec::new();
        let mut waiting = 0_usize;
        let mut asked = [None::<Instant>; 4];
        // Whoever gets one more beside others that asked lately holds at most half.
        let check_share = |rig: &Rig, held: &[(String, Claim)], name: &str, asked: &[Option<Instant>; 4]| {
            let own = held.iter().filter(|(holder, _)| holder == name).count();
            let lately = |at: &Option<Instant>| at.is_some_and(|at| rig.now + COMPANY_STEP < at + COMPANY_TIME);
            let company = names.iter().zip(asked).any(|(other, at)| *other != name && lately(at));
            prop_assert!(!company || own <= (size as usize).div_ceil(2), "{name} holds {own} of {size}");
            Ok(())
        };
        let check = |rig: &Rig, held: &[(String, Claim)]| {
            let doubtful = held.iter().filter(|(_, claim)| *claim == Doubtful).count();
            prop_assert_eq!(rig.places.held() as usize, held.len());
            prop_assert!(held.len() <= size as usize);
            prop_assert!(doubtful <= (size as usize).div_ceil(2));
            prop_assert!(held.iter().filter(|(name, _)| name == "c").count() <= 3);
            // Who holds nothing and waits with a first claim waits only for a free place, or its rate.
            for (name, holder) in &rig.places.tenants {
                let rests = holder.rests_until.is_some();
                let stuck = holder.held == 0 && !holder.waiting.first.is_empty() && !rests;
                prop_assert!(!stuck || rig.places.free() == 0, "{name} waits for nothing");
            }
            Ok(())
        };
        for step in steps {
            match step {
                Step::Ask(who, claim) => {
                    asked[who] = Some(rig.now);
                    match rig.ask(names[who], &limits[who], claim) {
                        None => {
                            held.push((names[who].to_owned(), claim));
                            check_share(&rig, &held, names[who], &asked)?;
                        }
                        Some(_) => waiting += 1,
                    }
                }
                Step::GiveBack(which) if !held.is_empty() => {
                    let (name, claim) = held.swap_remove(which % held.len());
                    rig.give_back(&name, claim);
                }
                Step::GiveBack(_) => {}
                Step::Wait(ms) => rig.now += Duration::from_millis(ms),
            }
            let granted = rig.grants();
            waiting -= granted.len();
            for (name, claim, _) in granted {
                held.push((name.clone(), claim));
                check_share(&rig, &held, &name, &asked)?;
            }
            check(&rig, &held)?;
        }
        for _ in 0..(waiting * 2 + 2) {
            rig.now += Duration::from_millis(700);
            for (name, claim) in held.drain(..) {
                rig.give_back(&name, claim);
            }
            let granted = rig.grants();
            waiting -= granted.len();
            held.extend(granted.into_iter().map(|(name, claim, _)| (name, claim)));
            check(&rig, &held)?;
        }
        prop_assert_eq!(waiting, 0, "all had their turn");
    }
}
