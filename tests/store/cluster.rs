//! Slots change hands, and what was begun by whoever held one before is not written. PostgreSQL only.

use std::time::{Duration, Instant};

use bytes::Bytes;
use posthorn::store::arrivals::Arrival;
use posthorn::store::cluster::Beat;
use posthorn::store::intake::Intake;
use posthorn::store::outcomes::OutcomeWriter;
use posthorn_domain::cluster::{Epoch, SLOTS, Slot};
use posthorn_domain::delivery::{AttemptOutcome, DeliveryStatus};
use posthorn_domain::id::{NodeId, Sequence};
use posthorn_domain::subscription::{StatusReason, SubscriptionStatus};
use uuid::Uuid;

use crate::support::Backend;
use crate::world::{NOW, World, intake, keyed, outcome, started};

const LEASE: Duration = Duration::from_mins(1);
/// Over as soon as it begins.
const NO_LEASE: Duration = Duration::ZERO;

fn node(n: u128) -> NodeId {
    NodeId(Uuid::from_u128(n))
}

fn beat(node: NodeId, lease: Duration) -> Beat {
    Beat { node, name: "here".to_owned(), version: "1.2.3", leaving: false, lease }
}

fn numbers(slots: &[(Slot, Epoch)]) -> Vec<Slot> {
    slots.iter().map(|(slot, _)| *slot).collect()
}

#[tokio::test]
async fn slots_have_one_holder_at_a_time() {
    let world = World::new(Backend::Postgres).await;
    let store = &world.store;
    let (one, other) = (node(1), node(2));
    let first = store.take_slots(one, &[], 100, LEASE).await.unwrap();
    assert_eq!(first.len(), 100);
    assert!(first.iter().all(|(_, epoch)| *epoch == Epoch(1)));
    let rest = store.take_slots(other, &[], SLOTS, LEASE).await.unwrap();
    assert_eq!(rest.len(), 156);
    assert!(store.take_slots(one, &first, SLOTS, LEASE).await.unwrap().is_empty(), "all are held");

    store.free_slots(one, &first[..10]).await.unwrap();
    let again = store.take_slots(other, &rest, SLOTS, LEASE).await.unwrap();
    assert_eq!(numbers(&again), numbers(&first[..10]));
    assert!(again.iter().all(|(_, epoch)| *epoch == Epoch(2)), "each holder has an epoch of its own");
    store.free_slots(one, &first).await.unwrap();
    let cluster = store.cluster().await.unwrap();
    let held = |node| cluster.slots.iter().filter(|holder| holder.node == Some(node)).count();
    assert_eq!((held(one), held(other)), (0, 166), "what another holds by now is not given back");
}

#[tokio::test]
async fn a_lease_that_is_over_is_for_whoever_takes_it() {
    let world = World::new(Backend::Postgres).await;
    let store = &world.store;
    let (one, other) = (node(1), node(2));
    let mine = store.take_slots(one, &[], 3, NO_LEASE).await.unwrap();
    assert_eq!(store.beat(&beat(one, NO_LEASE), &mine).await.unwrap(), mine, "nobody took them");
    let taken = store.take_slots(other, &[], SLOTS, LEASE).await.unwrap();
    assert_eq!(taken.len(), SLOTS);
    assert_eq!(store.beat(&beat(one, LEASE), &mine).await.unwrap(), []);
    assert_eq!(store.beat(&beat(other, LEASE), &taken).await.unwrap().len(), SLOTS);
    // One that was given up without a word is taken anew, under another epoch.
    let less = &taken[1..];
    let anew = store.take_slots(other, less, SLOTS, LEASE).await.unwrap();
    assert_eq!(anew, [(taken[0].0, Epoch(taken[0].1.0 + 1))]);
}

#[tokio::test]
async fn nodes_are_seen_until_they_are_silent_for_long() {
    let world = World::new(Backend::Postgres).await;
    let store = &world.store;
    store.beat(&beat(node(1), LEASE), &[]).await.unwrap();
    store.beat(&Beat { leaving: true, ..beat(node(2), LEASE) }, &[]).await.unwrap();
    let nodes = store.cluster().await.unwrap().nodes;
    let seen: Vec<_> = nodes.iter().map(|node| (node.id, node.leaving)).collect();
    assert_eq!(seen, [(node(1), false), (node(2), true)]);
    assert!(nodes.iter().all(|node| node.silent_for < Duration::from_secs(10) && node.version == "1.2.3"));
    store.forget_node(node(2)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(30)).await;
    store.beat(&beat(node(3), Duration::from_millis(1)), &[]).await.unwrap();
    let left: Vec<_> = store.cluster().await.unwrap().nodes.iter().map(|node| node.id).collect();
    assert_eq!(left, [node(3)]);
}

/// Of two deliveries in flight, the slot of one was taken by another node meanwhile.
#[tokio::test]
async fn an_older_epoch_writes_nothing() {
    let world = World::new(Backend::Postgres).await;
    let mut ids = [world.subscription().await, world.subscription().await];
    while Slot::of(ids[0]) == Slot::of(ids[1]) {
        ids[1] = world.subscription().await;
    }
    let [kept, lost] = ids;
    let slot = i16::from(Slot::of(lost).0);
    world.database.execute(&format!("UPDATE slots SET epoch = 1 WHERE slot = {slot}")).await;
    let mut writer = OutcomeWriter::new(&world.store);
    // Alone in one statement, and with more to say in several.
    for more in [false, true] {
        let events = [intake(kept), intake(lost), intake(lost)];
        world.accept(&events).await;
        let [mine, gone, marked] = events.map(|event| event.delivery_id);
        let mut outcomes = Vec::new();
        for id in [gone, mine] {
            let delivery = world.delivery(id).await;
            outcomes.push(outcome(&delivery, 1, AttemptOutcome::Success));
        }
        let mut marks = Vec::new();
        if more {
            outcomes[0].standing = Some((SubscriptionStatus::Disabled, StatusReason::Gone));
            marks.push(started(&world.delivery(marked).await, 0));
        }
        let fenced = writer.record(&marks, &outcomes, NOW).await.unwrap();
        assert_eq!(fenced.into_iter().collect::<Vec<_>>(), [Slot::of(lost)]);
        assert_eq!(world.delivery(mine).await.status, DeliveryStatus::Success);
        for id in [gone, marked] {
            assert_eq!(world.delivery(id).await.status, DeliveryStatus::Pending);
            assert_eq!(world.store.attempts_of_delivery(id).await.unwrap(), []);
        }
    }
    let view = world.store.subscription_view(lost).await.unwrap().unwrap();
    assert_eq!(view.subscription.status, SubscriptionStatus::Active);
}

/// What another node accepted, with its payload where that is small; quickly, however much stands behind it.
#[tokio::test]
async fn arrivals_are_what_was_not_tried_yet() {
    let world = World::new(Backend::Postgres).await;
    world.database.execute("ANALYZE").await;
    let id = world.subscription().await;
    let large = vec![b' '; 20_000];
    let payloads = [Bytes::from_static(b"1"), large.into(), Bytes::from_static(b"3")];
    let batch: Vec<_> =
        payloads.iter().map(|payload| Intake { payload: payload.clone(), ..keyed(id, "key") }).collect();
    world.accept(&batch).await;
    let [tried, ..] = world.unfinished(id, 1).await[..] else { panic!("a delivery") };
    let tried = world.delivery(tried).await;
    world.record(&[outcome(&tried, 1, AttemptOutcome::Success)]).await;
    let mut quickest = Vec::new();
    for _ in 0..2 {
        let mut times = Vec::new();
        for _ in 0..10 {
            let began = Instant::now();
            let asked: Vec<_> = (1..=3).map(|n| (id, Sequence(n))).collect();
            let mut found = world.store.arrivals(&asked).await.unwrap();
            times.push(began.elapsed());
            found.sort_by_key(|arrival| arrival.sequence);
            let payload = |arrival: &Arrival| arrival.payload.as_ref().map(|payload| payload.bytes.clone());
            let found: Vec<_> = found.iter().map(|arrival| (arrival.sequence.0, payload(arrival))).collect();
            assert_eq!(found, [(2, None), (3, Some(Bytes::from_static(b"3")))]);
        }
        quickest.push(times.into_iter().min().unwrap());
        world.accept_many(id, 20_000).await;
    }
    assert!(quickest[1] < quickest[0] * 4 + Duration::from_millis(2), "{quickest:?}");
}
