//! Accepting: numbers without gaps, idempotency, and what is refused.

use posthorn::store::Replayed;
use posthorn::store::intake::{Answer, IntakeWriter, Known};
use posthorn_domain::delivery::AttemptOutcome;
use posthorn_domain::id::{DeliveryId, Sequence, SubscriptionId};
use uuid::Uuid;

use crate::on_both_databases;
use crate::support::Backend;
use crate::world::{BACKLOG_MAX, NOW, STAMP, World, idempotent, intake, outcome};

on_both_databases![
    numbers_have_no_gaps,
    simultaneous_writers_leave_no_gaps,
    a_known_key_stores_nothing,
    an_unknown_subscription_harms_nobody,
    a_batch_that_is_lost_can_be_looked_up,
    payloads_come_back_byte_for_byte,
    a_full_backlog_takes_nothing_more,
];

async fn numbers_have_no_gaps(backend: Backend) {
    let world = World::new(backend).await;
    let (a, b) = (world.subscription().await, world.subscription().await);
    let stored = |n| Answer::Stored(Sequence(n));
    assert_eq!(
        world.accept(&[intake(a), intake(b), intake(a), intake(a)]).await,
        [stored(1), stored(1), stored(2), stored(3)]
    );
    assert_eq!(world.accept(&[intake(b), intake(a)]).await, [stored(2), stored(4)]);
    assert_eq!(world.store.stats(NOW).await.unwrap().pending_deliveries, 6);
}

async fn simultaneous_writers_leave_no_gaps(backend: Backend) {
    let world = World::new(backend).await;
    let ids = [world.subscription().await, world.subscription().await, world.subscription().await];
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let store = world.store.clone();
            tokio::spawn(async move {
                let mut intakes = IntakeWriter::new(&store, BACKLOG_MAX);
                for round in 0..25 {
                    // Each writer names the lanes in another order.
                    let batch: Vec<_> = (0..6).map(|n| intake(ids[(writer + round + n) % 3])).collect();
                    intakes.accept(&batch, NOW).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    for id in ids {
        let mut numbers: Vec<i64> = world
            .store
            .lane_page(id, Sequence::ZERO, &posthorn::store::lanes::Scope::Without(vec![]), 1000)
            .await
            .unwrap()
            .into_iter()
            .map(|row| row.sequence.0)
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=200).collect::<Vec<i64>>());
    }
}

async fn a_known_key_stores_nothing(backend: Backend) {
    let world = World::new(backend).await;
    let (a, b) = (world.subscription().await, world.subscription().await);
    let first = idempotent(a, "k", "1");
    assert_eq!(world.accept(std::slice::from_ref(&first)).await, [Answer::Stored(Sequence(1))]);
    let batch = [idempotent(a, "k", "1"), intake(a), idempotent(b, "k", "1"), idempotent(a, "l", "1")];
    assert_eq!(
        world.accept(&batch).await,
        [
            Answer::Replayed(Known { id: first.delivery_id, sequence: Sequence(1), unfinished: true }),
            Answer::Stored(Sequence(2)),
            Answer::Stored(Sequence(1)),
            Answer::Stored(Sequence(3)),
        ]
    );
    assert_eq!(world.accept(&[idempotent(a, "k", "2")]).await, [Answer::KeyReused]);
    assert_eq!(world.database.number("SELECT count(*) FROM events").await, 4);
}

async fn an_unknown_subscription_harms_nobody(backend: Backend) {
    let world = World::new(backend).await;
    let known = world.subscription().await;
    let unknown = SubscriptionId(Uuid::now_v7());
    assert_eq!(
        world.accept(&[intake(unknown), intake(known), intake(unknown)]).await,
        [Answer::NoSubscription, Answer::Stored(Sequence(1)), Answer::NoSubscription]
    );
    assert_eq!(world.accept(&[intake(unknown)]).await, [Answer::NoSubscription]);

    assert!(world.store.delete_subscription(known, STAMP).await.unwrap());
    assert!(!world.store.delete_subscription(known, STAMP).await.unwrap());
    assert_eq!(world.accept(&[intake(known)]).await, [Answer::NoSubscription]);
}

async fn a_batch_that_is_lost_can_be_looked_up(backend: Backend) {
    let world = World::new(backend).await;
    let id = world.subscription().await;
    let batch = [intake(id), intake(id)];
    let ids: Vec<_> = batch.iter().map(|intake| intake.delivery_id).collect();
    let mut writer = IntakeWriter::new(&world.store, BACKLOG_MAX);
    assert!(writer.stored(&ids).await.unwrap().is_empty());
    writer.accept(&batch, NOW).await.unwrap();
    let found = writer.stored(&ids).await.unwrap();
    assert_eq!(found.values().copied().collect::<Vec<_>>(), [Sequence(1), Sequence(2)]);
    // The same again is a conflict and leaves the writer usable.
    let again = writer.accept(&batch, NOW).await.unwrap_err();
    assert!(matches!(again, posthorn::store::Error::Conflict), "{again}");
    assert_eq!(writer.accept(&[intake(id)], NOW).await.unwrap(), [Answer::Stored(Sequence(3))]);
}

async fn payloads_come_back_byte_for_byte(backend: Backend) {
    let world = World::new(backend).await;
    let id = world.subscription().await;
    let mut event = intake(id);
    event.payload = bytes::Bytes::from([b"\"\0\xff".to_vec(), vec![b' '; 300_000]].concat());
    event.content_type = String::from("application/cloudevents+json; charset=utf-8");
    world.accept(std::slice::from_ref(&event)).await;
    let payload = world.store.payload(event.delivery_id).await.unwrap().unwrap();
    assert_eq!(payload.bytes, event.payload);
    assert_eq!(payload.content_type, event.content_type);
}

async fn a_full_backlog_takes_nothing_more(backend: Backend) {
    let world = World::new(backend).await;
    let (id, other) = (world.subscription().await, world.subscription().await);
    let mut writer = IntakeWriter::new(&world.store, 3);
    let first = idempotent(id, "k", "{}");
    let stored = |n| Answer::Stored(Sequence(n));
    let batch = [first.clone(), intake(id), intake(other), intake(id), intake(id), intake(id)];
    let full = Answer::BacklogFull;
    assert_eq!(
        writer.accept(&batch, NOW).await.unwrap(),
        [stored(1), stored(2), stored(1), stored(3), full, full]
    );
    let again = idempotent(id, "k", "{}");
    let replayed = Answer::Replayed(Known { id: first.delivery_id, sequence: Sequence(1), unfinished: true });
    assert_eq!(writer.accept(&[again, intake(id)], NOW).await.unwrap(), [replayed, full]);

    let delivery = world.delivery(first.delivery_id).await;
    world.record(&[outcome(&delivery, 1, AttemptOutcome::Success)]).await;
    assert_eq!(writer.accept(&[intake(id)], NOW).await.unwrap(), [full], "nobody has counted");
    let replay = DeliveryId(Uuid::now_v7());
    let refused = world.store.replay_delivery(first.delivery_id, replay, 3, STAMP).await.unwrap();
    assert_eq!(refused, Replayed::BacklogFull(id));
    world.store.recount_backlog(id).await.unwrap();
    let more = writer.accept(&[intake(id), intake(id)], NOW).await.unwrap();
    assert_eq!(more, [stored(4), full], "no number is lost by what was refused");
    world.store.recount_backlog(id).await.unwrap();
    assert_eq!(writer.accept(&[intake(id)], NOW).await.unwrap(), [full]);
}
