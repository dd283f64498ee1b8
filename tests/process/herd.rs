//! A hundred subscriptions on one host that went away: when it returns their probes come spread and
//! few at once, and a healthy endpoint beside them is served as ever.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::flapping::ended;
use crate::ordering::open_at_once;
use crate::retries::time;
use crate::support::busyness::Busyness;
use crate::support::{Backend, Client, Gate, Posthorn, Received, Receiver, Reply, on_both_databases};

on_both_databases!(a_host_that_returns_is_not_overrun);

const SUBSCRIPTIONS: usize = 100;
const BACKLOG: usize = 4;

/// All requests in flight, and those of them to endpoints in doubt.
const IN_FLIGHT: usize = 16;
const IN_DOUBT: usize = IN_FLIGHT / 2;

/// Long enough for the host to be back before the first probe.
const COOL_DOWN: f64 = 6.0;

const SETTINGS: &[(&str, &str)] = &[
    ("POSTHORN_MAX_IN_FLIGHT", "16"),
    ("POSTHORN_CIRCUIT_FAILURE_THRESHOLD", "1"),
    ("POSTHORN_CIRCUIT_COOL_DOWN_SECONDS", "6"),
    ("INITIAL_RETRY_DELAY_SECONDS", "0.001"),
    ("MAX_RETRY_BACKOFF_SECONDS", "60"),
    ("WEBHOOK_DELIVERY_TIMEOUT_SECONDS", "60"),
];

/// From handing in to receipt, beside all the others.
const SERVED_WITHIN: Duration = Duration::from_millis(100);

/// What a machine that is busy with other tests may add.
const SLACK: Duration = Duration::from_millis(50);

async fn a_host_that_returns_is_not_overrun(backend: Backend) {
    let busyness = Busyness::watch();
    let posthorn = Posthorn::start_with(backend, SETTINGS).await;
    let client = posthorn.client();
    let gate = Gate::shut();
    let held = gate.clone();
    let mut host = Receiver::always(Reply::status(200).after(Duration::from_millis(20)).behind(&held)).await;
    let healthy = Receiver::always(Reply::status(200)).await;
    let beside = client.subscribe(&healthy.url("/"), json!({})).await.id;
    client.ingest(&beside, json!("warm")).await;
    healthy.ended(1).await;

    host.go_away().await;
    let fields = json!({"ordering": "none", "max_in_flight": 4});
    let subscribing = (0..SUBSCRIPTIONS).map(|index| {
        let url = host.url(&format!("/{index}"));
        let fields = fields.clone();
        async move { client.subscribe(&url, fields).await.id }
    });
    let ids = join_all(subscribing).await;
    let heads = join_all(ids.iter().map(|id| client.ingest(id, json!(0)))).await;
    let all_due = check_spread(client, &ids, &heads).await;
    let mut deliveries = heads;
    for index in 1..BACKLOG {
        deliveries.extend(join_all(ids.iter().map(|id| client.ingest(id, json!(index)))).await);
    }
    assert_eq!(client.get("/status/stats").await.expect(200).json["circuits_open"], SUBSCRIPTIONS);
    host.come_back().await;

    // All of them come due, and as long as nobody answers half of the places are all they get.
    let until_all_are_due = |_| Utc::now() > all_due;
    let times = serve_beside(client, &healthy, &beside, until_all_are_due).await;
    check_served(times, &busyness, "beside a hundred in doubt");
    let probes = host.requests();
    assert_eq!(probes.len(), IN_DOUBT, "endpoints in doubt hold at most half of the places");
    assert_eq!(probes_of(&probes).len(), IN_DOUBT, "one probe each");

    gate.open();
    let (times, ()) = tokio::join!(serve_beside(client, &healthy, &beside, |served| served == 20), async {
        for delivery in &deliveries {
            client.delivery_in(delivery, "success").await;
        }
    });
    check_served(times, &busyness, "beside their backlogs");
    let received = host.requests();
    assert_eq!(received.len(), SUBSCRIPTIONS * BACKLOG, "nothing is lost and nothing is tried in vain");
    let probes: Vec<_> = probes_of(&received);
    assert_eq!(probes.len(), SUBSCRIPTIONS);
    assert!(open_at_once(&probes) <= IN_DOUBT, "{} probes at once", open_at_once(&probes));
    let everything = [received, healthy.requests()].concat();
    println!("at most {} requests at once", open_at_once(&everything));
    assert!(open_at_once(&everything) <= IN_FLIGHT, "{} requests at once", open_at_once(&everything));
    let stats = client.get("/status/stats").await.expect(200).json;
    assert_eq!(stats["circuits_open"], 0, "{stats}");
}

/// Every circuit is open for its cool-down and up to a tenth more, and not all for the same time; answers
/// when the last of them probes.
async fn check_spread(client: &Client, ids: &[String], heads: &[String]) -> DateTime<Utc> {
    let mut delays = Vec::new();
    let mut last = Utc::now();
    for (id, head) in ids.iter().zip(heads) {
        let is_open = |shown: &Value| shown["circuit"]["state"] == "open";
        let shown = client.subscription_once(id, "open", is_open).await;
        let retry_at = time(&shown["circuit"]["retry_at"]);
        let attempts = client.attempts(head).await;
        assert_eq!(attempts.len(), 1, "{attempts:?}");
        delays.push((retry_at - ended(&attempts[0])).as_seconds_f64());
        last = last.max(retry_at);
    }
    let within = |delay: &&f64| (COOL_DOWN - 0.003..1.1 * COOL_DOWN + 0.5).contains(*delay);
    assert_eq!(delays.iter().filter(within).count(), SUBSCRIPTIONS, "{delays:?}");
    // About half of a hundred; fewer than 20 or more than 80 come once in a billion times.
    let late = delays.iter().filter(|delay| **delay > 1.05 * COOL_DOWN).count();
    println!("{late} of {SUBSCRIPTIONS} in the later half of the spread");
    assert!((20..=80).contains(&late), "{late} in the later half of the spread: {delays:?}");
    last
}

/// Hands in event after event until it is enough, and answers how long each took to be received.
async fn serve_beside(
    client: &Client,
    healthy: &Receiver,
    id: &str,
    enough: impl Fn(usize) -> bool,
) -> Vec<Duration> {
    let mut times = Vec::new();
    while !enough(times.len()) {
        let seen = healthy.requests().len();
        let began = Instant::now();
        client.ingest(id, json!(seen)).await;
        let request = healthy.arrived(seen + 1).await.pop().unwrap();
        times.push(request.opened.saturating_duration_since(began));
    }
    times
}

fn check_served(mut times: Vec<Duration>, busyness: &Busyness, when: &str) {
    times.sort_unstable();
    let (median, most) = (times[times.len() / 2], times[times.len() * 9 / 10]);
    println!("{} served {when}: median {median:?}, of nine in ten {most:?}", times.len());
    let allowed = (busyness.allows(SERVED_WITHIN), busyness.allows(SERVED_WITHIN + SLACK));
    assert!(median < allowed.0 && most < allowed.1, "{when}: {times:?}, of {allowed:?}");
}

/// The first request of each subscription.
fn probes_of(received: &[Received]) -> Vec<Received> {
    let mut paths = HashSet::new();
    received.iter().filter(|seen| paths.insert(seen.path.clone())).cloned().collect()
}
