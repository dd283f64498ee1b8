//! Kill -9 at random moments under load, again and again on the same data: nothing accepted is
//! lost, order never goes backwards, and only what was in flight is repeated.

mod invariants;
mod load;

use std::time::{Duration, Instant};

use rand::RngExt;

use self::load::Load;
use crate::support::random::seeded;
use crate::support::server::FAST;
use crate::support::{Backend, Posthorn, eventually, on_both_databases};

on_both_databases!(kills_lose_nothing_and_keep_order);

const KILLS: usize = 20;

async fn kills_lose_nothing_and_keep_order(backend: Backend) {
    let mut random = seeded("kills_lose_nothing_and_keep_order");
    let settings = [FAST, &[("WEBHOOK_MAX_RETRIES", "100")]].concat();
    let mut posthorn = Posthorn::start_with(backend, &settings).await;
    let load = Load::start(posthorn.client(), random.random()).await;
    let mut kills: Vec<Instant> = Vec::new();
    for _ in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(random.random_range(20..350))).await;
        posthorn.kill().await;
        kills.push(load.quiet().await);
        posthorn.start_again().await;
        load.go_on_with(posthorn.client());
    }
    let load = load.stop().await;
    assert!(load.accepted.len() > KILLS, "the load was no load: {} accepted", load.accepted.len());
    eventually("everything is delivered", || async {
        let left =
            posthorn.database.number("SELECT count(*) FROM webhook_deliveries WHERE status <> 3").await;
        if left == 0 { Ok(()) } else { Err(format!("{left} deliveries are no success")) }
    })
    .await;

    let received = load.requests();
    println!("{} accepted, {} requests, {} kills", load.accepted.len(), received.len(), kills.len());
    invariants::check_stored(&posthorn.database, &load).await;
    invariants::check_tables(&posthorn.database).await;
    for subscription in &load.subscriptions {
        let of: Vec<_> = received.iter().filter(|seen| seen.path == subscription.path).cloned().collect();
        invariants::check_order(subscription, &load, &of);
        invariants::check_repeats(subscription, &of, &kills);
    }
    invariants::check_attempts(&received);
    let status = posthorn.terminate().await;
    assert!(status.success(), "{status}");
}
