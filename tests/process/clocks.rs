//! A wall clock that is set moves no delivery: waits are counted by a clock that only goes on, and what is stored of
//! one is never taken for longer than it was.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::wall_clock::WallClock;
use crate::support::{Backend, Client, Posthorn, Received, Receiver, Reply, on_both_databases};

on_both_databases!(clock_is_set_while_it_runs, clock_is_set_between_two_runs);

const HOUR: i64 = 3600;
/// A retry comes after 0.8 to 1.2 times as long.
const DELAY: Duration = Duration::from_secs(1);
const SETTINGS: &[(&str, &str)] = &[("INITIAL_RETRY_DELAY_SECONDS", "1")];
/// For a busy machine.
const GRACE: Duration = Duration::from_secs(1);

async fn clock_is_set_while_it_runs(backend: Backend) {
    let Some(clock) = WallClock::new() else { return };
    let posthorn = Posthorn::start_with(backend, &[SETTINGS, &clock.settings()].concat()).await;
    let client = posthorn.client();
    for offset in [HOUR, -HOUR, 0] {
        let receiver = Receiver::script([Reply::status(500)]).await;
        let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
        let first = client.ingest(&id, json!(1)).await;
        let second = client.ingest(&id, json!(2)).await;
        client.delivery_in(&first, "failed_attempt").await;
        clock.set(offset);
        client.delivery_in(&second, "success").await;
        let received = receiver.requests();
        let sequences: Vec<_> = received.iter().map(Received::sequence).collect();
        assert_eq!(sequences, [1, 1, 2], "set by {offset} s");
        let waited = received[1].opened - received[0].closed.unwrap();
        assert!(
            waited >= DELAY.mul_f64(0.79) && waited < DELAY.mul_f64(1.2) + GRACE,
            "set by {offset} s: the retry came after {waited:?}"
        );
        is_signed_at(received[2].header("webhook-timestamp"), offset);
    }
}

/// Set forward, what waited is due; set back, it waits no longer than it would have from then on.
async fn clock_is_set_between_two_runs(backend: Backend) {
    let Some(clock) = WallClock::new() else { return };
    let mut posthorn = Posthorn::start_with(backend, &[SETTINGS, &clock.settings()].concat()).await;
    for offset in [HOUR, -HOUR] {
        clock.set(0);
        let receiver = Receiver::script([Reply::status(500)]).await;
        let id = posthorn.client().subscribe(&receiver.url("/"), json!({})).await.id;
        let first = posthorn.client().ingest(&id, json!(1)).await;
        let second = posthorn.client().ingest(&id, json!(2)).await;
        posthorn.client().delivery_in(&first, "failed_attempt").await;
        assert!(posthorn.terminate().await.success());
        clock.set(offset);
        posthorn.start_again().await;
        let began = Instant::now();
        in_order(posthorn.client(), &receiver, &second).await;
        assert!(began.elapsed() < DELAY.mul_f64(1.2) + GRACE, "set by {offset} s: {:?}", began.elapsed());
        assert!(posthorn.terminate().await.success());
        clock.set(0);
        posthorn.start_again().await;
    }
}

/// The first once more, and then the second.
async fn in_order(client: &Client, receiver: &Receiver, second: &str) {
    client.delivery_in(second, "success").await;
    let sequences: Vec<_> = receiver.requests().iter().map(Received::sequence).collect();
    assert_eq!(sequences, [1, 1, 2]);
}

/// Signatures bear the time as the clock has it, since receivers compare it with theirs.
fn is_signed_at(timestamp: &str, offset: i64) {
    let right = chrono::Utc::now().timestamp() + offset;
    let signed: i64 = timestamp.parse().expect("whole seconds");
    assert!((signed - right).abs() < 60, "signed at {signed} where the clock says {right}");
}
