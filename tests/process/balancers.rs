//! The API behind balancers and proxies: connections that are kept, other forms of a request, headers of theirs.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::wait::within;
use crate::support::{Backend, Posthorn, Receiver, Reply, on_both_databases};

on_both_databases!(other_forms_of_a_request_mean_the_same, the_last_answer_says_that_it_is);

/// A test that takes this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection on which requests are written as they are.
struct Line(TcpStream);

impl Line {
    async fn to(posthorn: &Posthorn) -> Self {
        Self(TcpStream::connect(posthorn.address()).await.expect("it takes connections"))
    }

    /// Writes a request without a body and reads the head of its answer, and a body as long as that says unless the
    /// request asks for a head alone.
    async fn ask(&mut self, request: &str) -> (String, Vec<u8>) {
        self.0.write_all(format!("{request}\r\n\r\n").as_bytes()).await.expect("the request goes out");
        self.answer(request.starts_with("HEAD")).await
    }

    async fn answer(&mut self, is_head: bool) -> (String, Vec<u8>) {
        let read = async {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(self.0.read_u8().await.expect("a whole head"));
            }
            let head = String::from_utf8(head).expect("text").to_lowercase();
            let length = header(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            let mut body = vec![0; if is_head { 0 } else { length }];
            self.0.read_exact(&mut body).await.expect("a whole body");
            (head, body)
        };
        within(PATIENCE, "an answer", read).await
    }

    /// When the server closes it; nothing more may come.
    async fn end(mut self) -> Instant {
        let mut more = Vec::new();
        within(PATIENCE, "the connection's end", self.0.read_to_end(&mut more))
            .await
            .expect("closed in good order");
        assert!(more.is_empty(), "{}", String::from_utf8_lossy(&more));
        Instant::now()
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

async fn other_forms_of_a_request_mean_the_same(backend: Backend) {
    let posthorn = Posthorn::start(backend).await;
    let receiver = Receiver::always(Reply::status(200)).await;
    let id = posthorn.client().subscribe(&receiver.url("/"), json!({})).await.id;
    let host = posthorn.address();
    let mut line = Line::to(&posthorn).await;
    for path in ["/health".to_owned(), "/openapi.json".to_owned(), format!("/subscriptions/{id}")] {
        let (head, body) = line.ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}")).await;
        assert!(head.starts_with("http/1.1 200 ") && !body.is_empty(), "{head}");
        // As forward proxies write it (RFC 9112 §3.2.2).
        let absolute = format!("GET http://{host}{path} HTTP/1.1\r\nHost: {host}\r\nVia: 1.1 proxy");
        assert_eq!(line.ask(&absolute).await.1, body, "{path}");
        let (of_head, nothing) = line.ask(&format!("HEAD {path} HTTP/1.1\r\nHost: {host}")).await;
        assert!(of_head.starts_with("http/1.1 200 ") && nothing.is_empty(), "{of_head}");
        assert_eq!(header(&of_head, "content-type"), header(&head, "content-type"), "{path}");
        // What proxies say of whom they speak for changes nothing where none is expected.
        let forwarded = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-For: 203.0.113.7, 10.0.0.1\r\n\
             X-Forwarded-Proto: https\r\nX-Forwarded-Host: example.com\r\nForwarded: for=203.0.113.7;proto=https\r\n\
             X-Real-IP: 203.0.113.7\r\nX-Request-Id: 7\r\nConnection: keep-alive"
        );
        assert_eq!(line.ask(&forwarded).await.1, body, "{path}");
    }
    let event = format!(
        "POST http://{host}/ingest/{id} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 0"
    );
    assert!(line.ask(&event).await.0.starts_with("http/1.1 400 "), "no bytes are no JSON");
    // Of HTTP/1.0, as simple health checks speak it: closed after the answer.
    let (head, _) = line.ask(&format!("GET /health HTTP/1.0\r\nHost: {host}")).await;
    assert!(head.contains(" 200 "), "{head}");
    line.end().await;
}

async fn the_last_answer_says_that_it_is(backend: Backend) {
    let mut posthorn = Posthorn::start(backend).await;
    let host = posthorn.address();
    let mut asking = Line::to(&posthorn).await;
    let closing = format!("GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close");
    assert_eq!(header(&asking.ask(&closing).await.0, "connection"), Some("close"));
    asking.end().await;

    // Requests whose head or body is on its way when the server is told to stop.
    let id = posthorn.client().subscribe("http://127.0.0.1:9/", json!({})).await.id;
    let mut begun = Line::to(&posthorn).await;
    begun.0.write_all(b"GET /health HTTP/1.1\r\n").await.expect("the first line goes out");
    let mut late = Line::to(&posthorn).await;
    let head = format!(
        "POST /ingest/{id} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n4"
    );
    late.0.write_all(head.as_bytes()).await.expect("the first half goes out");
    let mut idle = Line::to(&posthorn).await;
    idle.ask(&format!("GET /health HTTP/1.1\r\nHost: {host}")).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    posthorn.signal(Signal::SIGTERM);
    idle.end().await;
    begun.0.write_all(format!("Host: {host}\r\n\r\n").as_bytes()).await.expect("the rest goes out");
    let (head, _) = begun.answer(false).await;
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    assert_eq!(header(&head, "connection"), Some("close"), "{head}");
    begun.end().await;
    late.0.write_all(b"2").await.expect("the rest goes out");
    let (head, _) = late.answer(false).await;
    assert!(head.starts_with("http/1.1 202 "), "{head}");
    assert_eq!(header(&head, "connection"), Some("close"), "{head}");
    late.end().await;
    assert!(posthorn.ended().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_stay_as_long_as_is_set() {
    let posthorn = Posthorn::start_with(Backend::Sqlite, &[("POSTHORN_IDLE_TIMEOUT_SECONDS", "2")]).await;
    let host = posthorn.address();
    let mut line = Line::to(&posthorn).await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(1200)).await;
        line.ask(&format!("GET /health HTTP/1.1\r\nHost: {host}")).await;
    }
    let answered = Instant::now();
    let idle = line.end().await - answered;
    assert!((Duration::from_millis(1900)..Duration::from_secs(12)).contains(&idle), "{idle:?}");
}
