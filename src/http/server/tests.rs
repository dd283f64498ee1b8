use poem::http::StatusCode;
use poem::{EndpointExt as _, Route, get, handler, post};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

#[handler]
async fn slow() -> &'static str {
    sleep(Duration::from_millis(300)).await;
    "slow"
}

/// Refuses before it has read anything.
#[handler]
fn refuse() -> StatusCode {
    StatusCode::PAYLOAD_TOO_LARGE
}

#[handler]
fn echo(body: Vec<u8>) -> Vec<u8> {
    body
}

/// More than the system's buffers hold.
#[handler]
fn large() -> Vec<u8> {
    vec![b'x'; LARGE]
}

const LARGE: usize = 16 << 20;

fn limits() -> Limits {
    let idle_timeout = Duration::from_secs(75);
    Limits::new(Settings { idle_timeout, behind_proxy: false, payload_bytes_max: 1 << 20 })
}

struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

fn start(limits: Limits, drain_time: Duration) -> Running {
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let routes = Route::new()
        .at("/slow", get(slow))
        .at("/large", get(large))
        .at("/refuse", post(refuse))
        .at("/", post(echo));
    let routes = routes.map_to_response();
    let stopped = async { _ = stopped.await };
    let task = tokio::spawn(serve_within(limits, listener, None, routes, stopped, drain_time));
    Running { address, stop, task }
}

async fn send(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// What comes until the server ends the connection.
async fn read_all(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the connection ends");
    // A connection that is cut off may be reset.
    let _ = read;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The answer comes although the client is still sending, slower than it is refused.
#[tokio::test]
async fn who_is_refused_while_sending_hears_why() {
    let running = start(limits(), PATIENCE);
    for _ in 0..20 {
        let mut stream =
            send(running.address, b"POST /refuse HTTP/1.1\r\nhost: a\r\ncontent-length: 4194304\r\n\r\n")
                .await;
        for _ in 0..256 {
            stream.write_all(&[b'x'; 16 * 1024]).await.expect("the connection is open while it sends");
        }
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().expect("no reset");
        assert!(answer.starts_with(b"HTTP/1.1 413 "), "{}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test]
async fn malformed_heads_never_make_two_requests() {
    let server = start(limits(), PATIENCE);
    let hidden = "0\r\n\r\nPOST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n";
    let long = format!("x: {}\r\n", "y".repeat(200_000));
    let many = "x: y\r\n".repeat(101);
    for (case, head, rest, status) in [
        ("two lengths", "content-length: 1\r\ncontent-length: 2\r\n", "aa", 400),
        ("length and chunked", "content-length: 5\r\ntransfer-encoding: chunked\r\n", hidden, 200),
        ("chunked and length", "transfer-encoding: chunked\r\ncontent-length: 5\r\n", hidden, 200),
        ("not chunked at last", "transfer-encoding: chunked, gzip\r\n", hidden, 400),
        ("folded header", "x: a\r\n b\r\ncontent-length: 0\r\n", "", 400),
        ("space before the colon", "content-length : 0\r\n", "", 400),
        ("signed length", "content-length: +0\r\n", "", 400),
        ("bare LF after a header", "x: y\ncontent-length: 0\r\n", "", 400),
        ("bare LF at its end", "content-length: 0\r\n\n", "", 400),
        ("bare LF in trailers", "transfer-encoding: chunked\r\n", "1\r\na\r\n0\r\nx: y\nz: 1\r\n\r\n", 400),
        (
            "trailers",
            "connection: close\r\ntransfer-encoding: chunked\r\n",
            "1\r\na\r\n0\r\nx: y\r\n\r\n",
            200,
        ),
        ("long head", long.as_str(), "", 431),
        ("many headers", many.as_str(), "", 431),
    ] {
        let request = format!("POST / HTTP/1.1\r\nhost: a\r\n{head}\r\n{rest}");
        let answer = read_all(send(server.address, request.as_bytes()).await).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{case}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{case}: {answer}");
    }
}

#[tokio::test]
async fn heads_have_a_time() {
    let brief = Duration::from_millis(200);
    let limits = limits();
    let times = Times { head: brief, idle: brief, ..limits.times };
    let server = start(Limits { times, ..limits }, PATIENCE);
    for bytes in [&b""[..], b"GET /slow HT", b"GET /slow HTTP/1.1\r\nhost: a\r\nx: "] {
        assert_eq!(read_all(send(server.address, bytes).await).await, "");
    }
    // The handler may take longer than the head, and an idle connection ends as one that is slow.
    let answer = read_all(send(server.address, b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await).await;
    assert!(answer.ends_with("slow"), "{answer}");
}

/// Between requests a connection may be idle for longer than a head may take.
#[tokio::test]
async fn idle_connections_stay_open() {
    let limits = limits();
    let times = Times { head: Duration::from_millis(200), ..limits.times };
    let server = start(Limits { times, ..limits }, PATIENCE);
    let request = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi";
    let mut stream = send(server.address, request).await;
    for _ in 0..2 {
        let mut answer = vec![0; 1024];
        let read = timeout(PATIENCE, stream.read(&mut answer)).await.unwrap().unwrap();
        assert!(answer[..read].ends_with(b"hi"), "{}", String::from_utf8_lossy(&answer));
        sleep(Duration::from_millis(600)).await;
        stream.write_all(request).await.unwrap();
    }
    // Then a head begins, and has its time.
    let mut answer = vec![0; 1024];
    timeout(PATIENCE, stream.read(&mut answer)).await.unwrap().unwrap();
    stream.write_all(b"POST / HTTP").await.unwrap();
    assert_eq!(read_all(stream).await, "");
}

fn capped(all: usize) -> Limits {
    let limits = limits();
    let caps = Caps { all, unproved: all, of_network: None, unproved_kept: all };
    Limits { bounds: Bounds { caps, ..limits.bounds }, ..limits }
}

#[tokio::test]
async fn at_the_cap_the_one_that_waits_longest_gives_way() {
    let server = start(capped(2), PATIENCE);
    let first = send(server.address, b"").await;
    sleep(Duration::from_millis(50)).await;
    let second = send(server.address, b"GET /slow HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    sleep(Duration::from_millis(50)).await;
    let third = send(server.address, b"GET /slow HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    assert_eq!(read_all(first).await, "", "it was idle");
    assert!(read_all(second).await.ends_with("slow"), "it was served");
    assert!(read_all(third).await.ends_with("slow"));
}

#[tokio::test]
async fn while_all_are_served_newcomers_wait() {
    let server = start(capped(1), PATIENCE);
    let request = b"GET /slow HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let first = send(server.address, request).await;
    sleep(Duration::from_millis(50)).await;
    let second = send(server.address, request).await;
    assert!(read_all(first).await.ends_with("slow"));
    assert!(read_all(second).await.ends_with("slow"));
}

/// Who takes an answer a byte now and then does not hold it for long; who reads gets all of it.
#[tokio::test]
async fn answers_are_taken_at_a_least_rate() {
    let limits = limits();
    let grace = Duration::from_millis(500);
    let answer = Pace { bytes_per_second: 8 << 20, grace, silence: Duration::from_secs(30) };
    let times = Times { answer, ..limits.times };
    let server = start(Limits { times, ..limits }, PATIENCE);
    let request = b"GET /large HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    assert!(read_all(send(server.address, request).await).await.len() > LARGE);
    let mut slowly = send(server.address, request).await;
    for _ in 0..20 {
        slowly.read_u8().await.expect("what was sent stays there");
        sleep(Duration::from_millis(200)).await;
    }
    let rest = read_all(slowly).await.len();
    assert!(rest < LARGE, "{rest} bytes came after four seconds");
}

/// Nobody takes them in yet, and none has to come a second time.
#[tokio::test]
async fn bursts_wait_in_the_systems_queue() {
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..1000 {
        let connected = timeout(PATIENCE / 10, TcpStream::connect(address)).await;
        waiting.push(connected.expect("the queue has room").unwrap());
    }
}

#[tokio::test]
async fn requests_in_flight_end_before_the_server_does() {
    let server = start(limits(), PATIENCE);
    let idle = send(server.address, b"").await;
    let busy = send(server.address, b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
    sleep(Duration::from_millis(100)).await;
    server.stop.send(()).unwrap();
    assert!(read_all(busy).await.ends_with("slow"));
    assert_eq!(read_all(idle).await, "");
    timeout(PATIENCE, server.task).await.expect("the server ends").unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

/// Who sends it has not heard that the server stops.
#[tokio::test]
async fn a_head_that_has_begun_is_answered() {
    let server = start(limits(), PATIENCE);
    let mut begun = send(server.address, b"GET /slow HTTP/1.1\r\nho").await;
    sleep(Duration::from_millis(100)).await;
    server.stop.send(()).unwrap();
    sleep(Duration::from_millis(100)).await;
    begun.write_all(b"st: a\r\n\r\n").await.unwrap();
    let answer = read_all(begun).await;
    assert!(answer.contains("\r\nconnection: close\r\n") && answer.ends_with("slow"), "{answer}");
    timeout(PATIENCE, server.task).await.expect("the server ends").unwrap();
}

#[tokio::test]
async fn draining_ends_in_time() {
    let server = start(limits(), Duration::from_millis(50));
    let busy = send(server.address, b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
    sleep(Duration::from_millis(100)).await;
    server.stop.send(()).unwrap();
    timeout(PATIENCE, server.task).await.expect("the server ends").unwrap();
    assert_eq!(read_all(busy).await, "");
}
