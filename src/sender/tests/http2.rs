//! HTTP/2 with endpoints that speak it well, if slowly. Those that do not: `misbehaving`.

mod frames;
mod misbehaving;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::Version;
use reqwest::header::{ALT_SVC, CONTENT_LENGTH, HOST, LOCATION, RETRY_AFTER};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::{Barrier, mpsc, watch};

use super::endpoint::Endpoint;
use super::tls::{acceptor, https, self_signed, trusting};
use super::*;
use crate::sender::Failure;
use crate::sender::client::{IDLE_TIME, PING_AFTER, PONG_WITHIN};

type Question = hyper::Request<Incoming>;
type Answer = hyper::Response<BoxBody<Bytes, Infallible>>;

/// Streams that an endpoint of these tests takes at once, where nothing else is said.
const STREAMS_MAX: u32 = 200;

/// An endpoint and a sender that trusts it.
struct Pair {
    endpoint: Endpoint,
    sender: Sender,
    /// Connections that are being served.
    open: Arc<AtomicUsize>,
}

impl Pair {
    /// Each request is answered by `answer`, over what was agreed on of `protocols`.
    async fn new<F>(
        protocols: &[&str],
        streams_max: u32,
        answer: impl Fn(Question) -> F + Clone + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let identity = self_signed(|_| ());
        let acceptor = acceptor(&identity, protocols);
        let open = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&open);
        let endpoint = Endpoint::new(move |stream| {
            let (acceptor, answer, counted) = (acceptor.clone(), answer.clone(), Arc::clone(&counted));
            async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                counted.fetch_add(1, Ordering::SeqCst);
                let speaks_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let service = service_fn(move |question| {
                    let answer = answer(question);
                    async { Ok::<_, Infallible>(answer.await) }
                });
                let stream = TokioIo::new(stream);
                if speaks_http2 {
                    let mut server = http2::Builder::new(TokioExecutor::new());
                    let server = server.max_concurrent_streams(streams_max);
                    let _ = server.serve_connection(stream, service).await;
                } else {
                    let _ = http1::Builder::new().serve_connection(stream, service).await;
                }
                counted.fetch_sub(1, Ordering::SeqCst);
            }
        })
        .await;
        Self { endpoint, sender: trusting(&identity), open }
    }

    /// With an endpoint that speaks HTTP/2.
    async fn http2<F>(answer: impl Fn(Question) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        Self::new(&["h2"], STREAMS_MAX, answer).await
    }

    /// A request to `path`.
    fn case(&self, path: &str) -> Case {
        let host = https(&self.endpoint, "allowed.example").target;
        let target = TargetUrl::parse(host.as_url().join(path).unwrap().as_str()).unwrap();
        Case { target, ..Case::to("https://allowed.example/") }
    }

    async fn send(&self, path: &str) -> Reply {
        self.case(path).send(&self.sender).await
    }
}

fn answer(body: &'static str) -> Answer {
    hyper::Response::new(Full::new(Bytes::from_static(body.as_bytes())).boxed())
}

#[tokio::test]
async fn requests_are_the_same_over_either_version() {
    let mut seen = Vec::new();
    for (protocols, version) in [
        (&["h2", "http/1.1"][..], Version::HTTP_2),
        (&["h2"], Version::HTTP_2),
        (&["http/1.1"], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ] {
        let (arrived, mut arrivals) = mpsc::channel(1);
        let pair = Pair::new(protocols, STREAMS_MAX, move |question: Question| {
            let arrived = arrived.clone();
            async move {
                let (head, body) = question.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                arrived.send((head, body)).await.unwrap();
                answer("ok")
            }
        })
        .await;
        let headers = [("Authorization".to_owned(), "Bearer x".to_owned())];
        // Beyond what either side lets come before the other has read: 64 KiB in HTTP/2.
        let payload = Bytes::from((0..=255).cycle().take(300_000).collect::<Vec<u8>>());
        let case = Case {
            headers: StaticHeaders::parse(headers).unwrap(),
            secret_key: Some(SecretKey::parse("secret").unwrap()),
            payload: payload.clone(),
            at: Timestamp::from_millis(1_795_598_714_999),
            ..pair.case("/hook?a=b%20c&d")
        };
        let reply = case.send(&pair.sender).await;
        assert_eq!((reply.status_code, reply.body.as_deref()), (Some(200), Some(&b"ok"[..])));
        let (head, body) = arrivals.recv().await.unwrap();
        assert_eq!((head.version, &head.method), (version, &hyper::Method::POST), "{protocols:?}");
        assert_eq!(body, payload);
        let mut headers = head.headers;
        assert_eq!(headers.len(), headers.keys_len(), "none comes twice");
        // HTTP/2 has a place of its own for the host.
        let host = headers.remove(HOST);
        let host = host.map(|value| value.to_str().unwrap().to_owned());
        let authority = head.uri.authority().map(ToString::to_string);
        assert_ne!(host.is_some(), authority.is_some());
        let port = pair.endpoint.address.port();
        assert_eq!(host.or(authority), Some(format!("allowed.example:{port}")));
        seen.push((head.uri.path_and_query().unwrap().clone(), headers));
    }
    for pair in seen.windows(2) {
        assert_eq!(pair[0], pair[1]);
    }
    assert_eq!(seen[0].0, "/hook?a=b%20c&d");
    assert_eq!(seen[0].1[CONTENT_LENGTH], "300000");
}

#[tokio::test]
async fn statuses_mean_the_same() {
    let elsewhere = Endpoint::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let (url, address) = (elsewhere.url(), elsewhere.address);
    let pair = Pair::http2(move |question: Question| {
        let status: u16 = question.uri().path()[1..].parse().unwrap();
        let mut answer = answer("no");
        *answer.status_mut() = status.try_into().unwrap();
        for (name, value) in
            [(LOCATION, url.clone()), (ALT_SVC, format!("h2=\"{address}\"")), (RETRY_AFTER, "7".to_owned())]
        {
            answer.headers_mut().insert(name, value.parse().unwrap());
        }
        async { answer }
    })
    .await;
    for status in [300, 301, 307, 308, 400, 401, 408, 410, 421, 425, 429, 500, 503, 999] {
        let reply = pair.send(&format!("/{status}")).await;
        assert_eq!(reply.status_code, Some(status));
        assert!(!reply.is_success(), "{status}");
        assert_eq!((reply.is_gone(), reply.body.as_deref()), (status == 410, Some(&b"no"[..])));
        assert_eq!(reply.retry_after.is_some(), matches!(status, 429 | 503), "{status}");
    }
    assert!(pair.send("/299").await.is_success());
    assert_eq!((pair.endpoint.connections().await, elsewhere.connections().await), (1, 0));
}

/// HTTP/2 is agreed on in the TLS handshake or not spoken.
#[tokio::test]
async fn without_tls_it_is_http_1() {
    let mut endpoint = Endpoint::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    assert!(Case::to(&endpoint.url()).send(&sender()).await.is_success());
    let head = endpoint.arrived().await.head;
    assert!(head.starts_with("POST /hook HTTP/1.1\r\n") && !head.contains("upgrade"), "{head}");
}

#[tokio::test]
async fn attempts_share_a_connection_but_not_for_long() {
    let all_are_there = Arc::new(Barrier::new(50));
    let pair = Pair::http2(move |question: Question| {
        let all_are_there = Arc::clone(&all_are_there);
        async move {
            if question.uri().path() == "/together" {
                all_are_there.wait().await;
            }
            answer("ok")
        }
    })
    .await;
    for _ in 0..5 {
        assert!(pair.send("/").await.is_success());
    }
    assert!(join_all((0..50).map(|_| pair.send("/together"))).await.iter().all(Reply::is_success));
    assert_eq!(pair.endpoint.connections().await, 1);
    // The wait is what is tested: most servers close theirs after 2 s or more.
    tokio::time::sleep(Duration::from_millis(1900)).await;
    assert!(pair.send("/").await.is_success());
    assert_eq!(pair.endpoint.connections().await, 3, "the asker's own is the second");
}

#[tokio::test]
async fn of_connections_made_at_once_one_is_kept() {
    let pair = Pair::http2(|_| async { answer("ok") }).await;
    let replies = join_all((0..50).map(|_| pair.send("/"))).await;
    assert_eq!(replies.iter().filter_map(|reply| reply.error.clone()).collect::<Vec<_>>(), []);
    let made = pair.endpoint.connections().await;
    assert!(made > 1, "they came at once");
    let begun = std::time::Instant::now();
    while pair.open.load(Ordering::SeqCst) > 1 {
        // The last one is closed too once it is idle for too long.
        assert!(begun.elapsed() < IDLE_TIME / 2, "the others are closed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(join_all((0..50).map(|_| pair.send("/"))).await.iter().all(Reply::is_success));
    assert_eq!(pair.endpoint.connections().await, made + 1, "the asker's own");
}

/// Says when it is dropped, as a service is whose stream was reset.
struct Dropped(mpsc::UnboundedSender<()>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[tokio::test]
async fn stalled_streams_hold_up_none() {
    // Shorter than the connection is kept.
    const TIMEOUT: Duration = Duration::from_secs(1);
    let (ended, mut ends) = mpsc::unbounded_channel();
    let pair = Pair::http2(move |question: Question| {
        let guard = (question.uri().path() == "/stall").then(|| Dropped(ended.clone()));
        async move {
            if let Some(_guard) = guard {
                std::future::pending::<()>().await;
            }
            answer("ok")
        }
    })
    .await;
    assert!(pair.send("/").await.is_success());
    // Its body has to wait for leave too: nobody reads it.
    let payload = Bytes::from(vec![b' '; 40_000]);
    let stalling = Case { payload, ..pair.case("/stall").within(TIMEOUT) };
    let others = async {
        for _ in 0..20 {
            assert!(pair.case("/").within(TIMEOUT / 2).send(&pair.sender).await.is_success());
        }
    };
    let (reply, ()) = tokio::join!(stalling.send(&pair.sender), others);
    assert_eq!(reply.error, Some(Failure::Timeout));
    assert!(reply.duration >= TIMEOUT && reply.duration < 2 * TIMEOUT, "{:?}", reply.duration);
    let reset = tokio::time::timeout(AMPLE, ends.recv()).await;
    assert_eq!(reset, Ok(Some(())), "the stream is reset");
    assert!(pair.send("/").await.is_success());
    assert_eq!(pair.endpoint.connections().await, 1);
}

#[tokio::test]
async fn endless_bodies_are_cut_off_and_the_connection_is_kept() {
    let (ended, mut ends) = mpsc::unbounded_channel();
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let pair = Pair::http2(move |_| {
        let (guard, counted) = (Dropped(ended.clone()), Arc::clone(&counted));
        async move {
            let part = move || {
                let _guard = &guard;
                counted.fetch_add(8192, Ordering::Relaxed);
                Ok(Frame::data(Bytes::from_static(&[b'x'; 8192])))
            };
            hyper::Response::new(BoxBody::new(StreamBody::new(stream::repeat_with(part))))
        }
    })
    .await;
    for _ in 0..3 {
        let reply = pair.send("/").await;
        assert!(reply.is_success());
        assert_eq!(reply.body.unwrap().len(), 4096);
        let reset = tokio::time::timeout(AMPLE, ends.recv()).await;
        assert_eq!(reset, Ok(Some(())), "the stream is reset");
    }
    assert_eq!(pair.endpoint.connections().await, 1);
    // What one stream may send unread, and what the server holds ready.
    let sent = sent.load(Ordering::Relaxed);
    assert!(sent < 3 * 1024 * 1024, "{sent} bytes");
}

/// An endpoint may limit how many requests it takes at once. More wait inside the client, and the
/// wait counts: so one that stalls with as many as it takes holds up its own others, nobody else's.
#[tokio::test]
async fn what_an_endpoint_does_not_take_yet_waits_in_time() {
    let (at_once, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, highest) = (Arc::clone(&at_once), Arc::clone(&most));
    let (open, opened) = watch::channel(true);
    let pair = Pair::new(&["h2"], 2, move |_| {
        let (counted, highest, mut opened) = (Arc::clone(&counted), Arc::clone(&highest), opened.clone());
        async move {
            highest.fetch_max(counted.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            opened.wait_for(|&open| open).await.unwrap();
            counted.fetch_sub(1, Ordering::SeqCst);
            answer("ok")
        }
    })
    .await;
    // The first ones go out before the client knows of the limit; those refused are sent again.
    assert!(join_all((0..20).map(|_| pair.send("/"))).await.iter().all(Reply::is_success));
    assert_eq!(most.load(Ordering::SeqCst), 2);
    open.send(false).unwrap();
    let waiting = async {
        while at_once.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        let hasty = pair.case("/").within(Duration::from_millis(300));
        let replies = join_all((0..3).map(|_| hasty.send(&pair.sender))).await;
        open.send(true).unwrap();
        replies
    };
    let (taken, waited) = tokio::join!(join_all((0..2).map(|_| pair.send("/"))), waiting);
    assert!(taken.iter().all(Reply::is_success));
    for reply in waited {
        assert_eq!(reply.error, Some(Failure::Timeout));
    }
    assert!(pair.send("/").await.is_success());
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

/// A host that takes a hundred requests at once, and one tenant has as many and more there that hang: another's go
/// out at once, and so do its own others.
#[tokio::test]
async fn a_full_connection_holds_up_no_other() {
    const HANGING: usize = 250;
    let (hanging, hang) = watch::channel(0_usize);
    let hanging = Arc::new(hanging);
    let (open, opened) = watch::channel(false);
    let pair = Pair::new(&["h2"], 100, move |question: Question| {
        let (hanging, mut opened) = (Arc::clone(&hanging), opened.clone());
        async move {
            if question.uri().path() == "/hang" {
                hanging.send_modify(|count| *count += 1);
                opened.wait_for(|&open| open).await.unwrap();
            }
            answer("ok")
        }
    })
    .await;
    assert!(pair.case("/").of("a").send(&pair.sender).await.is_success());
    let all = join_all((0..HANGING).map(|_| async { pair.case("/hang").of("a").send(&pair.sender).await }));
    let beside = async {
        let mut hang = hang;
        let within = tokio::time::timeout(AMPLE, hang.wait_for(|&count| count == HANGING)).await;
        within.expect("all of them are taken").unwrap();
        for tenant in ["b", "a"] {
            let reply = pair.case("/").of(tenant).within(Duration::from_secs(2)).send(&pair.sender).await;
            assert!(reply.is_success(), "{tenant}: {reply:?}");
        }
        open.send(true).unwrap();
    };
    let (replies, ()) = tokio::join!(all, beside);
    assert!(replies.iter().all(Reply::is_success));
    assert!(pair.open.load(Ordering::SeqCst) <= 4, "three hundreds of one tenant, and another's");
}

/// Passes bytes on to `to`, in both directions, until `swallows`: from then on it takes all and
/// gives none, as where the other side's machine is gone.
async fn proxy(to: SocketAddr, swallows: watch::Receiver<bool>) -> Endpoint {
    Endpoint::new(move |client| {
        // New connections are passed on again.
        let mut swallows = swallows.clone();
        swallows.mark_unchanged();
        async move {
            let server = TcpStream::connect(to).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            let _ = tokio::select! {
                _ = tokio::io::copy(&mut from_client, &mut to_server) => return,
                _ = tokio::io::copy(&mut from_server, &mut to_client) => return,
                changed = swallows.changed() => changed,
            };
            let _ = tokio::io::copy(&mut from_client, &mut tokio::io::sink()).await;
            let _ = to_client.shutdown().await;
        }
    })
    .await
}

#[tokio::test]
async fn silent_death_is_noticed() {
    let pair = Pair::http2(|_| async { answer("ok") }).await;
    let (swallow, swallows) = watch::channel(false);
    let endpoint = proxy(pair.endpoint.address, swallows).await;
    let pair = Pair { endpoint, ..pair };
    assert!(pair.send("/").await.is_success());
    swallow.send(true).unwrap();
    let begun = std::time::Instant::now();
    // Each of them keeps the connection in use, so that it isn't just closed as idle.
    let patient = pair.case("/").within(2 * AMPLE);
    let patient = patient.send(&pair.sender);
    let lost = async {
        let mut lost = 0;
        while !pair.case("/").within(Duration::from_secs(1)).send(&pair.sender).await.is_success() {
            lost += 1;
            assert!(begun.elapsed() < 2 * (PING_AFTER + PONG_WITHIN), "the connection is given up");
        }
        lost
    };
    let (reply, lost) = tokio::join!(patient, lost);
    assert!(lost > 0, "the connection was in use");
    assert_eq!(reply.error, Some(Failure::Timeout));
    let noticed = PING_AFTER + PONG_WITHIN;
    assert!(reply.duration >= PONG_WITHIN && reply.duration < noticed + Duration::from_secs(2), "{reply:?}");
    assert_eq!(pair.endpoint.connections().await, 2);
}
