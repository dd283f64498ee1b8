//! Endpoints that break off, break the rules, or send without end.

use tokio::io::AsyncReadExt as _;

use super::frames::*;
use super::*;

impl Pair {
    /// With an endpoint that does `behave` with each connection; it is told which one this is, from
    /// 0 on.
    async fn framed<F>(behave: impl Fn(usize, Frames) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let connections = Arc::new(AtomicUsize::new(0));
        let identity = self_signed(|_| ());
        let acceptor = acceptor(&identity, &["h2"]);
        let endpoint = Endpoint::new(move |stream| {
            let (acceptor, behave) = (acceptor.clone(), behave.clone());
            let number = connections.fetch_add(1, Ordering::SeqCst);
            async move {
                if let Some(frames) = Frames::accept(&acceptor, stream).await {
                    behave(number, frames).await;
                }
            }
        })
        .await;
        Self { endpoint, sender: trusting(&identity), open: Arc::default() }
    }
}

/// What an endpoint says, given the request's stream.
type Say = fn(u32) -> Vec<u8>;

/// What an endpoint does with the connection after it said its last.
#[derive(Clone, Copy)]
enum Then {
    Waits,
    Closes,
    /// Without the goodbye of TLS.
    Hangs,
    Resets,
}

/// Each is one attempt and one request: what may have been taken is not sent again.
#[tokio::test]
async fn answers_that_are_none() {
    use Failure::{ConnectionClosed, ConnectionReset, InvalidResponse};
    use Then::{Closes, Hangs, Resets, Waits};
    let cases: [(&str, Say, Then, Failure); 24] = [
        ("nothing", |_| vec![], Closes, ConnectionClosed),
        ("nothing, not even a goodbye", |_| vec![], Hangs, ConnectionClosed),
        ("a reset", |_| vec![], Resets, ConnectionReset),
        ("a stream given up", |id| frame(RST_STREAM, 0, id, &code(8)), Waits, ConnectionReset),
        ("a stream that failed", |id| frame(RST_STREAM, 0, id, &code(2)), Waits, ConnectionReset),
        ("a goodbye in anger", |_| frame(GOAWAY, 0, 0, &go_away(0, 1)), Waits, ConnectionClosed),
        ("too many calls", |_| frame(GOAWAY, 0, 0, &go_away(0, 11)), Waits, ConnectionClosed),
        ("a goodbye after it was taken", |id| frame(GOAWAY, 0, 0, &go_away(id, 0)), Closes, ConnectionClosed),
        ("half a frame", |id| frame(HEADERS, 5, id, STATUS_200)[..5].to_vec(), Closes, ConnectionClosed),
        ("half a head", |id| frame(HEADERS, 0, id, STATUS_200), Closes, ConnectionClosed),
        ("HTTP/1.1", |_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), Waits, InvalidResponse),
        ("a body without a head", |id| frame(DATA, 1, id, b"ok"), Waits, InvalidResponse),
        ("no status", |id| frame(HEADERS, 5, id, &header("x", b"y")), Waits, InvalidResponse),
        ("a bad status", |id| frame(HEADERS, 5, id, b"\x08\x03abc"), Waits, InvalidResponse),
        ("an upper-case name", |id| with_header(id, "X", b"y"), Waits, InvalidResponse),
        ("a line break", |id| with_header(id, "x", b"y\r\nz: 1"), Waits, InvalidResponse),
        ("a length that is none", |id| with_header(id, "content-length", b"x"), Waits, InvalidResponse),
        ("no HPACK", |id| frame(HEADERS, 5, id, &[0xff; 20]), Waits, InvalidResponse),
        ("a head of nobody's", |_| frame(HEADERS, 5, 99, STATUS_200), Waits, InvalidResponse),
        ("a rest of no head", |id| frame(CONTINUATION, 4, id, STATUS_200), Waits, InvalidResponse),
        ("a push", |id| frame(PUSH_PROMISE, 4, id, &[0, 0, 0, 2, 0x82]), Waits, InvalidResponse),
        ("bad settings", |_| frame(SETTINGS, 0, 0, &[1; 5]), Waits, InvalidResponse),
        ("leave for nothing", |_| frame(WINDOW_UPDATE, 0, 0, &[0; 4]), Waits, InvalidResponse),
        ("a frame too long", |id| frame(DATA, 0, id, &vec![0; 16_385]), Waits, InvalidResponse),
    ];
    for (case, bytes, then, failure) in cases {
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        let pair = Pair::framed(move |_, mut frames| {
            let counted = Arc::clone(&counted);
            async move {
                while let Some(id) = frames.request().await {
                    counted.fetch_add(1, Ordering::SeqCst);
                    let _ = frames.stream.write_all(&bytes(id)).await;
                    let _ = frames.stream.flush().await;
                    match then {
                        Waits => {}
                        Closes => drop(frames.stream.shutdown().await),
                        Hangs => return,
                        Resets => return frames.stream.get_ref().0.set_zero_linger().unwrap(),
                    }
                }
            }
        })
        .await;
        let reply = pair.send("/").await;
        assert_eq!((reply.status_code, reply.error.clone()), (None, Some(failure)), "{case}");
        assert_eq!(requests.load(Ordering::SeqCst), 1, "{case}");
    }
}

fn code(code: u32) -> [u8; 4] {
    code.to_be_bytes()
}

/// A head with one header beside its status.
fn with_header(id: u32, name: &str, value: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, id, &[STATUS_200, &header(name, value)].concat())
}

/// As over HTTP/1.1: what then becomes of the body is for the log.
#[tokio::test]
async fn a_2xx_head_decides_whatever_follows() {
    let start = |id| [frame(HEADERS, END_HEADERS, id, STATUS_200), frame(DATA, 0, id, b"start")].concat();
    let rests: [(&str, Say); 4] = [
        ("silence", |_| vec![]),
        ("a reset", |id| frame(RST_STREAM, 0, id, &code(2))),
        ("a goodbye", |_| frame(GOAWAY, 0, 0, &go_away(0, 1))),
        ("no frames", |_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
    ];
    for (case, rest) in rests {
        let pair = Pair::framed(move |_, mut frames| async move {
            let id = frames.request().await.unwrap();
            frames.stream.write_all(&start(id)).await.unwrap();
            frames.stream.write_all(&rest(id)).await.unwrap();
            frames.request().await;
        })
        .await;
        let reply = pair.case("/").within(Duration::from_secs(2)).send(&pair.sender).await;
        assert_eq!((reply.error, reply.body.as_deref()), (None, Some(&b"start"[..])), "{case}");
    }
}

/// RFC 9113 §8.7: such a request was not processed, and says nothing of the endpoint's health.
#[tokio::test]
async fn what_was_refused_is_sent_again() {
    for (refused, requests, failure) in
        [(1, 2, None), (2, 3, None), (usize::MAX, 3, Some(Failure::ConnectionReset))]
    {
        let seen = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&seen);
        let pair = Pair::framed(move |_, mut frames| {
            let counted = Arc::clone(&counted);
            async move {
                while let Some(id) = frames.request().await {
                    if counted.fetch_add(1, Ordering::SeqCst) < refused {
                        frames.write(RST_STREAM, 0, id, &code(7)).await.unwrap();
                    } else {
                        frames.answer(id).await;
                    }
                }
            }
        })
        .await;
        assert_eq!(pair.send("/").await.error, failure, "{refused}");
        assert_eq!(seen.load(Ordering::SeqCst), requests, "{refused}");
        assert_eq!(pair.endpoint.connections().await, 1);
    }
}

/// As servers do that restart, or after a number of requests (nginx: 1,000): they say which
/// requests they have taken, answer those, and leave the others to a new connection.
#[tokio::test]
async fn a_goodbye_fails_no_attempt() {
    const TAKEN: usize = 20;
    let pair = Pair::framed(|number, mut frames| async move {
        if number == 0 {
            let first = frames.request().await.unwrap();
            frames.answer(first).await;
            let mut taken = Vec::new();
            while taken.len() < 2 * TAKEN {
                taken.push(frames.request().await.unwrap());
            }
            taken.truncate(TAKEN);
            frames.write(GOAWAY, 0, 0, &go_away(taken[TAKEN - 1], 0)).await.unwrap();
            for id in taken {
                frames.answer(id).await;
            }
        }
        while let Some(id) = frames.request().await {
            frames.answer(id).await;
        }
    })
    .await;
    assert!(pair.send("/").await.is_success());
    let replies = join_all((0..2 * TAKEN).map(|_| pair.send("/"))).await;
    assert_eq!(replies.iter().filter_map(|reply| reply.error.clone()).collect::<Vec<_>>(), []);
}

/// The next attempt finds a connection that takes no more, and makes one.
#[tokio::test]
async fn a_goodbye_after_each_answer_fails_no_attempt() {
    let pair = Pair::framed(|_, mut frames| async move {
        let id = frames.request().await.unwrap();
        let goodbye = frame(GOAWAY, 0, 0, &go_away(id, 0));
        let answer = frame(HEADERS, END_HEADERS | END_STREAM, id, STATUS_200);
        frames.stream.write_all(&[answer, goodbye].concat()).await.unwrap();
        assert_eq!(frames.request().await, None);
    })
    .await;
    for _ in 0..10 {
        assert_eq!(pair.send("/").await.error, None);
    }
    assert_eq!(pair.endpoint.connections().await, 10);
}

#[tokio::test]
async fn large_heads_are_refused_and_the_connection_is_kept() {
    let pair = Pair::framed(|_, mut frames| async move {
        for headers in [3, 5, 0] {
            let id = frames.request().await.unwrap();
            let end = if headers == 0 { END_HEADERS } else { 0 };
            frames.write(HEADERS, end | END_STREAM, id, STATUS_200).await.unwrap();
            for rest in (0..headers).rev() {
                let end = if rest == 0 { END_HEADERS } else { 0 };
                let header = header(&format!("x-{rest}"), &[b'y'; 16_000]);
                frames.write(CONTINUATION, end, id, &header).await.unwrap();
            }
        }
        frames.request().await;
    })
    .await;
    for (case, failure) in [("48 KB", None), ("80 KB", Some(Failure::InvalidResponse)), ("none", None)] {
        assert_eq!(pair.send("/").await.error, failure, "{case}");
    }
    assert_eq!(pair.endpoint.connections().await, 1);
}

/// Writes `start` and then `part` until the connection ends, reading nothing, and says how many
/// bytes that took.
async fn endless(start: Say, part: Say, timeout: Duration) -> (Reply, usize) {
    let (written, mut report) = mpsc::channel(1);
    let pair = Pair::framed(move |_, mut frames| {
        let written = written.clone();
        async move {
            let id = frames.request().await.unwrap();
            frames.stream.write_all(&start(id)).await.unwrap();
            let part = part(id);
            let mut bytes = 0;
            while frames.stream.write_all(&part).await.is_ok() {
                bytes += part.len();
            }
            written.send(bytes).await.unwrap();
        }
    })
    .await;
    let reply = pair.case("/").within(timeout).send(&pair.sender).await;
    let bytes = tokio::time::timeout(2 * AMPLE, report.recv()).await.expect("the connection is closed");
    (reply, bytes.unwrap())
}

#[tokio::test]
async fn endless_heads_are_cut_off() {
    let start = |id| frame(HEADERS, 0, id, STATUS_200);
    // An entry of the table that a head refers to takes a byte and stands for 4 KB.
    let entry = |id| {
        let entry = [b"\x40\x01x\x7f\xa1\x1e", &[b'y'; 4000][..]].concat();
        frame(HEADERS, 0, id, &[STATUS_200, &entry].concat())
    };
    let parts: [(&str, Say, Say); 4] = [
        ("headers", start, |id| frame(CONTINUATION, 0, id, &header("x", &[b'y'; 16_000]))),
        ("one value", start, |id| frame(CONTINUATION, 0, id, &[b'y'; 16_384])),
        ("nothing", start, |id| frame(CONTINUATION, 0, id, &[])),
        ("references", entry, |id| frame(CONTINUATION, 0, id, &[0xbe; 16_384])),
    ];
    for (case, start, part) in parts {
        let (reply, written) = endless(start, part, AMPLE).await;
        assert_eq!(
            (reply.status_code, reply.error.clone()),
            (None, Some(Failure::InvalidResponse)),
            "{case}"
        );
        assert!(reply.duration < AMPLE / 4, "{case}: {:?}", reply.duration);
        assert!(written < 16 * 1024 * 1024, "{case}: {written} bytes");
    }
}

/// After the head it is a success, as over HTTP/1.1.
#[tokio::test]
async fn endless_trailers_are_cut_off() {
    let (reply, written) = endless(
        |id| [frame(HEADERS, END_HEADERS, id, STATUS_200), frame(HEADERS, END_STREAM, id, &[])].concat(),
        |id| frame(CONTINUATION, 0, id, &header("x", &[b'y'; 16_000])),
        AMPLE,
    )
    .await;
    assert_eq!((reply.error, reply.body), (None, Some(Vec::new())));
    assert!(written < 16 * 1024 * 1024, "{written} bytes");
}

/// What must be answered is read only as far as the answers are taken, and none of it lasts longer
/// than its attempt and the time that a connection is kept.
#[tokio::test]
async fn floods_end_with_the_time_out() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let parts: [(&str, Say); 4] = [
        ("pings", |_| frame(PING, 0, 0, &[1; 8])),
        ("settings", |_| frame(SETTINGS, 0, 0, &[])),
        ("interim answers", |id| frame(HEADERS, END_HEADERS, id, b"\x08\x03102")),
        ("frames unheard of", |_| frame(0xbb, 0, 0, &[0; 100])),
    ];
    join_all(parts.map(|(case, part)| async move {
        let (reply, written) = endless(|_| Vec::new(), part, TIMEOUT).await;
        assert_eq!((reply.status_code, reply.error.clone()), (None, Some(Failure::Timeout)), "{case}");
        assert!(reply.duration < 3 * TIMEOUT, "{case}: {:?}", reply.duration);
        if matches!(case, "pings" | "settings") {
            assert!(written < 16 * 1024 * 1024, "{case}: {written} bytes");
        }
    }))
    .await;
}

/// Of many attempts at once, some wait for the connection that another is making.
#[tokio::test]
async fn connections_that_end_at_once() {
    for (then, failure) in [
        (Then::Closes, Failure::ConnectionClosed),
        (Then::Hangs, Failure::ConnectionClosed),
        (Then::Resets, Failure::ConnectionReset),
    ] {
        let identity = self_signed(|_| ());
        let acceptor = acceptor(&identity, &["h2"]);
        let endpoint = Endpoint::new(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                match then {
                    Then::Closes => drop(stream.shutdown().await),
                    Then::Resets => stream.get_ref().0.set_zero_linger().unwrap(),
                    Then::Waits | Then::Hangs => {}
                }
            }
        })
        .await;
        let pair = Pair { endpoint, sender: trusting(&identity), open: Arc::default() };
        for _ in 0..10 {
            for reply in join_all((0..30).map(|_| pair.send("/"))).await {
                assert_eq!(reply.error, Some(failure.clone()));
            }
        }
    }
}

/// An endpoint that gives leave for a payload of any size and then reads nothing: the client can
/// neither send the rest nor say goodbye.
#[tokio::test]
async fn connections_that_take_no_bytes_are_given_up() {
    let (report, mut reports) = mpsc::channel(1);
    let pair = Pair::framed(move |_, mut frames| {
        let report = report.clone();
        async move {
            let window = [0, 4, 0x7f, 0xff, 0xff, 0xff];
            frames.write(SETTINGS, 0, 0, &window).await.unwrap();
            frames.write(WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes()).await.unwrap();
            // The wait is what is tested, with time to spare for a busy machine.
            tokio::time::sleep(PING_AFTER + PONG_WITHIN + Duration::from_secs(10)).await;
            report.send(frames.stream.read_to_end(&mut Vec::new()).await).await.unwrap();
        }
    })
    .await;
    let payload = Bytes::from(vec![b' '; 16 * 1024 * 1024]);
    let case = Case { payload, ..pair.case("/").within(Duration::from_secs(2)) };
    assert_eq!(case.send(&pair.sender).await.error, Some(Failure::Timeout));
    let end = tokio::time::timeout(10 * AMPLE, reports.recv()).await.unwrap().unwrap();
    // One that is still open would now be closed in good order.
    assert_eq!(end.map_err(|error| error.kind()), Err(io::ErrorKind::UnexpectedEof));
}
