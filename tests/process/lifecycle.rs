//! Starting and stopping: signals, kills, and who may share a database.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rand::RngExt;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::command::run;
use crate::support::random::seeded;
use crate::support::server::{FAST, Process};
use crate::support::wait::PATIENCE;
use crate::support::{
    Backend, Client, Database, Gate, Posthorn, Received, Receiver, Reply, eventually, on_both_databases,
    within,
};

on_both_databases!(
    sigterm_records_what_is_in_flight,
    second_signal_exits_at_once,
    other_signals_kill_nobody,
    killed_while_starting,
    one_process_for_one_database,
    frozen_and_thawed,
    works_through_a_backlog_after_a_kill,
);

/// I22: no request starts after it, those in flight are recorded, and it exits with 0.
async fn sigterm_records_what_is_in_flight(backend: Backend) {
    let mut posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client().clone();
    let receiver = Receiver::always(Reply::status(200).after(Duration::from_millis(300))).await;
    let mut subscriptions = Vec::new();
    for _ in 0..6 {
        subscriptions.push(client.subscribe(&receiver.url("/"), json!({})).await.id);
    }
    let load = tokio::spawn(ingest_until_refused(client, subscriptions));
    receiver.arrived(12).await;
    let signalled = Instant::now();
    let ended = posthorn.terminate().await;
    assert_eq!(ended.code(), Some(0), "{ended}");
    assert!(signalled.elapsed() < Duration::from_secs(5), "took {:?}", signalled.elapsed());
    let accepted = within(Duration::from_secs(30), "the load's end", load).await.unwrap();

    let received = receiver.requests();
    let late =
        received.iter().filter(|request| request.opened > signalled + Duration::from_millis(250)).count();
    assert_eq!(late, 0, "started after the signal");
    assert!(received.iter().all(|request| request.answered), "cut off: {received:?}");
    let recorded = posthorn.database.number("SELECT count(*) FROM delivery_attempts").await;
    assert_eq!(usize::try_from(recorded).unwrap(), received.len(), "each request is in the log");
    let stored = posthorn.database.number("SELECT count(*) FROM webhook_deliveries").await;
    assert!(
        usize::try_from(stored).unwrap() >= accepted.len(),
        "{stored} stored, {} accepted",
        accepted.len()
    );
    posthorn.database.check_none("none is left in flight", "webhook_deliveries WHERE status = 1").await;

    posthorn.start_again().await;
    receiver.answer(|_| Reply::status(200));
    for delivery in &accepted {
        posthorn.client().delivery_in(delivery, "success").await;
    }
    let repeats = receiver.requests().iter().filter(|request| request.attempt() > 1).count();
    let requests = i64::try_from(receiver.ended(accepted.len()).await.len()).unwrap();
    assert_eq!(
        (repeats, requests),
        (0, posthorn.database.number("SELECT count(*) FROM webhook_deliveries").await)
    );
}

/// None but SIGKILL ends it undrained: some drain it, all others are logged and change nothing.
async fn other_signals_kill_nobody(backend: Backend) {
    use Signal::{
        SIGALRM, SIGHUP, SIGIO, SIGPROF, SIGPWR, SIGQUIT, SIGSTKFLT, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU,
        SIGXFSZ,
    };
    let mut posthorn = Posthorn::start_with(backend, FAST).await;
    let receiver = Receiver::always(Reply::status(200)).await;
    for signal in [SIGHUP, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGSTKFLT, SIGXCPU, SIGXFSZ]
    {
        posthorn.signal(signal);
        eventually("the signal is logged", async || {
            let log = posthorn.log();
            let said = log.iter().any(|line| line.contains("ignored") && line.contains(signal.as_str()));
            if said { Ok(()) } else { Err(log.join("\n")) }
        })
        .await;
    }
    let id = posthorn.client().subscribe(&receiver.url("/"), json!({})).await.id;
    for signal in [SIGQUIT, SIGPWR] {
        receiver.answer(|_| Reply::status(200).after(Duration::from_millis(300)));
        let begun = receiver.requests().len();
        let delivery = posthorn.client().ingest(&id, json!(1)).await;
        receiver.arrived(begun + 1).await;
        posthorn.signal(signal);
        assert_eq!(posthorn.ended().await.code(), Some(0), "{signal}");
        assert!(posthorn.log().last().is_some_and(|line| line.ends_with("stopped")), "{:?}", posthorn.log());
        posthorn.start_again().await;
        assert_eq!(posthorn.client().delivery_in(&delivery, "success").await["attempt_count"], 1);
    }
}

/// A start that waits for its database ends when it is told to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_waits_is_ended_by_a_signal() {
    let database = Database::create(Backend::Sqlite).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = [("DATABASE_URL".to_owned(), format!("postgres://nobody@{free}/nothing"))];
    let mut process = Process::spawn(&database, &settings, &["serve"]);
    let waits =
        process.log.find(PATIENCE, |line| line.contains("waiting for the database").then(|| line.to_owned()));
    let waits = waits.await.expect("it says that it waits");
    assert!(waits.contains("DATABASE_URL"), "{waits}");
    process.signal(Signal::SIGTERM);
    assert_eq!(process.ended().await.code(), Some(0));
}

/// The ids of what was accepted until the server took nothing more.
async fn ingest_until_refused(client: Client, subscriptions: Vec<String>) -> Vec<String> {
    let mut accepted = Vec::new();
    for subscription in subscriptions.iter().cycle() {
        let call = client.call(reqwest::Method::POST, format!("/ingest/{subscription}")).json(&json!(1));
        match call.try_send().await {
            Some(answer) if answer.status == 202 => accepted.push(answer.text("delivery_id")),
            Some(answer) if answer.status == 503 => {}
            Some(answer) => panic!("{} {}", answer.status, answer.json),
            None => break,
        }
    }
    accepted
}

async fn second_signal_exits_at_once(backend: Backend) {
    let mut posthorn = Posthorn::start_with(backend, &[("WEBHOOK_DELIVERY_TIMEOUT_SECONDS", "60")]).await;
    let client = posthorn.client().clone();
    let gate = Gate::shut();
    let receiver = Receiver::always(Reply::status(200).behind(&gate)).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    let delivery = client.ingest(&id, json!(1)).await;
    receiver.arrived(1).await;
    posthorn.signal(Signal::SIGTERM);
    let address = posthorn.address();
    eventually("it stops listening", || async move {
        match TcpStream::connect(address).await {
            Err(_) => Ok(()),
            Ok(_) => Err("still listening".to_owned()),
        }
    })
    .await;
    let signalled = Instant::now();
    posthorn.signal(Signal::SIGTERM);
    posthorn.ended().await;
    assert!(signalled.elapsed() < Duration::from_secs(2), "took {:?}", signalled.elapsed());
    // Handed back uncounted.
    gate.open();
    posthorn.start_again().await;
    posthorn.client().delivery_in(&delivery, "success").await;
    let attempts: Vec<_> = receiver.ended(2).await.iter().map(Received::attempt).collect();
    assert_eq!(attempts, [1, 1]);
}

async fn killed_while_starting(backend: Backend) {
    let database = Arc::new(Database::create(backend).await);
    let mut random = seeded("killed_while_starting");
    for _ in 0..12 {
        let mut process = Process::spawn(&database, &[], &["serve"]);
        tokio::time::sleep(Duration::from_millis(random.random_range(1..250))).await;
        process.signal(Signal::SIGKILL);
        process.ended().await;
    }
    let posthorn = Posthorn::start_on(database, &[]).await;
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = posthorn.client().subscribe(&receiver.url("/"), json!({})).await.id;
    let delivery = posthorn.client().ingest(&id, json!(1)).await;
    posthorn.client().delivery_in(&delivery, "success").await;
}

async fn one_process_for_one_database(backend: Backend) {
    let mut posthorn = Posthorn::start(backend).await;
    // On PostgreSQL they work together.
    if backend == Backend::Sqlite {
        let refused = run(&posthorn.database, &["serve"], &[]).await;
        refused.refused("DATABASE_URL");
    }
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = posthorn.client().subscribe(&receiver.url("/"), json!({})).await.id;
    posthorn.client().ingest(&id, json!("the first is not disturbed")).await;
    receiver.ended(1).await;
    // A kill leaves nothing behind that would refuse the next.
    posthorn.kill().await;
    posthorn.start_again().await;
    posthorn.client().ingest(&id, json!(2)).await;
    receiver.ended(2).await;
}

async fn frozen_and_thawed(backend: Backend) {
    let posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client();
    let receiver = Receiver::always(Reply::status(200).after(Duration::from_millis(2))).await;
    let id = client.subscribe(&receiver.url("/"), json!({})).await.id;
    let mut deliveries = Vec::new();
    for index in 0..50 {
        deliveries.push(client.ingest(&id, json!(index)).await);
    }
    posthorn.signal(Signal::SIGSTOP);
    let frozen = client.call(reqwest::Method::POST, format!("/ingest/{id}")).json(&json!("late")).send();
    let thaw = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        posthorn.signal(Signal::SIGCONT);
    };
    let (late, ()) = tokio::join!(frozen, thaw);
    deliveries.push(late.expect(202).text("delivery_id"));
    client.delivery_in(deliveries.last().unwrap(), "success").await;
    let sequences: Vec<_> = receiver.requests().iter().map(Received::sequence).collect();
    assert_eq!(sequences, (1..=51).collect::<Vec<_>>(), "each once and in order");
}

/// More than a lane holds at once, loaded page by page.
async fn works_through_a_backlog_after_a_kill(backend: Backend) {
    let mut posthorn = Posthorn::start_with(backend, FAST).await;
    let client = posthorn.client().clone();
    let receiver = Receiver::always(Reply::status(200)).await;
    let strict = client.subscribe(&receiver.url("/strict"), json!({})).await.id;
    let fields = json!({"ordering": "none", "max_in_flight": 20});
    let free = client.subscribe(&receiver.url("/free"), fields).await.id;
    for id in [&strict, &free] {
        client.post(format!("/subscriptions/{id}/pause")).await.expect(200);
        futures_util::future::join_all((0..700).map(|index| client.ingest(id, json!(index)))).await;
    }
    posthorn.kill().await;
    posthorn.start_again().await;
    for id in [&strict, &free] {
        posthorn.client().post(format!("/subscriptions/{id}/resume")).await.expect(200);
    }
    receiver.ended(1400).await;
    let sequences: Vec<_> = receiver.requests_at("/strict").iter().map(Received::sequence).collect();
    assert_eq!(sequences, (1..=700).collect::<Vec<_>>());
    let mut sequences: Vec<_> = receiver.requests_at("/free").iter().map(Received::sequence).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=700).collect::<Vec<_>>());
}

/// A request head that isn't complete after 10 s ends its connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_heads_are_cut_off() {
    let posthorn = Posthorn::start(Backend::Sqlite).await;
    let mut silent = TcpStream::connect(posthorn.address()).await.unwrap();
    let mut slow = TcpStream::connect(posthorn.address()).await.unwrap();
    let opened = Instant::now();
    slow.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-slow: ").await.unwrap();
    for stream in [&mut silent, &mut slow] {
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest);
        let _ = within(Duration::from_secs(20), "the connection's end", end).await;
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{:?}", String::from_utf8_lossy(&rest));
    }
    let took = opened.elapsed();
    assert!(took > Duration::from_secs(9) && took < Duration::from_secs(14), "after {took:?}");
}
