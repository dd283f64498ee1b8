//! The receiver itself: what it records and how it misbehaves, seen by an ordinary client.

use crate::support::reply::Ending;
use crate::support::{Backend, Database, Gate, Receiver, Reply};

async fn post(url: String) -> reqwest::Result<(u16, Vec<u8>)> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let response = client.post(url).header("x-a", "1").body("body").send().await?;
    let status = response.status().as_u16();
    Ok((status, response.bytes().await?.to_vec()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receiver_records_and_answers() {
    let receiver = Receiver::script([Reply::body(418, b"short and stout")]).await;
    assert_eq!(post(receiver.url("/a?b")).await.unwrap(), (418, b"short and stout".to_vec()));
    assert_eq!(post(receiver.url("/")).await.unwrap(), (200, Vec::new()));
    let received = receiver.ended(2).await;
    assert_eq!((received[0].method.as_str(), received[0].path.as_str()), ("POST", "/a?b"));
    assert_eq!((received[0].header("x-a"), received[0].body.as_slice()), ("1", &b"body"[..]));
    assert!(received[0].closed.unwrap() <= received[1].opened);
    assert_eq!(receiver.connections(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receiver_misbehaves() {
    for reply in [
        Reply::reset(),
        Reply::raw(b"", Ending::Close),
        Reply::raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx", Ending::Reset),
    ] {
        let receiver = Receiver::always(reply).await;
        post(receiver.url("/")).await.unwrap_err();
        assert!(receiver.ended(1).await[0].closed.is_some());
    }
}

/// A request stays open until its answer, or until the client leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receiver_knows_what_is_open() {
    let gate = Gate::shut();
    let held = gate.clone();
    let receiver = Receiver::start(move |request| match request.path.as_str() {
        "/stall" => Reply::stall(),
        _ => Reply::status(200).behind(&held),
    })
    .await;
    let waiting = tokio::spawn(post(receiver.url("/held")));
    receiver.arrived(1).await;
    for path in ["/stall", "/also-held"] {
        let leaving = tokio::spawn(post(receiver.url(path)));
        receiver.until(path, |log| log.iter().any(|request| request.path == path)).await;
        assert!(receiver.requests().iter().all(|request| request.path != path || request.closed.is_none()));
        leaving.abort();
        let gone = |log: &[crate::support::Received]| {
            log.iter().any(|request| request.path == path && request.closed.is_some() && !request.answered)
        };
        receiver.until(path, gone).await;
    }
    assert!(receiver.requests_at("/held")[0].closed.is_none());
    gate.pass(1);
    assert_eq!(waiting.await.unwrap().unwrap().0, 200);
    assert!(receiver.requests_at("/held")[0].answered);
}

/// While it is away the port stays its own, and connections are refused, those kept alive as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receiver_goes_away_and_comes_back() {
    let mut receiver = Receiver::always(Reply::status(200)).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for round in 0..3 {
        let kept = client.post(receiver.url("/")).body("body").send().await.unwrap();
        assert_eq!(kept.status(), 200);
        receiver.go_away().await;
        client.post(receiver.url("/")).send().await.unwrap_err();
        assert!(post(receiver.url("/")).await.unwrap_err().is_connect());
        receiver.come_back().await;
        assert_eq!(receiver.requests().len(), round + 1, "what came before is not forgotten");
    }
    assert_eq!(post(receiver.url("/")).await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_are_fresh_and_go_with_their_owner() {
    for backend in [Backend::Sqlite, Backend::Postgres] {
        let database = Database::create(backend).await;
        let directory = database.directory().to_owned();
        if backend == Backend::Postgres {
            assert_eq!(database.number("SELECT CAST(count(*) AS BIGINT) FROM pg_stat_user_tables").await, 0);
        }
        drop(database);
        assert!(!directory.exists());
    }
}
