//! What the receiver gets.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::header::{HeaderMap, HeaderName};
use standardwebhooks::Webhook;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Barrier;

use super::endpoint::{Arrived, Endpoint, read_request};
use super::*;
use crate::sender::client::{IDLE_PER_HOST_MAX, IDLE_TIME};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

async fn deliver(case: Case) -> Arrived {
    let mut endpoint = Endpoint::answering(OK).await;
    let target = TargetUrl::parse(&format!("{}?a=b%20c&d", endpoint.url())).unwrap();
    let case = Case { target, ..case };
    let reply = case.send(&sender()).await;
    assert_eq!((reply.status_code, reply.error), (Some(200), None));
    assert!(reply.is_success());
    endpoint.arrived().await
}

fn case() -> Case {
    Case::to("http://127.0.0.1/")
}

#[tokio::test]
async fn receivers_get_what_the_contract_says() {
    let headers = [("Authorization", "Bearer x"), ("X-Team", "a b"), ("accept", "text/plain")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let secret_key = SecretKey::parse("secret").unwrap();
    // Not JSON: what comes in is judged elsewhere, here bytes are bytes.
    let payload = Bytes::from_static(b" {\"a\": 1.0, \"a\": 1e400}\r\n\0\xff");
    let arrived = deliver(Case {
        headers: StaticHeaders::parse(headers).unwrap(),
        secret_key: Some(secret_key.clone()),
        content_type: "application/cloudevents+json; charset=\"utf-8\"",
        payload: payload.clone(),
        at: Timestamp::from_millis(1_795_598_714_999),
        ..case()
    })
    .await;
    assert!(arrived.head.starts_with("POST /hook?a=b%20c&d HTTP/1.1\r\n"), "{}", arrived.head);
    assert_eq!(arrived.body, payload);
    for (name, value) in [
        ("webhook-id", "00000199-0000-7000-8000-000000000001"),
        ("webhook-timestamp", "1795598714"),
        ("x-webhook-signature-256", &secret_key.sign(&payload)),
        ("posthorn-sequence", "42"),
        ("posthorn-attempt", "3"),
        ("user-agent", "Posthorn/0.0.0"),
        ("content-type", "application/cloudevents+json; charset=\"utf-8\""),
        ("content-length", "27"),
        ("authorization", "Bearer x"),
        ("x-team", "a b"),
        ("accept", "text/plain"),
    ] {
        assert_eq!(arrived.header(name), Some(value), "{name}");
    }
}

#[tokio::test]
async fn what_is_not_set_is_not_sent() {
    let arrived = deliver(case()).await;
    for name in ["x-webhook-signature-256", "posthorn-replay-of", "accept-encoding", "cookie", "referer"] {
        assert_eq!(arrived.header(name), None, "{name}");
    }
}

#[tokio::test]
async fn replays_name_their_original() {
    let original = DeliveryId(Uuid::from_u128(7));
    let arrived = deliver(Case { replay_of: Some(original), ..case() }).await;
    assert_eq!(arrived.header("posthorn-replay-of"), Some("00000000-0000-0000-0000-000000000007"));
}

#[tokio::test]
async fn an_independent_verifier_agrees() {
    let at: Timestamp = now();
    let (old, new) = (SigningSecret::from_random([2; 32]), SigningSecret::from_random([3; 32]));
    let until = |seconds: i64| Timestamp::from_millis(at.as_millis() + seconds * 1000);
    for (case_name, previous, old_signs) in [
        ("no rotation", None, false),
        ("during the overlap", Some((old.clone(), until(1))), true),
        ("at its end", Some((old.clone(), until(0))), false),
        ("after it", Some((old.clone(), until(-1))), false),
    ] {
        let signing = SigningSecrets { current: new.clone(), replaced: Replaced::new(previous) };
        let payload = Bytes::from_static("{\"ä\": 1}".as_bytes());
        let arrived = deliver(Case { signing, payload, at, ..case() }).await;
        assert!(verifies(&new, &arrived), "{case_name}");
        assert_eq!(verifies(&old, &arrived), old_signs, "{case_name}");
        let signatures = arrived.header("webhook-signature").unwrap().split(' ').count();
        assert_eq!(signatures, if old_signs { 2 } else { 1 }, "{case_name}");
    }
}

fn verifies(secret: &SigningSecret, arrived: &Arrived) -> bool {
    let mut headers = HeaderMap::new();
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        headers.insert(HeaderName::from_static(name), arrived.header(name).unwrap().parse().unwrap());
    }
    Webhook::new(&secret.expose()).unwrap().verify(&arrived.body, &headers).is_ok()
}

#[tokio::test]
async fn connections_are_used_again_but_not_for_long() {
    let endpoint = Endpoint::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let (sender, case) = (sender(), Case::to(&endpoint.url()));
    for _ in 0..5 {
        assert!(case.send(&sender).await.is_success());
    }
    assert_eq!(endpoint.connections().await, 1);
    // The wait is what is tested: most servers close theirs after 2 s or more.
    tokio::time::sleep(Duration::from_millis(1900)).await;
    assert!(case.send(&sender).await.is_success());
    assert_eq!(endpoint.connections().await, 3, "the asker's own is the second");
}

/// However many an endpoint took at once: what is kept for the next delivery is bounded.
#[tokio::test]
async fn kept_connections_are_few() {
    const AT_ONCE: usize = 300;
    let (all_here, open) = (Arc::new(Barrier::new(AT_ONCE)), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&open);
    let endpoint = Endpoint::new(move |mut stream| {
        let (all_here, open) = (Arc::clone(&all_here), Arc::clone(&counted));
        async move {
            open.fetch_add(1, Ordering::SeqCst);
            while read_request(&mut stream).await.is_some() {
                all_here.wait().await;
                let _ = stream.write_all(OK.as_bytes()).await;
            }
            open.fetch_sub(1, Ordering::SeqCst);
        }
    })
    .await;
    let (sender, case) = (sender(), Case::to(&endpoint.url()));
    let replies = join_all((0..AT_ONCE).map(|_| case.send(&sender))).await;
    assert!(replies.iter().all(Reply::is_success));
    let begun = std::time::Instant::now();
    while open.load(Ordering::SeqCst) > IDLE_PER_HOST_MAX {
        assert!(begun.elapsed() < IDLE_TIME / 2, "{open:?} are kept");
        tokio::task::yield_now().await;
    }
}

/// The client reads the environment when it is built, so a process of its own is needed.
#[tokio::test]
async fn proxies_of_the_environment_are_ignored() {
    let proxy = Endpoint::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "sender::tests::requests::receivers_get_what_the_contract_says"]);
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env(name, proxy.url());
    }
    let output = command.env_remove("no_proxy").env_remove("NO_PROXY").output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    assert_eq!(proxy.connections().await, 0);
}
