//! What an answer's head and body are made of.

use posthorn_domain::limits::RESPONSE_BODY_KEPT_BYTES;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use super::endpoint::{Endpoint, closed, read_request};
use super::*;
use crate::sender::Failure;

async fn answer(bytes: impl Into<Vec<u8>>) -> Reply {
    let endpoint = Endpoint::answering(bytes).await;
    Case::to(&endpoint.url()).send(&sender()).await
}

#[tokio::test]
async fn only_2xx_is_success() {
    for (line, status, success) in [
        ("200 OK", 200, true),
        ("201 Created", 201, true),
        ("204 No Content", 204, true),
        ("299 ", 299, true),
        ("300 Multiple Choices", 300, false),
        ("304 Not Modified", 304, false),
        ("400 Bad Request", 400, false),
        ("401 Unauthorized\r\nwww-authenticate: Basic", 401, false),
        ("407 Proxy Authentication Required", 407, false),
        ("408 Request Timeout", 408, false),
        ("410 Gone", 410, false),
        ("421 Misdirected Request", 421, false),
        ("425 Too Early", 425, false),
        ("500 \u{fffd} not as usual", 500, false),
        ("999 Beyond", 999, false),
    ] {
        let reply = answer(format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\n\r\n")).await;
        let error = (!success).then_some(Failure::UnexpectedStatus(status));
        assert_eq!((reply.status_code, reply.error.clone()), (Some(status), error), "{line}");
        assert_eq!((reply.is_success(), reply.is_gone()), (success, status == 410), "{line}");
        assert_eq!(reply.body, Some(Vec::new()));
    }
    assert_eq!(Failure::UnexpectedStatus(302).to_string(), "unexpected status 302");
}

#[tokio::test]
async fn interim_answers_are_passed_over() {
    let reply = answer(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n\
         HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\nok",
    )
    .await;
    assert_eq!((reply.status_code, reply.body.as_deref()), (Some(202), Some(&b"ok"[..])));
    let reply = answer("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n").await;
    assert_eq!((reply.status_code, reply.error.clone()), (Some(101), Some(Failure::UnexpectedStatus(101))));
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = Endpoint::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    for status in [301, 302, 303, 307, 308] {
        let url = elsewhere.url();
        let reply = answer(format!(
            "HTTP/1.1 {status} Elsewhere\r\nlocation: {url}\r\nrefresh: 0; {url}\r\ncontent-length: 0\r\n\r\n"
        ))
        .await;
        let error = format!(
            "unexpected status {status}: a redirect to {}, which is not followed",
            elsewhere.url().trim_end_matches("/hook")
        );
        assert_eq!(reply.error.unwrap().to_string(), error);
    }
    assert_eq!(elsewhere.connections().await, 0);
    for (location, origin) in [
        ("https://user:pass@example.com:8443/path?token=7", Some("https://example.com:8443")),
        ("//bücher.example/x", Some("http://xn--bcher-kva.example")),
        ("mailto:someone@example.com", None),
        ("http://[", None),
    ] {
        let reply =
            answer(format!("HTTP/1.1 302 X\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n")).await;
        let error = match origin {
            Some(origin) => Failure::Redirect { status: 302, origin: origin.to_owned() },
            None => Failure::UnexpectedStatus(302),
        };
        assert_eq!(reply.error, Some(error), "{location}");
    }
}

#[tokio::test]
async fn retry_after_counts_on_429_and_503_alone() {
    let seconds = |n| Some(Duration::from_secs(n));
    for (status, headers, expected) in [
        (429, "retry-after: 7", seconds(7)),
        (503, "Retry-After: 99999999999", seconds(86_400)),
        (429, "retry-after: 1.5", seconds(2)),
        (429, "retry-after: soon", None),
        // By a clock that is ten minutes and more off, which the answer itself tells.
        (
            503,
            "date: Sun, 06 Nov 1994 08:49:30 GMT\r\nretry-after: Sun, 06 Nov 1994 08:49:37 GMT",
            seconds(7),
        ),
        (429, "retry-after: 1\r\nretry-after: 2", None),
        (429, "x: y", None),
        (500, "retry-after: 7", None),
        (301, "retry-after: 7", None),
        (200, "retry-after: 7", None),
    ] {
        let reply = answer(format!("HTTP/1.1 {status} X\r\n{headers}\r\ncontent-length: 0\r\n\r\n")).await;
        assert_eq!(reply.retry_after, expected, "{status} {headers}");
    }
    let at = Timestamp::from_millis(784_111_777_000 - 60_000);
    let date = "HTTP/1.1 503 X\r\nretry-after: Sun, 06 Nov 1994 08:49:37 GMT\r\ncontent-length: 0\r\n\r\n";
    let endpoint = Endpoint::answering(date).await;
    let reply = Case { at, ..Case::to(&endpoint.url()) }.send(&sender()).await;
    let wait = reply.retry_after.unwrap();
    assert_eq!(wait + Duration::from_millis(reply.duration.as_millis().try_into().unwrap()), AMPLE * 3);
}

#[tokio::test]
async fn bodies_are_kept_as_they_came() {
    let mut gzip = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 12\r\n\r\n".to_vec();
    let body = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xff\x1b";
    gzip.extend(body);
    assert_eq!(answer(gzip).await.body.as_deref(), Some(&body[..]));
    let chunked = "HTTP/1.1 500 X\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    assert_eq!(answer(chunked).await.body.as_deref(), Some(&b"abcde"[..]));
    // What follows a 204 is no body.
    let reply = answer("HTTP/1.1 204 No Content\r\n\r\nnot a body").await;
    assert_eq!((reply.is_success(), reply.body), (true, Some(Vec::new())));
}

#[tokio::test]
async fn bodies_are_kept_up_to_4_kib() {
    for length in [4095, 4096, 4097, 1_000_000] {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        let reply = answer([head.as_bytes(), &vec![b'x'; length]].concat()).await;
        let body = reply.body.unwrap();
        assert_eq!(body.len(), length.min(RESPONSE_BODY_KEPT_BYTES));
        assert_eq!(body.ends_with("…".as_bytes()), length > RESPONSE_BODY_KEPT_BYTES, "{length}");
    }
    // Characters of one to four bytes, begun at each place.
    for (character, before) in ["x", "é", "…", "😀"].into_iter().flat_map(|c| (0..4).map(move |n| (c, n)))
    {
        let body = "-".repeat(before) + &character.repeat(5000);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        let kept = String::from_utf8(answer(head + &body).await.body.unwrap()).unwrap();
        assert!((4090..=RESPONSE_BODY_KEPT_BYTES).contains(&kept.len()), "{} bytes", kept.len());
        assert!(body.starts_with(kept.strip_suffix('…').unwrap()), "{character} {before}");
    }
}

/// Writes `parts` until the other side closes, and says how many bytes that took.
async fn endless(head: &'static str, part: &'static [u8]) -> (Reply, usize) {
    let (written, mut report) = mpsc::channel(1);
    let endpoint = Endpoint::new(move |mut stream| {
        let written = written.clone();
        async move {
            read_request(&mut stream).await;
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut bytes = 0;
            while stream.write_all(part).await.is_ok() {
                bytes += part.len();
            }
            written.send(bytes).await.unwrap();
        }
    })
    .await;
    let reply = Case::to(&endpoint.url()).send(&sender()).await;
    let bytes = tokio::time::timeout(AMPLE, report.recv()).await.expect("the connection is closed").unwrap();
    (reply, bytes)
}

#[tokio::test]
async fn endless_bodies_are_cut_off() {
    let (reply, written) = endless("HTTP/1.1 200 OK\r\n\r\n", &[b'x'; 8192]).await;
    assert!(reply.is_success());
    assert_eq!(reply.body.unwrap().len(), RESPONSE_BODY_KEPT_BYTES);
    // The rest is what the sockets' buffers on both sides took.
    assert!(written < 16 * 1024 * 1024, "{written} bytes");
}

#[tokio::test]
async fn endless_heads_are_cut_off() {
    let (reply, written) =
        endless("HTTP/1.1 200 OK\r\n", b"x-a: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n").await;
    assert_eq!((reply.status_code, reply.error.clone()), (None, Some(Failure::InvalidResponse)));
    assert!(written < 16 * 1024 * 1024, "{written} bytes");
}

/// A 2xx head decides: what then becomes of the body is for the log.
#[tokio::test]
async fn a_2xx_head_decides_whatever_follows() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nstart";
    let stalling = Endpoint::answering(head).await;
    for (timeout, at_most) in
        [(AMPLE, Duration::from_secs(3)), (Duration::from_millis(500), Duration::from_secs(1))]
    {
        let begun = std::time::Instant::now();
        let reply = Case::to(&stalling.url()).within(timeout).send(&sender()).await;
        assert_eq!((reply.is_success(), reply.body.as_deref()), (true, Some(&b"start"[..])));
        assert!(begun.elapsed() < at_most, "{:?}", begun.elapsed());
        assert!(begun.elapsed() > at_most / 3, "read to the end of its time: {:?}", begun.elapsed());
        assert!(reply.duration < Duration::from_millis(400), "{:?}", reply.duration);
    }
    let breaking = Endpoint::new(move |mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(head.as_bytes()).await.unwrap();
    })
    .await;
    let reply = Case::to(&breaking.url()).send(&sender()).await;
    assert_eq!((reply.is_success(), reply.body.as_deref()), (true, Some(&b"start"[..])));
}

#[tokio::test]
async fn connections_with_unread_bodies_are_closed() {
    let (report, mut reports) = mpsc::channel(1);
    let endpoint = Endpoint::new(move |mut stream| {
        let report = report.clone();
        async move {
            read_request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 500 X\r\ncontent-length: 10\r\n\r\nstart").await.unwrap();
            report.send(closed(&mut stream).await).await.unwrap();
        }
    })
    .await;
    let case = Case::to(&endpoint.url()).within(Duration::from_millis(300));
    assert_eq!(case.send(&sender()).await.error, Some(Failure::UnexpectedStatus(500)));
    assert_eq!(reports.recv().await, Some(true));
}
