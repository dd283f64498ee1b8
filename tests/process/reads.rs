//! Lists that look for what is not there, in a long history: another tenant's events and reads go on as before (P5).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use futures_util::future::join_all;

use crate::crowding::{ADMIN, Tenant, check_memory};
use crate::open_circuits::numbers;
use crate::support::beside::is_unnoticed;
use crate::support::server::ADMIN_KEY;
use crate::support::{Backend, Posthorn, on_both_databases};

on_both_databases!(looking_for_nothing_costs_others_little);

const HISTORY: u64 = if cfg!(debug_assertions) { 30_000 } else { 200_000 };
const READERS: usize = 150;
async fn looking_for_nothing_costs_others_little(backend: Backend) {
    let mut posthorn = Posthorn::start_with(backend, &[(ADMIN_KEY, ADMIN)]).await;
    let (hurt, reader) = (Tenant::new(&posthorn, "hurt").await, Tenant::new(&posthorn, "reader").await);
    posthorn.terminate().await;
    // A second from each delivery to the next, up to now.
    let oldest = Utc::now() - TimeDelta::seconds(i64::try_from(HISTORY).unwrap());
    for statement in history(backend, oldest) {
        posthorn.database.execute(&statement).await;
    }
    posthorn.start_again().await;
    let (hurt, reader) = (hurt.at(&posthorn).await, reader.at(&posthorn).await);
    let newest = reader.client.get(list(&reader.subscription, "status=success")).await.expect(200).json;
    assert_eq!(newest["items"].as_array().unwrap().len(), 100, "the history is the reader's");
    let alone = hurt.times().await;

    // Nothing is found by them, or only at the end of the history.
    let [before, early] = [0, 2]
        .map(|seconds| (oldest + TimeDelta::seconds(seconds)).to_rfc3339_opts(SecondsFormat::Secs, true));
    let filters = [
        format!("status=success&since={before}&until={early}"),
        "status=failed_attempt".to_owned(),
        format!("status=failed&until={early}"),
        format!("until={before}"),
    ];
    let wanted = Arc::new(AtomicBool::new(true));
    let reading = (0..READERS).map(|n| {
        let (client, wanted) = (reader.client.clone(), Arc::clone(&wanted));
        let path = list(&reader.subscription, &filters[n % filters.len()]);
        async move {
            let mut answered = 0;
            while wanted.load(Ordering::SeqCst) {
                let answer = client.get(path.clone()).await;
                // Whoever asks for more than his share may be told to come again.
                assert!([200, 503].contains(&answer.status), "{}", answer.json);
                answered += usize::from(answer.status == 200);
            }
            answered
        }
    });
    let measuring = async {
        let beside = hurt.times().await;
        wanted.store(false, Ordering::SeqCst);
        beside
    };
    let (beside, answered) = tokio::join!(measuring, join_all(reading));
    println!("{backend}: {} lists were answered beside it", answered.iter().sum::<usize>());
    assert!(answered.iter().sum::<usize>() > READERS, "they did read: {answered:?}");
    is_unnoticed("an event and a read", &alone, &beside);
    check_memory(&posthorn, "lists of nothing");
}

fn list(subscription: &str, filter: &str) -> String {
    format!("/subscriptions/{subscription}/deliveries?limit=100&{filter}")
}

/// Deliveries that succeeded, of the tenant `reader`.
fn history(backend: Backend, oldest: DateTime<Utc>) -> [String; 2] {
    let id = match backend {
        Backend::Sqlite => "randomblob(16)",
        Backend::Postgres => "gen_random_uuid()",
    };
    let of = "(SELECT id FROM subscriptions WHERE tenant = 'reader')";
    let (numbers, oldest) = (numbers(backend, HISTORY), oldest.timestamp_millis());
    [
        format!(
            "{numbers} INSERT INTO webhook_deliveries (id, subscription_id, event_id, sequence, status, \
             attempt_count, retry_base, created_at_ms, completed_at_ms) SELECT {id}, {of}, {id}, n.i, 3, 1, 0, \
             {oldest} + n.i * 1000, {oldest} + n.i * 1000 + 500 FROM n"
        ),
        format!("UPDATE lanes SET next_sequence = {HISTORY} + 1 WHERE subscription_id = {of}"),
    ]
}
