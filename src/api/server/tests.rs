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

struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

async fn start(limits: Limits, drain_time: Duration) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let routes =
        Route::new().at("/slow", get(slow)).at("/refuse", post(refuse)).at("/", post(echo)).map_to_response();
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
    let running = start(LIMITS, PATIENCE).await;
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
    let server = start(LIMITS, PATIENCE).await;
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
    let limits = Limits { head_read_time: Duration::from_millis(200), ..LIMITS };
    let server = start(limits, PATIENCE).await;
    for bytes in [&b""[..], b"GET /slow HT", b"GET /slow HTTP/1.1\r\nhost: a\r\nx: "] {
        assert_eq!(read_all(send(server.address, bytes).await).await, "");
    }
    // The handler may take longer than the head, and an idle connection ends as one that is slow.
    let answer = read_all(send(server.address, b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await).await;
    assert!(answer.ends_with("slow"), "{answer}");
}

#[tokio::test]
async fn connections_beyond_the_cap_wait() {
    let server = start(Limits { connections_max: 1, ..LIMITS }, PATIENCE).await;
    let first = send(server.address, b"").await;
    let second = send(
        server.address,
        b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi",
    )
    .await;
    sleep(Duration::from_millis(200)).await;
    let mut byte = [0];
    assert!(second.try_read(&mut byte).is_err(), "nothing was answered while the first was there");
    drop(first);
    assert!(read_all(second).await.ends_with("hi"));
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
    let server = start(LIMITS, PATIENCE).await;
    let idle = send(server.address, b"").await;
    let busy = send(server.address, b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
    sleep(Duration::from_millis(100)).await;
    server.stop.send(()).unwrap();
    assert!(read_all(busy).await.ends_with("slow"));
    assert_eq!(read_all(idle).await, "");
    timeout(PATIENCE, server.task).await.expect("the server ends").unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn draining_ends_in_time() {
    let server = start(LIMITS, Duration::from_millis(50)).await;
    let busy = send(server.address, b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await;
    sleep(Duration::from_millis(100)).await;
    server.stop.send(()).unwrap();
    timeout(PATIENCE, server.task).await.expect("the server ends").unwrap();
    assert_eq!(read_all(busy).await, "");
}
