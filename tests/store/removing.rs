//! Retention: what is old goes, whole, and nothing else.

use std::time::Duration;

use posthorn::store::Replayed;
use posthorn_domain::audit::Action;
use posthorn_domain::delivery::{AttemptOutcome, DeliveryStatus};
use posthorn_domain::id::DeliveryId;
use posthorn_domain::subscription::SubscriptionStatus;
use uuid::Uuid;

use crate::on_both_databases;
use crate::support::Backend;
use crate::world::{BACKLOG_MAX, NOW, STAMP, World, idempotent, intake, outcome};

on_both_databases![
    finished_ones_go_with_their_events,
    an_event_stays_while_a_replay_needs_it,
    a_deleted_subscription_goes_last,
    what_is_disabled_for_long_is_given_up,
    a_key_is_free_again_with_its_delivery,
];

async fn finished_ones_go_with_their_events(backend: Backend) {
    let world = World::new(backend).await;
    let id = world.subscription().await;
    let events = [intake(id), intake(id)];
    world.accept(&events).await;
    let done = world.delivery(events[0].delivery_id).await;
    world.record(&[outcome(&done, 1, AttemptOutcome::Success)]).await;

    assert_eq!(world.store.remove_finished(NOW).await.unwrap(), 0, "it ended at that time, not before");
    let later = NOW.plus(Duration::from_millis(1));
    assert_eq!(world.store.remove_finished(later).await.unwrap(), 1);
    for table in ["events", "webhook_deliveries"] {
        assert_eq!(world.database.number(&format!("SELECT count(*) FROM {table}")).await, 1, "{table}");
    }
    assert_eq!(world.database.number("SELECT count(*) FROM delivery_attempts").await, 0);
    assert!(world.store.payload(events[1].delivery_id).await.unwrap().is_some());
}

async fn an_event_stays_while_a_replay_needs_it(backend: Backend) {
    let world = World::new(backend).await;
    let id = world.subscription().await;
    let event = intake(id);
    world.accept(std::slice::from_ref(&event)).await;
    let original = world.delivery(event.delivery_id).await;
    world.record(&[outcome(&original, 1, AttemptOutcome::Success)]).await;
    let replays = [DeliveryId(Uuid::now_v7()), DeliveryId(Uuid::now_v7())];
    for replay in replays {
        let Replayed::Stored(stored) =
            world.store.replay_delivery(original.id, replay, BACKLOG_MAX, STAMP).await.unwrap()
        else {
            panic!("not stored")
        };
        assert_eq!(stored.replay_of, Some(original.id));
    }
    let later = NOW.plus(Duration::from_secs(1));
    assert_eq!(world.store.remove_finished(later).await.unwrap(), 1);
    assert_eq!(world.store.payload(replays[1]).await.unwrap().unwrap().bytes, event.payload);

    let both = [world.delivery(replays[0]).await, world.delivery(replays[1]).await];
    world.record(&both.map(|replay| outcome(&replay, 1, AttemptOutcome::Success))).await;
    assert_eq!(world.store.remove_finished(later).await.unwrap(), 2);
    assert_eq!(world.database.number("SELECT count(*) FROM events").await, 0);
}

async fn a_deleted_subscription_goes_last(backend: Backend) {
    let world = World::new(backend).await;
    let id = world.subscription().await;
    let event = intake(id);
    world.accept(std::slice::from_ref(&event)).await;
    world.store.delete_subscription(id, STAMP).await.unwrap();
    assert_eq!(world.store.subscription_view(id).await.unwrap(), None);
    assert_eq!(world.delivery(event.delivery_id).await.status, DeliveryStatus::Failed);
    assert_eq!(world.store.remove_deleted_subscriptions().await.unwrap(), 0);
    world.store.remove_finished(NOW.plus(Duration::from_secs(1))).await.unwrap();
    assert_eq!(world.store.remove_deleted_subscriptions().await.unwrap(), 1);
    assert_eq!(world.database.number("SELECT count(*) FROM subscriptions").await, 0);
}

async fn what_is_disabled_for_long_is_given_up(backend: Backend) {
    let world = World::new(backend).await;
    let (disabled, active) = (world.subscription().await, world.subscription().await);
    let events = [intake(disabled), intake(active)];
    world.accept(&events).await;
    let disable =
        |s: &mut posthorn_domain::subscription::Subscription| s.status = SubscriptionStatus::Disabled;
    world
        .store
        .update_subscription(disabled, STAMP, Action::SubscriptionUpdated, disable)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(world.store.fail_disabled(NOW, NOW, None).await.unwrap(), None);
    let later = NOW.plus(Duration::from_secs(1));
    assert_eq!(world.store.fail_disabled(later, later, None).await.unwrap(), Some((disabled, 1)));
    let given_up = world.delivery(events[0].delivery_id).await;
    assert_eq!(given_up.status, DeliveryStatus::Failed);
    assert_eq!(given_up.error.as_deref(), Some("subscription disabled"));
    assert_eq!(world.delivery(events[1].delivery_id).await.status, DeliveryStatus::Pending);
}

async fn a_key_is_free_again_with_its_delivery(backend: Backend) {
    let world = World::new(backend).await;
    let id = world.subscription().await;
    let first = idempotent(id, "k", "1");
    world.accept(std::slice::from_ref(&first)).await;
    let delivery = world.delivery(first.delivery_id).await;
    world.record(&[outcome(&delivery, 1, AttemptOutcome::Success)]).await;
    world.store.remove_finished(NOW.plus(Duration::from_secs(1))).await.unwrap();
    let again = idempotent(id, "k", "2");
    assert!(matches!(world.accept(&[again]).await[..], [posthorn::store::intake::Answer::Stored(_)]));
}
