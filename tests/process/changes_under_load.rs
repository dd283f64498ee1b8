//! Changes while a client hands in all the time: whatever is changed, however often, nothing that
//! stays is lost, repeated, cut off or out of order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::ordering::{check_order, open_at_once};
use crate::pace::check_rate;
use crate::support::server::FAST;
use crate::support::{
    Backend, Client, Gate, Posthorn, Received, Receiver, Reply, eventually, on_both_databases, within,
};

on_both_databases!(
    changes_lose_and_cut_nothing,
    disabled_and_enabled_again_and_again,
    deletion_ends_what_is_under_way,
);

/// How each subscription orders, and how many requests it may have open.
const KINDS: [(&str, usize); 2] = [("strict", 1), ("none", 4)];

/// So many hand in at once.
const CLIENTS: usize = 3;

/// What waits behind those in flight, at most.
const WAITING: usize = 40;

/// When a change that was answered has reached whoever sends.
const IN_FORCE: Duration = Duration::from_millis(300);

async fn changes_lose_and_cut_nothing(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    join_all(KINDS.map(|kind| change_under_load(posthorn.client(), kind))).await;
}

async fn change_under_load(client: &Client, (ordering, in_flight): (&str, usize)) {
    // One in seven fails.
    let status = |seen: &Received| if seen.index % 7 == 3 { 500 } else { 200 };
    let receiver = Receiver::start(move |seen| slowly(status(seen), in_flight)).await;
    let load = Load::start(client, receiver, ordering, in_flight).await;
    let path = format!("/subscriptions/{}", load.id);
    let put = async |change: Value| {
        client.put_json(path.clone(), change).await.expect(200);
        Instant::now()
    };
    load.goes_on("/").await;
    for round in 0..3 {
        client.post(format!("{path}/pause")).await.expect(200);
        let paused = Instant::now();
        if round == 0 {
            // Nothing starts later than a second after the answer, so that has to be seen.
            tokio::time::sleep_until((paused + Duration::from_millis(1500)).into()).await;
        }
        let resumed = Instant::now();
        client.post(format!("{path}/resume")).await.expect(200);
        let at = if round == 0 { "/".to_owned() } else { format!("/{}", round - 1) };
        load.goes_on(&at).await;
        let late = load.opened_within(paused + Duration::from_secs(1), resumed);
        assert_eq!(late.len(), 0, "{ordering}: started while paused");

        let new = format!("/{round}");
        let moved = put(json!({"target_url": load.receiver.url(&new)})).await;
        load.goes_on(&new).await;
        client.post(format!("{path}/enable")).await.expect(200);
        let limited = put(json!({"rate_limit": {"requests_per_second": 20, "burst": 2}})).await;
        load.goes_on(&new).await;
        let freed = Instant::now();
        put(json!({"rate_limit": null})).await;
        check_rate(&load.opened_within(limited + IN_FORCE, freed), 20.0, 2.0);
        load.goes_on(&new).await;
        if in_flight > 1 {
            let narrowed = put(json!({"max_in_flight": 1})).await;
            load.goes_on(&new).await;
            let widened = Instant::now();
            put(json!({"max_in_flight": in_flight})).await;
            let one_by_one = load.opened_within(narrowed + IN_FORCE, widened);
            assert!(open_at_once(&one_by_one) <= 1, "{ordering}: more than one at once");
            load.goes_on(&new).await;
        }
        let elsewhere = load.opened_within(moved + IN_FORCE, Instant::now());
        assert!(elsewhere.iter().all(|seen| seen.path == new), "{ordering}: to an old target");
    }
    let (accepted, refused, receiver) = load.stop().await;
    assert_eq!(refused, 0, "{ordering}: what is paused or changed takes events");
    let mut attempts = 0;
    for delivery in &accepted {
        attempts += client.delivery_in(delivery, "success").await["attempt_count"].as_u64().unwrap();
    }
    let received = receiver.requests();
    println!("{ordering}: {} deliveries, {} requests", accepted.len(), received.len());
    assert_eq!(attempts, received.len() as u64, "{ordering}: each request is in the log");
    assert!(received.iter().all(|seen| seen.answered), "{ordering}: none was cut off");
    let done = received.iter().filter(|seen| seen.index % 7 != 3).count();
    assert_eq!(done, accepted.len(), "{ordering}: each succeeded once");
    assert!(open_at_once(&received) <= in_flight, "{ordering}");
    if ordering == "strict" {
        check_order(&received, accepted.len());
    }
}

/// A retry that waits is far away, so that only enabling makes it due.
async fn disabled_and_enabled_again_and_again(backend: Backend) {
    let settings = [("INITIAL_RETRY_DELAY_SECONDS", "3600"), ("MAX_RETRY_BACKOFF_SECONDS", "3600")];
    let posthorn = Posthorn::start_with(backend, &settings).await;
    let client = posthorn.client();
    join_all(KINDS.map(async |(ordering, in_flight)| {
        let load =
            Load::start(client, Receiver::always(slowly(200, in_flight)).await, ordering, in_flight).await;
        load.goes_on("/").await;
        // A failure before it would hold a strict line for an hour.
        let script = if ordering == "strict" { &[410][..] } else { &[500, 410] };
        let mut beside = Vec::new();
        for _ in 0..3 {
            load.has_backlog(client, in_flight).await;
            let answered = AtomicUsize::new(0);
            load.receiver.answer(move |_| {
                let place = answered.fetch_add(1, Ordering::SeqCst);
                slowly(script.get(place).copied().unwrap_or(200), in_flight)
            });
            let is_disabled = |shown: &Value| shown["status"] == "disabled";
            let shown = client.subscription_once(&load.id, "disabled", is_disabled).await;
            assert_eq!(shown["status_reason"], "gone", "{ordering}");
            beside.extend(load.is_refused(client, 409).await);
            let enabled = client.post(format!("/subscriptions/{}/enable", load.id)).await.expect(200).json;
            assert_eq!(enabled["circuit"]["consecutive_failures"], 0, "{ordering}: {enabled}");
            load.goes_on("/").await;
        }
        let (mut accepted, _, receiver) = load.stop().await;
        accepted.extend(beside);
        let mut counts = [0; 3];
        for delivery in &accepted {
            let is_over = |delivery: &Value| delivery["completed_at"].is_string();
            let ended = client.delivery_once(delivery, "finished", is_over).await;
            counts[usize::from(ended["status"] == "failed")] += 1;
            counts[2] += ended["attempt_count"].as_u64().unwrap();
        }
        let received = receiver.requests();
        assert_eq!(counts[1], 3, "{ordering}: only what was answered 410 is given up");
        assert_eq!(counts[2], received.len() as u64, "{ordering}: each request is in the log");
        let again = received.iter().filter(|seen| seen.attempt() == 2).count();
        assert_eq!(again, 3 * (script.len() - 1), "{ordering}: what waited was due at once");
        if ordering == "strict" {
            check_order(&received, accepted.len());
        }
    }))
    .await;
}

async fn deletion_ends_what_is_under_way(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    join_all(KINDS.map(async |(ordering, in_flight)| {
        let load =
            Load::start(client, Receiver::always(slowly(200, in_flight)).await, ordering, in_flight).await;
        load.goes_on("/").await;
        let gate = Gate::shut();
        // Who came before may have got the answer of before, and be recorded when it is gone.
        let held = Arc::new(AtomicUsize::new(0));
        let (behind, counted) = (gate.clone(), Arc::clone(&held));
        load.receiver.answer(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            Reply::status(200).behind(&behind)
        });
        eventually("all that may be in flight are held", async || {
            let held = held.load(Ordering::SeqCst);
            if held == in_flight { Ok(()) } else { Err(format!("{held} are")) }
        })
        .await;
        load.has_backlog(client, in_flight).await;
        client.delete(format!("/subscriptions/{}", load.id)).await.expect(204);
        let open: Vec<_> =
            load.receiver.requests().into_iter().filter(|seen| seen.closed.is_none()).collect();
        gate.open();
        let beside = load.is_refused(client, 404).await;
        let (accepted, _, receiver) = load.stop().await;
        assert_eq!(beside.len(), 0, "{ordering}: what is deleted takes no events");

        let mut attempts = 0;
        let mut deleted = 0;
        for delivery in &accepted {
            let was_open = open.iter().any(|seen| seen.delivery_id() == delivery);
            let attempted = |shown: &Value| !was_open || shown["attempt_count"] == 1;
            let shown = client.delivery_once(delivery, "with its attempt", attempted).await;
            let success = shown["status"] == "success";
            let error = (!success).then_some("subscription deleted");
            assert_eq!(shown["error"].as_str(), error, "{ordering}: {shown}");
            assert!(!(was_open && success), "{ordering}: in flight at the deletion: {shown}");
            assert!(
                shown["completed_at"].is_string() && shown["waiting_for"].is_null(),
                "{ordering}: {shown}"
            );
            let log = client.attempts(delivery).await;
            assert_eq!(shown["attempt_count"], log.len(), "{ordering}: {shown}");
            assert!(log.iter().all(|attempt| attempt["status_code"] == 200), "{ordering}: {log:?}");
            attempts += log.len();
            deleted += usize::from(!success);
        }
        let received = receiver.requests();
        println!("{ordering}: {} deliveries, {deleted} of them deleted", accepted.len());
        assert!(deleted >= in_flight + 10, "{ordering}: {deleted} are no backlog");
        assert_eq!(attempts, received.len(), "{ordering}: each request is in the log");
        assert!(received.iter().all(|seen| seen.answered), "{ordering}: none was cut off");
    }))
    .await;
    let unfinished = "webhook_deliveries WHERE status NOT IN (3, 4)";
    posthorn.database.check_none("I24: unfinished ones of a deleted subscription", unfinished).await;
}

/// The answer of an endpoint slower than those who hand in.
fn slowly(status: u16, in_flight: usize) -> Reply {
    Reply::status(status).after(Duration::from_millis(15) * u32::try_from(in_flight).unwrap())
}

/// A subscription with clients that hand in all the time, so that some always wait.
struct Load {
    id: String,
    receiver: Arc<Receiver>,
    wanted: Arc<AtomicBool>,
    clients: JoinSet<(Vec<String>, usize)>,
}

impl Load {
    async fn start(client: &Client, receiver: Receiver, ordering: &str, in_flight: usize) -> Self {
        let fields = json!({"ordering": ordering, "max_in_flight": in_flight});
        let id = client.subscribe(&receiver.url("/"), fields).await.id;
        let (receiver, wanted) = (Arc::new(receiver), Arc::new(AtomicBool::new(true)));
        let (count, mut clients) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
        for _ in 0..CLIENTS {
            let has_room = {
                let (receiver, count) = (Arc::clone(&receiver), Arc::clone(&count));
                move || count.load(Ordering::SeqCst) < receiver.requests().len() + WAITING
            };
            let (wanted, count) = (Arc::clone(&wanted), Arc::clone(&count));
            clients.spawn(hand_in(client.clone(), id.clone(), wanted, count, has_room));
        }
        Self { id, receiver, wanted, clients }
    }

    /// Waits until some more requests have come to the path.
    async fn goes_on(&self, path: &str) {
        let at = |log: &[Received]| log.iter().filter(|seen| seen.path == path).count();
        let before = at(&self.receiver.requests());
        self.receiver.until(&format!("more at {path}"), |log| at(log) >= before + 10).await;
    }

    /// Waits until ten wait beside those in flight, which may be shown as pending as well.
    async fn has_backlog(&self, client: &Client, in_flight: usize) {
        let path = format!("/subscriptions/{}/deliveries?status=pending", self.id);
        eventually("a backlog", || async {
            let listed = client.get(path.clone()).await.expect(200).json;
            let waiting = listed["items"].as_array().unwrap().len();
            if waiting >= in_flight + 10 { Ok(()) } else { Err(format!("{waiting} wait")) }
        })
        .await;
    }

    /// Waits until events are refused; the deliveries of those that still were accepted.
    async fn is_refused(&self, client: &Client, status: u16) -> Vec<String> {
        let accepted = std::cell::RefCell::new(Vec::new());
        eventually("a refusal", async || {
            let answer = client.post_json(format!("/ingest/{}", self.id), json!("beside")).await;
            if answer.status == status {
                return Ok(());
            }
            accepted.borrow_mut().push(answer.expect(202).text("delivery_id"));
            Err("accepted".to_owned())
        })
        .await;
        accepted.into_inner()
    }

    /// What was opened between the two moments.
    fn opened_within(&self, from: Instant, to: Instant) -> Vec<Received> {
        self.receiver.requests().into_iter().filter(|seen| seen.opened > from && seen.opened < to).collect()
    }

    /// Ends the load: the deliveries accepted, the events refused, and the receiver.
    async fn stop(mut self) -> (Vec<String>, usize, Arc<Receiver>) {
        self.wanted.store(false, Ordering::SeqCst);
        let (mut accepted, mut refused) = (Vec::new(), 0);
        while let Some(ended) =
            within(Duration::from_secs(30), "the clients' end", self.clients.join_next()).await
        {
            let (more, less) = ended.expect("a client's end");
            accepted.extend(more);
            refused += less;
        }
        (accepted, refused, self.receiver)
    }
}

/// One client: the deliveries it was told of, and how often it was refused.
async fn hand_in(
    client: Client,
    id: String,
    wanted: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    has_room: impl Fn() -> bool,
) -> (Vec<String>, usize) {
    let (mut accepted, mut refused) = (Vec::new(), 0);
    while wanted.load(Ordering::SeqCst) {
        if !has_room() {
            // Looked at again soon: a pause may end, and so may the load.
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        }
        let answer = client.post_json(format!("/ingest/{id}"), json!(accepted.len())).await;
        let answer = answer.expect_any(&[202, 404, 409]);
        if answer.status == 202 {
            count.fetch_add(1, Ordering::SeqCst);
            accepted.push(answer.text("delivery_id"));
        } else {
            refused += 1;
        }
    }
    (accepted, refused)
}
