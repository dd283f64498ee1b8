//! Tables for each rule, and laws over random histories.

use std::collections::BTreeMap;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const KIB: usize = 1024;

#[derive(Clone, Debug, PartialEq)]
struct Handed {
    tenant: Tenant,
    subscription: SubscriptionId,
    key: Option<String>,
    bytes: usize,
    number: usize,
}

impl Event for Handed {
    fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    fn subscription(&self) -> SubscriptionId {
        self.subscription
    }

    fn idempotency_key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A queue whose events are numbered as they come.
struct Rig {
    queue: IntakeQueue<Handed>,
    next: usize,
}

impl Rig {
    fn new(events: usize, bytes: usize) -> Self {
        let batch = Load { events: 8, bytes: 1024 * KIB };
        Self { queue: IntakeQueue::new(Bounds { queue: Load { events, bytes }, batch }), next: 0 }
    }

    fn event(&mut self, tenant: &str, bytes: usize) -> Handed {
        self.next += 1;
        let subscription = SubscriptionId(Uuid::from_u128(u128::from(tenant.as_bytes()[0])));
        Handed { tenant: tenant.parse().unwrap(), subscription, key: None, bytes, number: self.next }
    }

    fn push(&mut self, tenant: &str, bytes: usize) -> Pushed<Handed> {
        let event = self.event(tenant, bytes);
        self.queue.push(event)
    }

    fn fill(&mut self, tenant: &str, bytes: usize, count: usize) {
        for _ in 0..count {
            let pushed = self.push(tenant, bytes);
            assert!(pushed.refused.is_none() && pushed.evicted.is_empty());
        }
    }

    /// The tenants of a batch, in its order.
    fn batch(&mut self) -> String {
        let batch = self.queue.take_batch();
        self.queue.settle(batch.load);
        batch.events.iter().map(|event| event.tenant.to_string()).collect()
    }
}

#[test]
fn one_tenant_may_fill_the_queue_alone() {
    let mut rig = Rig::new(4, 100 * KIB);
    rig.fill("a", KIB, 4);
    assert_eq!(rig.push("a", KIB).refused.unwrap().1, Refusal::Full);
    let batch = rig.queue.take_batch();
    assert_eq!(rig.push("a", KIB).refused.unwrap().1, Refusal::Full, "what is taken is not settled");
    rig.queue.settle(batch.load);
    assert!(rig.push("a", KIB).refused.is_none());
}

#[test]
fn who_has_the_most_makes_room() {
    for (case, events, bytes) in [("events", 8, usize::MAX), ("bytes", usize::MAX, 8 * 256 * KIB)] {
        let mut rig = Rig::new(events, bytes);
        rig.fill("a", 256 * KIB, 8);
        for expected in [8, 7, 6, 5] {
            let pushed = rig.push("b", 256 * KIB);
            let evicted: Vec<_> = pushed.evicted.iter().map(|event| event.number).collect();
            assert_eq!((pushed.refused, evicted), (None, vec![expected]), "{case}: the newest goes");
        }
        for tenant in ["a", "b"] {
            let pushed = rig.push(tenant, 256 * KIB);
            assert!(pushed.evicted.is_empty(), "{case}");
            let foretold = rig.queue.would_refuse(&tenant.parse().unwrap(), 256 * KIB);
            assert_eq!(foretold, Some(Refusal::OverShare), "{case}");
            assert_eq!(pushed.refused.unwrap().1, Refusal::OverShare, "{case}: both have the same");
        }
        assert_eq!(rig.queue.would_refuse(&"c".parse().unwrap(), 256 * KIB), None, "{case}");
        // A newcomer takes from one of them, and is one of three then.
        assert_eq!(rig.push("c", 256 * KIB).evicted.len(), 1, "{case}");
    }
}

#[test]
fn a_small_event_evicts_no_more_than_it_needs() {
    let mut rig = Rig::new(100, 1024 * KIB);
    rig.fill("a", 256 * KIB, 4);
    let pushed = rig.push("b", KIB);
    assert_eq!((pushed.refused, pushed.evicted.len()), (None, 1));
    for _ in 0..50 {
        assert!(rig.push("b", KIB).evicted.is_empty());
    }
}

#[test]
fn tenants_take_turns_by_bytes() {
    let mut rig = Rig::new(1000, usize::MAX);
    rig.queue.bounds.batch = Load { events: 512, bytes: usize::MAX };
    rig.fill("a", 256 * KIB, 100);
    rig.fill("b", KIB, 800);
    let batch = rig.queue.take_batch();
    let cost = |name: &str| {
        let own = batch.events.iter().filter(|event| event.tenant.as_str() == name);
        own.map(|event| event.bytes + EVENT_COST_BYTES).sum::<usize>()
    };
    let (a, b) = (cost("a"), cost("b"));
    assert!(a.abs_diff(b) <= 512 * KIB, "{a} bytes for the one, {b} for the other");
}

#[test]
fn a_newcomer_goes_before_those_that_wait() {
    let mut rig = Rig::new(1000, usize::MAX);
    rig.fill("a", 256 * KIB, 50);
    assert_eq!(rig.batch(), "aaaa", "a megabyte");
    rig.fill("b", KIB, 1);
    assert_eq!(rig.batch()[..2].matches('b').count(), 1);
}

/// However many newcomers there are.
#[test]
fn those_that_wait_are_not_starved_by_newcomers() {
    let mut rig = Rig::new(1000, usize::MAX);
    rig.fill("a", KIB, 200);
    rig.batch();
    for round in 0..8 {
        for newcomer in ["b", "c", "d", "e", "f", "g", "h", "i", "j"] {
            if rig.queue.tenants.contains_key(&newcomer.parse::<Tenant>().unwrap()) {
                continue;
            }
            rig.fill(newcomer, KIB, 1);
        }
        assert!(rig.batch().contains('a'), "round {round}");
    }
}

#[test]
fn a_repeated_key_waits_with_all_that_follow_it() {
    let mut rig = Rig::new(100, usize::MAX);
    let mut push = |subscription: u128, key: Option<&str>| {
        let mut event = rig.event("a", KIB);
        event.subscription = SubscriptionId(Uuid::from_u128(subscription));
        event.key = key.map(str::to_owned);
        assert!(rig.queue.push(event).refused.is_none());
    };
    for (subscription, key) in
        [(1, Some("k")), (1, Some("k")), (2, Some("k")), (1, None), (1, Some("other")), (2, None)]
    {
        push(subscription, key);
    }
    let mut batches = Vec::new();
    for _ in 0..3 {
        let batch = rig.queue.take_batch();
        batches.push(batch.events.iter().map(|event| event.number).collect::<Vec<_>>());
    }
    assert_eq!(batches, [vec![1, 3, 6], vec![2, 4, 5], vec![]]);
    assert!(rig.queue.tenants.is_empty() && rig.queue.others.is_empty());
}

#[test]
fn batches_end_at_their_bounds() {
    let mut rig = Rig::new(100, usize::MAX);
    rig.fill("a", KIB, 20);
    assert_eq!([rig.batch().len(), rig.batch().len(), rig.batch().len(), rig.batch().len()], [8, 8, 4, 0]);
    rig.fill("a", 3000 * KIB, 2);
    assert_eq!([rig.batch().len(), rig.batch().len(), rig.batch().len()], [1, 1, 0], "one beyond the bytes");
}

#[derive(Clone, Debug)]
enum Step {
    Push { tenant: u8, subscription: u8, key: Option<u8>, bytes: usize },
    Take,
    Settle,
    Remove(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..4_u8, 0..3_u8, proptest::option::of(0..3_u8), prop_oneof![0..20_usize, 200..600_usize])
            .prop_map(|(tenant, subscription, key, bytes)| Step::Push { tenant, subscription, key, bytes }),
        1 => Just(Step::Take),
        1 => Just(Step::Settle),
        1 => (2..5_usize).prop_map(Step::Remove),
    ]
}

proptest! {
    /// Every event comes out once, in the order of its subscription; the bounds hold; and who is refused
    /// has no less than anybody else.
    #[test]
    fn laws(steps in proptest::collection::vec(step(), 1..400)) {
        let bounds = Bounds { queue: Load { events: 40, bytes: 3000 }, batch: Load { events: 7, bytes: 900 } };
        let mut queue = IntakeQueue::new(bounds);
        let (mut unsettled, mut taken, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        let mut pushed = 0;
        for step in steps.into_iter().chain(std::iter::repeat_n(Step::Take, 400)) {
            match step {
                Step::Push { tenant, subscription, key, bytes } => {
                    pushed += 1;
                    let event = Handed {
                        tenant: format!("t{tenant}").parse().unwrap(),
                        subscription: SubscriptionId(Uuid::from_u128(u128::from(tenant) * 10 + u128::from(subscription))),
                        key: key.map(|key| key.to_string()),
                        bytes,
                        number: pushed,
                    };
                    let before: BTreeMap<Tenant, Load> =
                        queue.tenants.iter().map(|(name, line)| (name.clone(), line.load)).collect();
                    let of = |name: &Tenant| before.get(name).copied().unwrap_or_default();
                    let mut own = of(&event.tenant);
                    own.add(Load::of_one(bytes));
                    let result = queue.push(event.clone());
                    for gone in &result.evicted {
                        let had = of(&gone.tenant);
                        prop_assert!(had.events > own.events || had.bytes > own.bytes);
                        prop_assert!(gone.tenant != event.tenant);
                    }
                    if let Some((_, refusal)) = &result.refused {
                        let most_events = queue.tenants.values().map(|line| line.load.events).max();
                        let most_bytes = queue.tenants.values().map(|line| line.load.bytes).max();
                        prop_assert!(most_events.is_none_or(|most| own.events >= most)
                            || most_bytes.is_none_or(|most| own.bytes >= most));
                        let alone = queue.tenants.keys().all(|name| *name == event.tenant);
                        prop_assert_eq!(*refusal == Refusal::Full, alone);
                    }
                    refused.extend(result.evicted.into_iter().chain(result.refused.map(|(event, _)| event)));
                }
                Step::Take => {
                    let batch = queue.take_batch();
                    prop_assert!(batch.load.events <= 7 && batch.events.len() == batch.load.events);
                    let keys: Vec<_> = batch.events.iter()
                        .filter_map(|event| Some((event.subscription, event.key.clone()?))).collect();
                    prop_assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len());
                    prop_assert!(batch.load.events > 0 || queue.tenants.is_empty());
                    unsettled.push(batch.load);
                    taken.extend(batch.events);
                }
                Step::Remove(every) => refused.extend(queue.remove(|event| event.number % every == 0)),
                Step::Settle => {
                    if let Some(load) = unsettled.pop() {
                        queue.settle(load);
                    }
                }
            }
            let mut all = queue.waiting;
            all.add(queue.taken);
            prop_assert!(all.events <= 40 && all.bytes <= 3000);
            let sum = queue.tenants.values().fold(Load::default(), |mut sum, line| {
                sum.add(line.load);
                sum
            });
            prop_assert_eq!(sum, queue.waiting);
            prop_assert_eq!(queue.fresh.len() + queue.others.len(), queue.tenants.len());
        }
        prop_assert_eq!(queue.waiting, Load::default());
        prop_assert_eq!(taken.len() + refused.len(), pushed);
        let mut last: BTreeMap<SubscriptionId, usize> = BTreeMap::new();
        for event in &taken {
            let before = last.insert(event.subscription, event.number);
            prop_assert!(before.is_none_or(|before| before < event.number));
        }
    }
}
