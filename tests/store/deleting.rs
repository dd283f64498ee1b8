//! What is changed for a whole lane at once holds at once, and no statement touches the whole of it.

use std::time::Duration;

use posthorn::store::lanes::Scope;
use posthorn::store::{Change, Replayed};
use posthorn_domain::audit::{Action, Stamp};
use posthorn_domain::delivery::{AttemptOutcome, DeliveryStatus};
use posthorn_domain::id::{DeliveryId, Sequence, SubscriptionId};
use posthorn_domain::subscription::{StatusReason, Subscription, SubscriptionStatus};
use posthorn_domain::target::TargetUrl;
use uuid::Uuid;

use crate::on_both_databases;
use crate::support::Backend;
use crate::world::{BACKLOG_MAX, NOW, STAMP, World, intake, outcome};

on_both_databases!(
    a_deleted_backlog_reads_as_ended_and_is_ended_in_slices,
    an_outcome_after_the_deletion_adds_its_attempt,
    a_new_target_makes_retries_due_and_touches_none,
    forgiven_retries_are_counted_anew
);

const LATER: Duration = Duration::from_secs(5);

async fn a_deleted_backlog_reads_as_ended_and_is_ended_in_slices(backend: Backend) {
    let world = World::new(backend).await;
    let (id, beside) = (world.subscription().await, world.subscription().await);
    world.accept_many(id, 1_200).await;
    world.accept(&[intake(beside)]).await;
    let waiting = world.unfinished(id, 2_000).await;
    let deleted_at = NOW.plus(LATER);
    assert!(world.store.delete_subscription(id, Stamp { at: deleted_at, ..STAMP }).await.unwrap());

    let last = waiting[1_199];
    let unfinished = "SELECT count(*) FROM webhook_deliveries WHERE status < 3";
    assert!(world.database.number(unfinished).await > 1_000, "the deletion itself touches few");
    let check = async |when: &str| {
        let read = world.delivery(last).await;
        assert_eq!((read.status, read.completed_at), (DeliveryStatus::Failed, Some(deleted_at)), "{when}");
        assert_eq!(read.error.as_deref(), Some("subscription deleted"), "{when}");
        let later = Stamp { at: NOW.plus(2 * LATER), ..STAMP };
        assert_eq!(world.store.retry_delivery(last, later).await.unwrap(), Change::Finished, "{when}");
        assert_eq!(world.store.skip_delivery(last, later).await.unwrap(), Change::Finished, "{when}");
        let replay = DeliveryId(Uuid::now_v7());
        let replayed = world.store.replay_delivery(last, replay, BACKLOG_MAX, later).await.unwrap();
        assert_eq!(replayed, Replayed::SubscriptionDeleted, "{when}");
        assert_eq!(world.unfinished(id, 10).await, [], "no lane loads it, {when}");
        let found = world.store.lanes_with_work(None, 1).await.unwrap();
        assert_eq!(found.iter().map(|lane| lane.id).collect::<Vec<_>>(), [beside], "{when}");
        let stats = world.store.stats(NOW).await.unwrap();
        assert_eq!((stats.pending_deliveries, stats.recent_failure_count), (1, 1_200), "{when}");
        let own =
            world.store.stats_of_tenant(&posthorn_domain::tenant::Tenant::default(), NOW).await.unwrap();
        assert_eq!((own.pending_deliveries, own.recent_failure_count), (1, 1_200), "{when}");
    };
    check("at once").await;
    assert_eq!(world.store.remove_deleted_subscriptions().await.unwrap(), 0);
    let mut ended = Vec::new();
    while let Some(slice) = world.store.end_deleted(NOW).await.unwrap() {
        ended.push(slice);
        check("between slices").await;
    }
    assert!(ended.iter().all(|slice| *slice <= 500) && ended.len() >= 3, "{ended:?}");
    assert_eq!(world.database.number(unfinished).await, 1, "that of the other one");
    assert_eq!(world.database.number("SELECT count(*) FROM deletions").await, 0);
    check("in the end").await;
    while world.store.remove_finished(deleted_at.plus(LATER)).await.unwrap() > 0 {}
    assert_eq!(world.store.remove_deleted_subscriptions().await.unwrap(), 1);
}

async fn an_outcome_after_the_deletion_adds_its_attempt(backend: Backend) {
    let world = World::new(backend).await;
    let id = world.subscription().await;
    world.accept_many(id, 700).await;
    let waiting = world.unfinished(id, 700).await;
    let (success, failed) = (world.delivery(waiting[600]).await, world.delivery(waiting[601]).await);
    world.store.delete_subscription(id, STAMP).await.unwrap();
    world
        .record(&[
            outcome(&success, 1, AttemptOutcome::Success),
            outcome(&failed, 1, AttemptOutcome::FailedAttempt),
        ])
        .await;
    let check = async |when: &str| {
        for delivery in [success.id, failed.id] {
            let read = world.delivery(delivery).await;
            let attempts = world.store.attempts_of_delivery(delivery).await.unwrap().len();
            assert_eq!((read.status, read.attempt_count, attempts), (DeliveryStatus::Failed, 1, 1), "{when}");
        }
        let stats = world.store.stats(NOW).await.unwrap();
        let counts = (stats.pending_deliveries, stats.recent_success_count, stats.recent_failure_count);
        assert_eq!(counts, (0, 0, 700), "{when}");
    };
    check("at once").await;
    while world.store.end_deleted(NOW).await.unwrap().is_some() {}
    check("in the end").await;
}

/// A delivery that was tried once and waits for its retry.
async fn tried(world: &World, id: SubscriptionId) -> DeliveryId {
    let event = intake(id);
    world.accept(std::slice::from_ref(&event)).await;
    let delivery = world.delivery(event.delivery_id).await;
    world.record(&[outcome(&delivery, 1, AttemptOutcome::FailedAttempt)]).await;
    delivery.id
}

async fn change(world: &World, id: SubscriptionId, change: fn(&mut Subscription)) {
    let stamp = Stamp { at: NOW.plus(LATER), ..STAMP };
    world.store.update_subscription(id, stamp, Action::SubscriptionUpdated, change).await.unwrap().unwrap();
}

async fn a_new_target_makes_retries_due_and_touches_none(backend: Backend) {
    let world = World::new(backend).await;
    let id = world.subscription().await;
    let delivery = tried(&world, id).await;
    let planned = world.delivery(delivery).await.next_attempt_at.unwrap();
    let page = async || {
        let page = world.store.lane_page(id, Sequence::ZERO, &Scope::Without(vec![]), 9).await.unwrap();
        (page[0].next_attempt_at, page[0].retry_delay)
    };
    assert_eq!(planned, NOW.plus(2 * LATER));
    change(&world, id, |s| s.config.description = None).await;
    assert_eq!(page().await.0, Some(planned), "another change makes nothing due");

    change(&world, id, |s| s.config.target = TargetUrl::parse("https://example.com/new").unwrap()).await;
    let due = NOW.plus(LATER);
    assert_eq!(world.delivery(delivery).await.next_attempt_at, Some(due));
    assert_eq!(page().await, (Some(due), Some(Duration::ZERO)));
    let stored = world.database.number("SELECT next_attempt_at_ms FROM webhook_deliveries").await;
    assert_eq!(stored, planned.as_millis(), "the row is as it was");

    // What is planned after the change waits as planned.
    let mut next = outcome(&world.delivery(delivery).await, 2, AttemptOutcome::FailedAttempt);
    next.planned_version = 3;
    world.record(&[next]).await;
    assert_eq!(world.delivery(delivery).await.next_attempt_at, Some(planned));
    assert_eq!(page().await.0, Some(planned));
}

async fn forgiven_retries_are_counted_anew(backend: Backend) {
    let world = World::new(backend).await;
    let id = world.subscription().await;
    let delivery = tried(&world, id).await;
    let base = async || {
        let page = world.store.lane_page(id, Sequence::ZERO, &Scope::Without(vec![]), 9).await.unwrap();
        (page[0].attempt_count, page[0].retry_base)
    };
    change(&world, id, |s| {
        s.status = SubscriptionStatus::Paused;
        s.status_reason = Some(StatusReason::RetriesExhausted);
    })
    .await;
    assert_eq!(base().await, (1, 0));
    change(&world, id, |s| {
        s.status = SubscriptionStatus::Active;
        s.status_reason = None;
    })
    .await;
    assert_eq!(base().await, (1, 1));
    let mut next = outcome(&world.delivery(delivery).await, 2, AttemptOutcome::FailedAttempt);
    (next.planned_version, next.retry_base) = (3, 1);
    world.record(&[next]).await;
    assert_eq!(base().await, (2, 1), "the attempt after it counts");
}
