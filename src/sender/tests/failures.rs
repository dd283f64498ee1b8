//! Every way an attempt can fail, with its kind, in time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::endpoint::{Endpoint, closed, read_request};
use super::*;
use crate::sender::Failure;

fn check(reply: &Reply, failure: Failure) {
    assert_eq!((reply.status_code, reply.error.clone()), (None, Some(failure)), "{reply:?}");
    assert_eq!((&reply.body, reply.retry_after), (&None, None));
    assert!(!reply.is_success() && !reply.is_gone());
}

#[tokio::test]
async fn answers_that_are_none() {
    for (bytes, failure) in [
        (&b""[..], Failure::ConnectionClosed),
        (b"HTTP/1.1 200 OK\r\ncontent-le", Failure::ConnectionClosed),
        (b"SSH-2.0-OpenSSH_9.9\r\n", Failure::InvalidResponse),
        (b"HTTP/1.1 abc OK\r\n\r\n", Failure::InvalidResponse),
        (b"HTTP/1.1 200 \x1b[31mred\r\n\r\n", Failure::InvalidResponse),
        (b"HTTP/1.1 20 OK\r\n\r\n", Failure::InvalidResponse),
        (b"HTTP/3.0 200 OK\r\n\r\n", Failure::InvalidResponse),
        (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", Failure::InvalidResponse),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", Failure::InvalidResponse),
        (b"\x15\x03\x03\0\x02\x02\x16", Failure::InvalidResponse),
        (b"200 OK without a status line", Failure::InvalidResponse),
    ] {
        let endpoint = Endpoint::new(move |mut stream| async move {
            read_request(&mut stream).await;
            stream.write_all(bytes).await.unwrap();
        })
        .await;
        check(&Case::to(&endpoint.url()).send(&sender()).await, failure);
    }
}

#[tokio::test]
async fn connections_refused_and_reset() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    check(&Case::to(&format!("http://{free}/")).send(&sender()).await, Failure::ConnectionRefused);
    // Closing with bytes unread, and with no time to linger, resets.
    let resetting = Endpoint::new(|stream: TcpStream| async move {
        stream.readable().await.unwrap();
        stream.set_zero_linger().unwrap();
    })
    .await;
    check(&Case::to(&resetting.url()).send(&sender()).await, Failure::ConnectionReset);
}

#[tokio::test]
async fn names_that_lead_nowhere() {
    let case = Case::to("http://unknown.example/secret?token=1");
    check(&case.send(&sender()).await, Failure::Dns);
}

#[tokio::test]
async fn silence_ends_with_the_time_out() {
    const TIMEOUT: Duration = Duration::from_millis(400);
    for (case, start, drip) in [
        ("silent", &b""[..], &b""[..]),
        ("half a head", b"HTTP/1.1 200 OK\r\nx", b""),
        ("a byte now and then", b"HTTP/1.1 200 OK\r\nx: ", b"y"),
        ("interim answers without end", b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
    ] {
        let (report, mut reports) = mpsc::channel(1);
        let endpoint = Endpoint::new(move |mut stream| {
            let report = report.clone();
            async move {
                read_request(&mut stream).await;
                stream.write_all(start).await.unwrap();
                let mut pace = tokio::time::interval(Duration::from_millis(20));
                while !drip.is_empty() && stream.write_all(drip).await.is_ok() {
                    pace.tick().await;
                }
                report.send(closed(&mut stream).await).await.unwrap();
            }
        })
        .await;
        let begun = Instant::now();
        let reply = Case::to(&endpoint.url()).within(TIMEOUT).send(&sender()).await;
        check(&reply, Failure::Timeout);
        assert!(begun.elapsed() >= TIMEOUT && begun.elapsed() < 3 * TIMEOUT, "{case}: {:?}", begun.elapsed());
        assert!(reply.duration >= TIMEOUT, "{case}");
        let report = tokio::time::timeout(AMPLE, reports.recv()).await;
        assert_eq!(report, Ok(Some(true)), "{case}: the connection is closed");
    }
}

/// Takes connections but reads nothing: a large payload does not even leave.
#[tokio::test]
async fn unread_requests_end_with_the_time_out() {
    let endpoint = Endpoint::new(|stream| async move {
        let _held = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let payload = Bytes::from(vec![b' '; 16 * 1024 * 1024]);
    let case = Case { payload, ..Case::to(&endpoint.url()) };
    check(&case.within(Duration::from_millis(300)).send(&sender()).await, Failure::Timeout);
}

#[tokio::test]
async fn slow_names_end_with_the_time_out() {
    let settings = settings(&[]);
    let slow = Resolver::new(settings.guard.clone(), Silent, None);
    let sender = Sender::build(settings, slow, Vec::new()).unwrap();
    let case = Case::to("http://slow.example/").within(Duration::from_millis(200));
    check(&case.send(&sender).await, Failure::NameNotInTime);
    // Or with their own, where that is over first.
    let reply = Case::to("http://slow.example/").send(&sender).await;
    check(&reply, Failure::NameNotInTime);
    assert!(reply.duration < AMPLE / 2, "{:?}", reply.duration);
}

#[tokio::test]
async fn forbidden_addresses_are_never_connected() {
    let endpoint = Endpoint::on("[::]:0", |_| async {}).await;
    let strict = sender_with(&[]);
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "１２７.０.０.１",
        "127.0.0.1.",
        "0.0.0.0",
        "0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:0:7f00:1]",
        "localhost",
        "localhost.",
        "api.localhost",
        "allowed.example",
        "forbidden.example",
        "mixed.example",
    ] {
        let reply = Case::to(&endpoint.url_at(host)).send(&strict).await;
        check(&reply, Failure::ForbiddenAddress);
    }
    // An allowed network opens itself alone.
    for host in ["127.0.0.2", "[::1]", "[::ffff:127.0.0.1]", "forbidden.example"] {
        check(&Case::to(&endpoint.url_at(host)).send(&sender()).await, Failure::ForbiddenAddress);
    }
}

#[tokio::test]
async fn of_mixed_addresses_only_the_allowed_are_dialled() {
    // The forbidden one would be dialled first.
    let forbidden = Endpoint::on("127.0.0.2:0", |_| async {}).await;
    let port = forbidden.address.port();
    let Ok(_listener) = TcpListener::bind(("127.0.0.1", port)).await else { return };
    let case = Case::to(&forbidden.url_at("mixed.example")).within(Duration::from_millis(300));
    check(&case.send(&sender()).await, Failure::Timeout);
    assert_eq!(forbidden.connections().await, 0);
}

/// How often the name below was asked for.
static ASKED: AtomicUsize = AtomicUsize::new(0);

/// Means an allowed address when it is asked the first time, and a forbidden one from then on (DNS rebinding).
#[expect(clippy::unnecessary_wraps, reason = "as every resolver")]
fn rebound(_: &str) -> io::Result<Vec<SocketAddr>> {
    let last = if ASKED.fetch_add(1, Ordering::SeqCst) == 0 { 1 } else { 2 };
    Ok(vec![([127, 0, 0, last], 0).into()])
}

/// What was judged is what is dialled, for as long as it is known; what the name means then is judged anew.
#[tokio::test]
async fn names_that_change_their_meaning_gain_nothing() {
    let allowed = Endpoint::new(|mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    })
    .await;
    let port = allowed.address.port();
    let Ok(forbidden) = TcpListener::bind(("127.0.0.2", port)).await else { return };
    let settings = settings(&["127.0.0.1/32"]);
    let sender = || {
        let resolver = Resolver::new(settings.guard.clone(), Listed(rebound), None);
        Sender::build(settings.clone(), resolver, Vec::new()).unwrap()
    };
    let case = Case::to(&allowed.url_at("rebound.example"));
    let knowing = sender();
    for _ in 0..3 {
        let reply = case.send(&knowing).await;
        assert_eq!((reply.status_code, reply.error.clone()), (Some(200), None));
    }
    assert_eq!(ASKED.load(Ordering::SeqCst), 1, "asked once, judged and dialled");
    check(&case.send(&sender()).await, Failure::ForbiddenAddress);
    assert_eq!(ASKED.load(Ordering::SeqCst), 2);
    assert_eq!(allowed.connections().await, 3);
    let nobody = tokio::time::timeout(Duration::from_millis(1), forbidden.accept()).await;
    assert!(nobody.is_err(), "nothing is dialled that was not judged");
}

/// The attempt log is read by tenants and goes to log files.
#[test]
fn texts_tell_the_kind_alone() {
    for failure in [
        Failure::Timeout,
        Failure::ConnectionRefused,
        Failure::ConnectionReset,
        Failure::ConnectionClosed,
        Failure::Unreachable,
        Failure::Dns,
        Failure::NameNotInTime,
        Failure::CertificateExpired,
        Failure::CertificateNotYetValid,
        Failure::CertificateOfAnotherName,
        Failure::CertificateOfUnknownIssuer,
        Failure::CertificateOfAuthority,
        Failure::InvalidCertificate,
        Failure::ClientCertificateWanted,
        Failure::ClientCertificateRefused,
        Failure::Tls,
        Failure::ForbiddenAddress,
        Failure::InvalidResponse,
        Failure::InvalidRequest,
        Failure::Other,
    ] {
        let text = failure.to_string();
        assert!(text.chars().all(|c| c.is_ascii_lowercase() || c == ' ' || c == ':'), "{text}");
    }
}
