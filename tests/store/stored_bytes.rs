//! What a tenant has stored: every payload once, and nobody else's.

use posthorn_domain::id::DeliveryId;
use posthorn_domain::tenant::Tenant;
use uuid::Uuid;

use crate::on_both_databases;
use crate::support::Backend;
use crate::world::{BACKLOG_MAX, NOW, STAMP, World, idempotent};

on_both_databases![payloads_count_once_and_until_they_are_removed];

async fn payloads_count_once_and_until_they_are_removed(backend: Backend) {
    let world = World::new(backend).await;
    let (one, two) = (world.subscription().await, world.subscription().await);
    let stored = async |tenant: &str| {
        let tenant: Tenant = tenant.parse().unwrap();
        world.store.stored_bytes(&tenant).await.unwrap()
    };
    assert_eq!(stored("default").await, 0);
    let batch: Vec<_> = [one, one, two]
        .into_iter()
        .zip(["1", "[1, 2]", "\"\u{e4}\""])
        .map(|(id, body)| idempotent(id, body, body))
        .collect();
    world.accept(&batch).await;
    assert_eq!((stored("default").await, stored("other").await), (1 + 6 + 4, 0));

    let replay = DeliveryId(Uuid::now_v7());
    world.store.replay_delivery(batch[1].delivery_id, replay, BACKLOG_MAX, STAMP).await.unwrap();
    assert_eq!(stored("default").await, 11, "a replay has no bytes of its own");
    world.store.delete_subscription(one, STAMP).await.unwrap();
    assert_eq!(stored("default").await, 11, "they are still there");
    let later = posthorn_domain::time::Timestamp::from_millis(NOW.as_millis() + 1_000_000_000);
    while world.store.remove_finished(later).await.unwrap() > 0 {}
    assert_eq!(stored("default").await, 4);
}
