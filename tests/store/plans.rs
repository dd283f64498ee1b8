//! The hot paths stay fast on a table that grows from nothing.
//!
//! A plan that PostgreSQL makes for an almost empty table and keeps is the trap: from its sixth
//! execution on, the outcome statement read the whole table. And with Nagle's algorithm left on, a
//! statement beyond one TCP segment waited 40 ms. Both slow down every execution, so the quickest of
//! several is judged: a busy machine slows some, never all.

use std::time::{Duration, Instant};

use posthorn::store::intake::{Answer, IntakeWriter};
use posthorn::store::lanes::WithWork;
use posthorn::store::outcomes::OutcomeWriter;
use posthorn_domain::delivery::AttemptOutcome;
use posthorn_domain::id::{Sequence, SubscriptionId};
use posthorn_domain::tenant::Tenant;

use crate::on_both_databases;
use crate::support::Backend;
use crate::world::{BACKLOG_MAX, NOW, World, idempotent, intake, keyed, outcome};

on_both_databases![
    hot_statements_do_not_slow_down,
    large_batches_cost_no_more_per_event,
    a_large_statement_waits_for_nothing,
    pages_by_key_are_read
];

/// Few events with an idempotency key and few outcomes on a small table, and again with many rows of
/// the same lane that wait, by the statements that were prepared when there were few. PostgreSQL knows that
/// there are hardly any, and on this server nobody tells it otherwise.
async fn hot_statements_do_not_slow_down(backend: Backend) {
    let world = World::new(backend).await;
    let id = world.subscription().await;
    world.accept(&[intake(id)]).await;
    if backend == Backend::Postgres {
        world.database.execute("ANALYZE").await;
    }
    let mut outcomes = OutcomeWriter::new(&world.store);
    let mut intakes = IntakeWriter::new(&world.store, BACKLOG_MAX);
    world.accept_many(id, 60).await;
    let mut quickest = Vec::new();
    for case in ["before", "after"] {
        let mut times = Vec::new();
        for size in [1, 3] {
            times.push((format!("{size} events"), accept(&mut intakes, id, case, size).await));
            times.push((format!("{size} outcomes"), record(&world, &mut outcomes, id, size).await));
        }
        quickest.push(times);
        world.accept_many(id, 30_000).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for ((case, before), (_, after)) in quickest[0].iter().zip(&quickest[1]) {
        assert!(
            *after < *before * 4 + Duration::from_millis(2),
            "{case}: {before:?} on a small table, {after:?} on a large one"
        );
    }
}

/// The quickest of some batches of so many outcomes, each marked as under way in the same batch.
async fn record(world: &World, writer: &mut OutcomeWriter, id: SubscriptionId, size: usize) -> Duration {
    let mut quickest = Duration::MAX;
    for batch in world.unfinished(id, 10 * size).await.chunks(size) {
        let (mut started, mut ended) = (Vec::new(), Vec::new());
        for delivery in batch {
            let delivery = world.delivery(*delivery).await;
            started.push(crate::world::started(&delivery, 0));
            ended.push(outcome(&delivery, 1, AttemptOutcome::Success));
        }
        let began = Instant::now();
        writer.record(&started, &ended, NOW).await.unwrap();
        quickest = quickest.min(began.elapsed());
    }
    quickest
}

/// The quickest of some batches of so many events.
async fn accept(writer: &mut IntakeWriter, id: SubscriptionId, key: &str, size: usize) -> Duration {
    let mut quickest = Duration::MAX;
    for n in 0..10 {
        let key = |of| format!("{key} {n} {of} of {size}");
        let batch: Vec<_> = (0..size).map(|of| idempotent(id, &key(of), "1")).collect();
        let began = Instant::now();
        writer.accept(&batch, NOW).await.unwrap();
        quickest = quickest.min(began.elapsed());
    }
    quickest
}

/// A step that compared each of a batch with each other would make the large one ten times as dear.
async fn large_batches_cost_no_more_per_event(backend: Backend) {
    let world = World::new(backend).await;
    let mut lanes = Vec::new();
    for _ in 0..512 {
        lanes.push(world.subscription().await);
    }
    let mut outcomes = OutcomeWriter::new(&world.store);
    let mut intakes = IntakeWriter::new(&world.store, BACKLOG_MAX);
    let mut quickest = [[Duration::MAX; 2]; 2];
    for _ in 0..8 {
        for (size, [accepted, recorded]) in [32, 512].into_iter().zip(&mut quickest) {
            let batch: Vec<_> = lanes.iter().take(size).map(|id| intake(*id)).collect();
            let began = Instant::now();
            let answers = intakes.accept(&batch, NOW).await.unwrap();
            *accepted = (*accepted).min(began.elapsed());
            assert!(answers.iter().all(|answer| matches!(answer, Answer::Stored(_))), "{answers:?}");
            let mut ended = Vec::with_capacity(size);
            for event in &batch {
                let delivery = world.delivery(event.delivery_id).await;
                ended.push(outcome(&delivery, 1, AttemptOutcome::Success));
            }
            let began = Instant::now();
            outcomes.record(&[], &ended, NOW).await.unwrap();
            *recorded = (*recorded).min(began.elapsed());
        }
    }
    let [small, large] = quickest;
    for (small, large) in small.into_iter().zip(large) {
        assert!(large < small * 32, "{small:?} for 32, {large:?} for 512");
    }
}

async fn a_large_statement_waits_for_nothing(backend: Backend) {
    let world = World::new(backend).await;
    let id = world.subscription().await;
    let mut writer = IntakeWriter::new(&world.store, BACKLOG_MAX);
    let mut quickest = Duration::MAX;
    for _ in 0..11 {
        let mut event = intake(id);
        event.payload = vec![b' '; 100 * 1024].into();
        let batch = [event.clone()];
        let began = Instant::now();
        writer.accept(&batch, NOW).await.unwrap();
        quickest = quickest.min(began.elapsed());
    }
    assert!(quickest < Duration::from_millis(20), "100 KiB took {quickest:?}");
}

async fn pages_by_key_are_read(backend: Backend) {
    use posthorn::store::lanes::Scope;
    use posthorn_domain::delivery::OrderingKey;
    let world = World::new(backend).await;
    let id = world.subscription().await;
    world.accept(&[keyed(id, "a"), keyed(id, "b"), intake(id), keyed(id, "a"), keyed(id, "c")]).await;
    let key = |text: &str| OrderingKey(text.into());
    for (scope, after, limit, expected) in [
        (Scope::Without(vec![]), 0, 9, vec![1, 2, 3, 4, 5]),
        (Scope::Without(vec![]), 2, 2, vec![3, 4]),
        (Scope::Without(vec![key("a"), key("c")]), 0, 9, vec![2, 3]),
        (Scope::Key(key("a")), 0, 9, vec![1, 4]),
        (Scope::Key(key("a")), 1, 9, vec![4]),
    ] {
        let page = world.store.lane_page(id, Sequence(after), &scope, limit).await.unwrap();
        assert_eq!(page.iter().map(|row| row.sequence.0).collect::<Vec<_>>(), expected, "{scope:?}");
    }
    let other = world.subscription().await;
    world.accept(&[intake(other)]).await;
    let lane = |id, last| WithWork { id, tenant: Tenant::default(), last: Sequence(last), version: 1 };
    let (one, two) = (lane(id, 5), lane(other, 1));
    assert_eq!(world.store.lanes_with_work(None, 10).await.unwrap(), [one.clone(), two.clone()]);
    assert_eq!(world.store.lanes_with_work(Some(id), 10).await.unwrap(), [two]);
    assert_eq!(world.store.lanes_with_work(None, 1).await.unwrap(), [one]);
}
