//! What the receiver gets.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::header::{HeaderMap, HeaderName};
use standardwebhooks::Webhook;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Barrier;

use super::endpoint::{Arrived, Endpoint, read_request};
use super::*;
use crate::sender::client::{IDLE_PER_HOST_MAX, IDLE_TIME};
use crate::sender::resolver::tests::Swallowing;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

async fn deliver(case: Case) -> Arrived {
    let mut endpoint = Endpoint::answering(OK).await;
    let target = TargetUrl::parse(&format!("{}?a=b%20c&d", endpoint.url())).unwrap();
    let case = Case { target, ..case };
    let reply = case.send(&sender()).await;
    assert_eq!((reply.status_code, reply.error.clone()), (Some(200), None));
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

/// Answers 200 to the first request on each connection, and does `then` with it when the second is there.
async fn one_answer_each<F: Future<Output = ()> + Send + 'static>(
    then: impl Fn(TcpStream) -> F + Clone + Send + Sync + 'static,
) -> (Endpoint, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let endpoint = Endpoint::new(move |mut stream| {
        let (counted, then) = (Arc::clone(&counted), then.clone());
        async move {
            read_request(&mut stream).await;
            counted.fetch_add(1, Ordering::SeqCst);
            stream.write_all(OK.as_bytes()).await.unwrap();
            read_request(&mut stream).await;
            then(stream).await;
        }
    })
    .await;
    (endpoint, requests)
}

/// A server may close a kept connection just as the next request goes out on it, with or without a word.
#[tokio::test]
async fn a_kept_connection_that_ends_is_not_the_endpoints_answer() {
    type Ended = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;
    type End = fn(TcpStream) -> Ended;
    let ends: [(&str, End); 3] = [
        ("closed", |stream| Box::pin(async move { drop(stream) })),
        ("reset", |stream| Box::pin(async move { stream.set_zero_linger().unwrap() })),
        ("408", |mut stream| {
            Box::pin(async move {
                let answer = "HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(answer.as_bytes()).await.unwrap();
            })
        }),
    ];
    for (end, then) in ends {
        let (endpoint, answered) = one_answer_each(then).await;
        let (sender, case) = (sender(), Case::to(&endpoint.url()));
        for sent in 1..=6 {
            let reply = case.send(&sender).await;
            assert_eq!((reply.status_code, reply.error.clone()), (Some(200), None), "{end}, request {sent}");
        }
        assert_eq!(answered.load(Ordering::SeqCst), 6, "{end}: each was answered once");
    }
}

/// On a new connection the same is the endpoint's word, and it is asked once.
#[tokio::test]
async fn what_ends_on_a_new_connection_is_an_answer() {
    let late = "HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    for (answer, status_code) in [("", None), (late, Some(408))] {
        let endpoint = Endpoint::new(move |mut stream| async move {
            read_request(&mut stream).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        let reply = Case::to(&endpoint.url()).send(&sender()).await;
        assert_eq!(reply.status_code, status_code, "{reply:?}");
        assert!(!reply.is_success());
        assert_eq!(endpoint.connections().await, 1);
    }
}

/// What servers of the field put into the heads of their answers; RFC 9112 §5.2 asks for the first.
#[tokio::test]
async fn the_status_line_decides() {
    let many = "x: y\r\n".repeat(200);
    for head in ["x: a\r\n b\r\n", "no header\r\n", "x : y\r\n", "x\u{7f}y: z\r\n", "x: \u{1}\r\n", &many] {
        let answer = format!("HTTP/1.1 200 OK\r\n{head}content-length: 0\r\n\r\n");
        let endpoint = Endpoint::new(move |mut stream| {
            let answer = answer.clone();
            async move {
                read_request(&mut stream).await;
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        })
        .await;
        let reply = Case::to(&endpoint.url()).send(&sender()).await;
        assert_eq!((reply.status_code, reply.error.clone()), (Some(200), None), "{head:?}");
    }
}

#[tokio::test]
async fn an_address_that_swallows_connections_costs_little() {
    let endpoint = Endpoint::answering(OK).await;
    let _silent = Swallowing::on(([127, 0, 0, 2], endpoint.address.port()).into()).await;
    let settings = settings(&["127.0.0.0/8"]);
    let names = |_: &str| Ok(vec![([127, 0, 0, 2], 0).into(), ([127, 0, 0, 1], 0).into()]);
    let resolver = Resolver::new(settings.guard.clone(), Listed(names), None);
    let sender = Sender::build(settings, resolver, Vec::new()).unwrap();
    let case = Case::to(&endpoint.url_at("several.example"));
    for _ in 0..3 {
        let reply = case.send(&sender).await;
        assert!(reply.is_success() && reply.duration < AMPLE / 4, "{reply:?}");
    }
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
