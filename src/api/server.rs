//! Connections: taken in, bounded, and let go.
//!
//! poem's own server has no limit of time for a request head, none for the number of connections,
//! and turns in circles when no file descriptors are left (`reliability.md`, F8, A19). This one
//! speaks HTTP/1.1 through hyper, which refuses malformed heads by itself, and bounds
//!
//! - the head of a request: 10 s, also while a connection is idle; 64 KiB, or as much as arrived with
//!   the last byte of them; 100 headers;
//! - how long a client may leave an answer unread: 30 s (bodies of requests: [`super::body`]);
//! - connections: 10,000; beyond that new ones wait in the system's queue, 4,096 of them.
//!
//! A client that is refused while it still sends hears why: see [`linger`].
//!
//! Over TLS where there is a certificate ([`super::tls`]). What it leaves out is HTTP/2, which belongs to a proxy in
//! front.

mod linger;

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use poem::http::uri::Scheme;
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Addr, Endpoint, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::tls::Tls;
use linger::{Lingering, Refused};

/// After accepting failed for want of descriptors or memory: time for some to come free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(250);

/// Connections that wait to be taken in, as far as the system allows (Linux: `net.core.somaxconn`, by default as
/// many). With the standard library's 128 a burst overflows them, and a client that is not let in tries again
/// only a second later.
const CONNECTIONS_WAITING_MAX: u32 = 4096;

#[derive(Clone, Copy, Debug)]
struct Limits {
    head_read_time: Duration,
    head_bytes_max: usize,
    answer_write_time: Duration,
    connections_max: usize,
}

const LIMITS: Limits = Limits {
    head_read_time: Duration::from_secs(10),
    head_bytes_max: 64 * 1024,
    answer_write_time: Duration::from_secs(30),
    connections_max: 10_000,
};

/// Listens on `address`.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As the standard library does: connections that end elsewhere do not keep the address.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(CONNECTIONS_WAITING_MAX)
}

/// Serves `endpoint` until `stop` is ready; then takes no more connections, lets the requests in
/// flight end, for `drain_time` at most, and cuts off the rest.
///
/// Dropped: everything is cut off at once.
pub async fn serve<E>(
    listener: TcpListener,
    tls: Option<Tls>,
    endpoint: E,
    stop: impl Future<Output = ()>,
    drain_time: Duration,
) where
    E: Endpoint<Output = Response> + 'static,
{
    let serving = serve_within(LIMITS, listener, tls.as_ref(), endpoint, stop, drain_time);
    let keeping_up = async {
        match &tls {
            Some(tls) => tls.keep_up().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = serving => {}
        () = keeping_up => {}
    }
}

async fn serve_within<E>(
    limits: Limits,
    listener: TcpListener,
    tls: Option<&Tls>,
    endpoint: E,
    stop: impl Future<Output = ()>,
    drain_time: Duration,
) where
    E: Endpoint<Output = Response> + 'static,
{
    let endpoint = Arc::new(endpoint);
    let acceptor = tls.map(|tls| tls.acceptor.clone());
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        // Each of these may be dropped: a place that was taken is given back, and no connection is
        // accepted without being returned.
        tokio::select! {
            () = &mut stop => break,
            Some(ended) = connections.join_next() => report(ended),
            (stream, peer, place) = accept(&listener, &places) => {
                let connection = Connection::new(limits, &stream, peer, endpoint.clone(), graceful.watcher());
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    match acceptor {
                        None => connection.converse(stream).await,
                        Some(acceptor) => match shake_hands(limits, &acceptor, stream).await {
                            Ok(stream) => connection.over_tls().converse(stream).await,
                            Err(error) => tracing::debug!(%error, "no TLS connection"),
                        },
                    }
                    drop(place);
                });
            }
        }
    }
    drop(listener);
    if timeout(drain_time, graceful.shutdown()).await.is_err() {
        tracing::warn!(connections = connections.len(), "requests in flight were cut off");
    }
    connections.shutdown().await;
}

/// The next connection, as soon as there is a place for one.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    // The semaphore is never closed; were it, nothing more would be taken in.
    let Ok(place) = places.clone().acquire_owned().await else { return std::future::pending().await };
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, place),
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "cannot accept connections");
                }
                failing = true;
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The client went away before it was taken in: the next one is not to blame.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted)
}

/// Over TLS, in the time that a request's head may take.
async fn shake_hands(
    limits: Limits,
    acceptor: &TlsAcceptor,
    stream: TcpStream,
) -> io::Result<TlsStream<TcpStream>> {
    timeout(limits.head_read_time, acceptor.accept(stream)).await.map_err(|_| ErrorKind::TimedOut)?
}

/// A connection that was taken in, and what answers on it.
struct Connection<E> {
    limits: Limits,
    remote: RemoteAddr,
    local: LocalAddr,
    scheme: Scheme,
    endpoint: Arc<E>,
    watcher: Watcher,
}

impl<E> Connection<E>
where
    E: Endpoint<Output = Response> + 'static,
{
    fn new(limits: Limits, stream: &TcpStream, peer: SocketAddr, endpoint: Arc<E>, watcher: Watcher) -> Self {
        // Answers are small and whole: nothing is gained by waiting for more.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let remote = RemoteAddr(Addr::SocketAddr(peer));
        let local = stream
            .local_addr()
            .map_or_else(|_| LocalAddr::default(), |local| LocalAddr(Addr::SocketAddr(local)));
        Self { limits, remote, local, scheme: Scheme::HTTP, endpoint, watcher }
    }

    fn over_tls(self) -> Self {
        Self { scheme: Scheme::HTTPS, ..self }
    }

    async fn converse(self, stream: impl AsyncRead + AsyncWrite + Unpin + 'static) {
        let Self { limits, remote, local, scheme, endpoint, watcher } = self;
        let refused = Refused::default();
        let noted = refused.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let request = Request::from((request, local.clone(), remote.clone(), scheme.clone()));
            let (endpoint, noted) = (endpoint.clone(), noted.clone());
            async move {
                let answer = endpoint.get_response(request).await;
                noted.note(answer.status().is_client_error());
                Ok::<_, Infallible>(hyper::Response::from(answer))
            }
        });
        let mut stream = TimeoutStream::new(Lingering::new(stream, refused));
        stream.set_write_timeout(Some(limits.answer_write_time));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_read_time)
            .max_buf_size(limits.head_bytes_max)
            .serve_connection(TokioIo::new(Box::pin(stream)), service);
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(%error, "connection ended");
        }
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task failed");
    }
}

#[cfg(test)]
mod tests {
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
        let routes = Route::new()
            .at("/slow", get(slow))
            .at("/refuse", post(refuse))
            .at("/", post(echo))
            .map_to_response();
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
}
