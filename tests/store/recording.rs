//! Recording: what an outcome changes, once and only once.

use std::time::Duration;

use posthorn::store::lanes::Scope;
use posthorn::store::outcomes::OutcomeWriter;
use posthorn::store::{Change, LaneHealth};
use posthorn_domain::audit::Action;
use posthorn_domain::circuit::CircuitState;
use posthorn_domain::cluster::Slot;
use posthorn_domain::delivery::{AttemptOutcome, DeliveryStatus};
use posthorn_domain::id::{DeliveryId, Sequence};
use posthorn_domain::subscription::{StatusReason, Subscription, SubscriptionStatus};
use posthorn_domain::target::TargetUrl;

use crate::on_both_databases;
use crate::support::Backend;
use crate::world::{BACKLOG_MAX, NOW, STAMP, World, intake, outcome, started};

on_both_databases![
    an_outcome_counts_once,
    health_and_standing_follow,
    a_change_comes_before_an_outcome,
    a_delivery_that_somebody_ended_stays_ended,
    a_mark_never_outlives_its_outcome,
    interrupted_ones_go_back,
    counters_agree_with_the_tables,
];

async fn an_outcome_counts_once(backend: Backend) {
    let world = World::new(backend).await;
    let id = world.subscription().await;
    let event = intake(id);
    world.accept(std::slice::from_ref(&event)).await;
    let delivery = world.delivery(event.delivery_id).await;

    let failed = outcome(&delivery, 1, AttemptOutcome::FailedAttempt);
    world.record(std::slice::from_ref(&failed)).await;
    world.record(std::slice::from_ref(&failed)).await;
    let after = world.delivery(delivery.id).await;
    assert_eq!(after.status, DeliveryStatus::FailedAttempt);
    assert_eq!(after.attempt_count, 1);
    assert_eq!(after.next_attempt_at, failed.next_attempt_at);
    let all = Scope::Without(vec![]);
    let page = world.store.lane_page(id, Sequence::ZERO, &all, 10).await.unwrap();
    assert_eq!(page[0].next_attempt_at, failed.next_attempt_at);
    // Ten seconds after it began, and it took 12 ms.
    assert_eq!(page[0].retry_delay, Some(Duration::from_millis(9988)));
    assert_eq!(world.store.attempts_of_delivery(delivery.id).await.unwrap(), [failed.attempt]);

    let succeeded = outcome(&delivery, 2, AttemptOutcome::Success);
    world.record(&[succeeded]).await;
    let after = world.delivery(delivery.id).await;
    assert_eq!((after.status, after.completed_at), (DeliveryStatus::Success, Some(NOW)));
    assert_eq!((after.error, after.next_attempt_at), (None, None));
}

async fn health_and_standing_follow(backend: Backend) {
    let world = World::new(backend).await;
    let id = world.subscription().await;
    let event = intake(id);
    world.accept(std::slice::from_ref(&event)).await;
    let delivery = world.delivery(event.delivery_id).await;
    let health = LaneHealth {
        circuit: CircuitState::Open,
        failures: 10,
        cool_down: Some(Duration::from_secs(30)),
        probe_at: Some(NOW.plus(Duration::from_secs(30))),
        failing_since: Some(NOW),
    };
    let mut last = outcome(&delivery, 1, AttemptOutcome::Failed);
    last.health = Some(health);
    last.standing = Some((SubscriptionStatus::Disabled, StatusReason::Gone));
    world.record(&[last]).await;

    let start = world.store.lane_start(id).await.unwrap().unwrap();
    let subscription = start.subscription;
    assert_eq!((start.health, start.last), (health, Sequence(1)));
    assert_eq!(subscription.status, SubscriptionStatus::Disabled);
    assert_eq!(subscription.status_reason, Some(StatusReason::Gone));
    assert_eq!(subscription.version, 2);
    assert_eq!(world.delivery(delivery.id).await.error.as_deref(), Some("unexpected status 500"));
    assert_eq!(world.store.stats(NOW).await.unwrap().circuits_open, 1);

    // Enabled again it starts anew.
    let enable = |s: &mut Subscription| {
        s.status = SubscriptionStatus::Active;
        s.status_reason = None;
    };
    world.store.update_subscription(id, STAMP, Action::SubscriptionUpdated, enable).await.unwrap().unwrap();
    assert_eq!(world.store.lane_start(id).await.unwrap().unwrap().health, LaneHealth::NEW);
}

/// An outcome is recorded after the subscription was changed: what it says of the subscription
/// depends on what the change was.
async fn a_change_comes_before_an_outcome(backend: Backend) {
    let new_target: fn(&mut Subscription) =
        |s| s.config.target = TargetUrl::parse("http://b.example/").unwrap();
    let described: fn(&mut Subscription) = |s| s.config.description = Some("another".to_owned());
    let paused: fn(&mut Subscription) = |s| s.status = SubscriptionStatus::Paused;
    let (gone, exhausted) = (
        (SubscriptionStatus::Disabled, StatusReason::Gone),
        (SubscriptionStatus::Paused, StatusReason::RetriesExhausted),
    );
    let active = (SubscriptionStatus::Active, None);
    for (case, change, standing, expected, failures) in [
        ("another target", new_target, gone, active, 0),
        ("another text", described, gone, (gone.0, Some(gone.1)), 1),
        ("a pause, then gone", paused, gone, (gone.0, Some(gone.1)), 1),
        ("a pause, then exhausted", paused, exhausted, (exhausted.0, Some(exhausted.1)), 1),
    ] {
        let world = World::new(backend).await;
        let id = world.subscription().await;
        let event = intake(id);
        world.accept(std::slice::from_ref(&event)).await;
        let delivery = world.delivery(event.delivery_id).await;
        world
            .store
            .update_subscription(id, STAMP, Action::SubscriptionUpdated, change)
            .await
            .unwrap()
            .unwrap();
        let mut ended = outcome(&delivery, 1, AttemptOutcome::Failed);
        ended.health = Some(LaneHealth { failures: 1, failing_since: Some(NOW), ..LaneHealth::NEW });
        ended.standing = Some(standing);
        world.record(&[ended]).await;
        let start = world.store.lane_start(id).await.unwrap().unwrap();
        assert_eq!((start.subscription.status, start.subscription.status_reason), expected, "{case}");
        assert_eq!(start.health.failures, failures, "{case}");
    }
}

async fn a_delivery_that_somebody_ended_stays_ended(backend: Backend) {
    let world = World::new(backend).await;
    let id = world.subscription().await;
    let events = [intake(id), intake(id)];
    world.accept(&events).await;
    let (first, second) =
        (world.delivery(events[0].delivery_id).await, world.delivery(events[1].delivery_id).await);
    let skipped = world.store.skip_delivery(first.id, STAMP).await.unwrap();
    let Change::Done(skipped) = skipped else { panic!("{skipped:?}") };
    assert_eq!((skipped.status, skipped.error.as_deref()), (DeliveryStatus::Failed, Some("skipped")));
    assert_eq!(world.store.skip_delivery(first.id, STAMP).await.unwrap(), Change::Finished);
    world.store.delete_subscription(id, STAMP).await.unwrap();

    let late = NOW.plus(Duration::from_secs(1));
    let outcomes =
        [outcome(&first, 1, AttemptOutcome::Success), outcome(&second, 1, AttemptOutcome::Success)];
    OutcomeWriter::new(&world.store).record(&[], &outcomes, late).await.unwrap();
    for (delivery, error) in [(first, "skipped"), (second, "subscription deleted")] {
        let after = world.delivery(delivery.id).await;
        assert_eq!((after.status, after.attempt_count), (DeliveryStatus::Failed, 1));
        assert_eq!(after.error.as_deref(), Some(error));
        assert_eq!(world.store.attempts_of_delivery(delivery.id).await.unwrap().len(), 1);
    }
    let stats = world.store.stats(late).await.unwrap();
    assert_eq!((stats.pending_deliveries, stats.recent_success_count, stats.recent_failure_count), (0, 0, 2));
}

async fn a_mark_never_outlives_its_outcome(backend: Backend) {
    let world = World::new(backend).await;
    let id = world.subscription().await;
    let event = intake(id);
    world.accept(std::slice::from_ref(&event)).await;
    let delivery = world.delivery(event.delivery_id).await;
    let mark = started(&delivery, 0);
    let mut writer = OutcomeWriter::new(&world.store);
    writer.record(&[mark], &[], NOW).await.unwrap();
    assert_eq!(world.delivery(delivery.id).await.status, DeliveryStatus::Processing);
    writer.record(&[], &[outcome(&delivery, 1, AttemptOutcome::FailedAttempt)], NOW).await.unwrap();
    writer.record(&[mark], &[], NOW).await.unwrap();
    assert_eq!(world.delivery(delivery.id).await.status, DeliveryStatus::FailedAttempt);
}

async fn interrupted_ones_go_back(backend: Backend) {
    let world = World::new(backend).await;
    let id = world.subscription().await;
    let events = [intake(id), intake(id)];
    world.accept(&events).await;
    let tried = world.delivery(events[1].delivery_id).await;
    world.record(&[outcome(&tried, 1, AttemptOutcome::FailedAttempt)]).await;
    let untried = world.delivery(events[0].delivery_id).await;
    let marks = [started(&untried, 0), started(&tried, 1)];
    OutcomeWriter::new(&world.store).record(&marks, &[], NOW).await.unwrap();

    let (mine, others): (Vec<_>, Vec<_>) = Slot::all().partition(|slot| *slot == Slot::of(id));
    if backend == Backend::Postgres {
        assert_eq!(world.store.reset_interrupted(&others, NOW).await.unwrap(), 0);
    }
    assert_eq!(world.store.reset_interrupted(&mine, NOW).await.unwrap(), 2);
    let [first, second] = events.map(|event| event.delivery_id);
    assert_eq!(world.delivery(first).await.status, DeliveryStatus::Pending);
    let second = world.delivery(second).await;
    assert_eq!((second.status, second.next_attempt_at), (DeliveryStatus::FailedAttempt, Some(NOW)));
}

async fn counters_agree_with_the_tables(backend: Backend) {
    let world = World::new(backend).await;
    let id = world.subscription().await;
    world.accept_many(id, 30).await;
    let unfinished = world.unfinished(id, 20).await;
    for (n, delivery) in unfinished.iter().enumerate() {
        let delivery = world.delivery(*delivery).await;
        let kind = [AttemptOutcome::Success, AttemptOutcome::Failed, AttemptOutcome::FailedAttempt][n % 3];
        world.record(&[outcome(&delivery, 1, kind)]).await;
    }
    world
        .store
        .replay_delivery(unfinished[0], DeliveryId(uuid::Uuid::now_v7()), BACKLOG_MAX, STAMP)
        .await
        .unwrap();
    let counted = async |status: &str| {
        let sql = format!("SELECT count(*) FROM webhook_deliveries WHERE {status}");
        u64::try_from(world.database.number(&sql).await).unwrap()
    };
    for later in [Duration::ZERO, Duration::from_hours(30)] {
        let stats = world.store.stats(NOW).await.unwrap();
        assert_eq!(stats.pending_deliveries, counted("status < 3").await);
        world.store.fold_stats(NOW.plus(later)).await.unwrap();
    }
    let stats = world.store.stats(NOW.plus(Duration::from_hours(30))).await.unwrap();
    assert_eq!(stats.recent_success_count, 0, "it is beyond the window");
    assert_eq!(stats.pending_deliveries, counted("status < 3").await);
}
