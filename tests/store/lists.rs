//! Lists of deliveries: exact, and bounded in what a page looks at.

use std::time::Duration;

use posthorn::store::intake::IntakeWriter;
use posthorn_domain::delivery::{AttemptOutcome, DeliveryStatus};
use posthorn_domain::id::SubscriptionId;
use posthorn_domain::views::{DeliveryFilter, DeliveryList};

use crate::on_both_databases;
use crate::support::Backend;
use crate::world::{BACKLOG_MAX, NOW, World, intake, outcome};

on_both_databases!(times_lead_to_what_was_accepted_then, a_page_that_finds_nothing_goes_on_later);

const BATCH: usize = 50;
const BATCHES: u32 = 60;

/// Batch after batch, a second each.
async fn history(world: &World, id: SubscriptionId) {
    let mut writer = IntakeWriter::new(&world.store, BACKLOG_MAX);
    for second in 0..BATCHES {
        let batch: Vec<_> = (0..BATCH).map(|_| intake(id)).collect();
        writer.accept(&batch, NOW.plus(Duration::from_secs(1) * second)).await.unwrap();
    }
}

/// All pages of a list, and how many there were.
async fn all(world: &World, id: SubscriptionId, filter: DeliveryFilter) -> (Vec<i64>, usize) {
    let (mut found, mut pages, mut filter) = (Vec::new(), 0, filter);
    loop {
        let DeliveryList { items, go_on_before } =
            world.store.list_deliveries(id, &filter, 100).await.unwrap();
        pages += 1;
        found.extend(items.iter().map(|delivery| delivery.sequence.0));
        assert!(pages < 100, "the list has an end");
        let Some(before) = go_on_before else { return (found, pages) };
        assert!(filter.before.is_none_or(|last| before < last), "each page goes on");
        filter.before = Some(before);
    }
}

async fn times_lead_to_what_was_accepted_then(backend: Backend) {
    let world = World::new(backend).await;
    let id = world.subscription().await;
    let batch = i64::try_from(BATCH).unwrap();
    let empty = DeliveryFilter { since: Some(NOW), ..DeliveryFilter::default() };
    assert_eq!(all(&world, id, empty).await, (vec![], 1), "without a history");
    history(&world, id).await;
    let at = |second: u32| Some(NOW.plus(Duration::from_secs(1) * second));
    for (since, until, first, last) in [
        (None, None, 0, BATCHES),
        (at(10), None, 10, BATCHES),
        (None, at(10), 0, 10),
        (at(20), at(21), 20, 21),
        (at(0), at(BATCHES), 0, BATCHES),
        (at(BATCHES), None, 0, 0),
        (None, at(0), 0, 0),
        (at(30), at(30), 0, 0),
    ] {
        let filter = DeliveryFilter { since, until, ..DeliveryFilter::default() };
        let expected: Vec<i64> = (i64::from(first) * batch + 1..=i64::from(last) * batch).rev().collect();
        let (found, pages) = all(&world, id, filter).await;
        assert_eq!(found, expected, "{since:?} to {until:?}");
        assert!(pages <= expected.len() / 100 + 5, "{pages} pages for {} rows", expected.len());
    }
}

async fn a_page_that_finds_nothing_goes_on_later(backend: Backend) {
    let world = World::new(backend).await;
    let id = world.subscription().await;
    history(&world, id).await;
    let waiting = world.unfinished(id, 2).await;
    let (first, second) = (world.delivery(waiting[0]).await, world.delivery(waiting[1]).await);
    world
        .record(&[
            outcome(&first, 1, AttemptOutcome::Success),
            outcome(&second, 1, AttemptOutcome::FailedAttempt),
        ])
        .await;
    for (status, found) in [
        (DeliveryStatus::Success, vec![1]),
        (DeliveryStatus::FailedAttempt, vec![2]),
        (DeliveryStatus::Processing, vec![]),
        (DeliveryStatus::Failed, vec![]),
    ] {
        let filter = DeliveryFilter { status: Some(status), ..DeliveryFilter::default() };
        let (sequences, pages) = all(&world, id, filter).await;
        assert_eq!(sequences, found, "{status}");
        let rows = BATCH * usize::try_from(BATCHES).unwrap();
        let most = if status == DeliveryStatus::Failed { 1 } else { rows / 1_000 + 1 };
        assert!(pages <= most, "{status}: {pages} pages");
        if status != DeliveryStatus::Failed {
            let page = world.store.list_deliveries(id, &filter, 100).await.unwrap();
            assert!(page.items.is_empty() && page.go_on_before.is_some(), "a page looks no further");
        }
    }
}
