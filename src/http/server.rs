//! Connections: taken in, bounded, and let go.
//!
//! poem's own server has no limit of time for a request head, none for the number of connections,
//! and turns in circles when no file descriptors are left (`reliability.md`, F8, A19). This one
//! speaks HTTP/1.1 through hyper, which refuses malformed heads by itself, and bounds
//!
//! - the head of a request: 10 s, and 64 KiB, or as much as arrived with the last byte of them; 100 headers; lines
//!   end in CR LF;
//! - idle connections: as configured;
//! - answers: they must be taken at a least rate (bodies of requests: [`super::body`]);
//! - connections, in all and of one address: where there are too many, the one that waits longest for its client
//!   gives way ([`connections`]); where nobody can, new ones wait in the system's queue, 4,096 of them;
//! - bytes that wait in memory, in all and by caller.
//!
//! A client that is refused while it still sends hears why: see [`linger`].
//!
//! Over TLS where there is a certificate ([`super::tls`]). What it leaves out is HTTP/2, which belongs to a proxy in
//! front.

mod client;
mod connections;
mod linger;
mod stream;

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;

use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use poem::http::uri::Scheme;
use poem::http::{HeaderValue, header};
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Addr, Endpoint, Request, Response};
use posthorn_domain::connections::{Caps, Crowd, Holder};
use posthorn_domain::transfer::Pace;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::tls::Tls;
pub(crate) use client::Client;
use client::Times;
use connections::{Bounds, Connections, Entry};
use linger::{Lingering, Refused};
use stream::Watched;

/// After accepting failed for want of descriptors or memory: time for some to come free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(250);

/// Connections that wait to be taken in, as far as the system allows (Linux: `net.core.somaxconn`, by default as
/// many). With the standard library's 128 a burst overflows them, and a client that is not let in tries again
/// only a second later.
const CONNECTIONS_WAITING_MAX: u32 = 4096;

/// What the system may keep of one connection's answers: so a client that does not read is seen early, and one that
/// reads at the least rate is heard of every few seconds.
const SEND_BUFFER_BYTES: u32 = 256 * 1024;

/// How soon a connection that nobody gave way to is tried again.
const ENTER_INTERVAL: Duration = Duration::from_millis(20);

/// How bodies must arrive and answers be taken: a page of the largest answers in half a minute over a bad line, and
/// 32 MiB in seventeen minutes at most.
pub(crate) const PACE: Pace =
    Pace { bytes_per_second: 32 * 1024, grace: Duration::from_secs(30), silence: Duration::from_secs(30) };

/// Connections: each costs some 25 KiB.
const CONNECTIONS_MAX: usize = 10_000;
/// Of these, those on which no key and no signature proved right yet.
const CONNECTIONS_UNPROVED_MAX: usize = 8000;
/// Of one address, before something proved right on them: a fifth of all, and far more than one host opens at once.
const CONNECTIONS_OF_ADDRESS_MAX: usize = 2000;
/// Not proved, and safe from those that are: whoever comes has the time to prove something.
const CONNECTIONS_UNPROVED_KEPT: usize = 1000;

/// New connections whose first request is looked at: the others wait outside of the queue that all tasks share. So a
/// thousand that come at once delay requests on older connections by some hundred microseconds at a time.
const BEGINNING_MAX: usize = 8;

/// Bytes that wait in memory for clients, all connections together.
const BYTES_MAX: u64 = 64 * 1024 * 1024;
/// As large payloads as there may be at least: one caller alone gets half of all, and who has proved nothing half of
/// half.
const PAYLOADS_MIN: u64 = 4;

/// How connections are served.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a connection may be idle between two requests.
    pub idle_timeout: Duration,
    /// Whether what calls is a proxy: then its address says nothing of who calls.
    pub behind_proxy: bool,
    /// The largest payload taken in, in bytes.
    pub payload_bytes_max: usize,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    times: Times,
    head_bytes_max: usize,
    bounds: Bounds,
}

impl Limits {
    fn new(settings: Settings) -> Self {
        let payload = u64::try_from(settings.payload_bytes_max).unwrap_or(u64::MAX);
        let bytes = BYTES_MAX.max(payload.saturating_mul(PAYLOADS_MIN));
        Self {
            times: Times { head: Duration::from_secs(10), idle: settings.idle_timeout, answer: PACE },
            head_bytes_max: 64 * 1024,
            bounds: Bounds {
                caps: Caps {
                    all: CONNECTIONS_MAX,
                    unproved: CONNECTIONS_UNPROVED_MAX,
                    of_network: Some(CONNECTIONS_OF_ADDRESS_MAX).filter(|_| !settings.behind_proxy),
                    unproved_kept: CONNECTIONS_UNPROVED_KEPT,
                },
                bytes,
                bytes_unproved: bytes / 2,
            },
        }
    }
}

/// Listens on `address`.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As the standard library does: connections that end elsewhere do not keep the address.
    socket.set_reuseaddr(true)?;
    // Connections have what their listener has.
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(address)?;
    socket.listen(CONNECTIONS_WAITING_MAX)
}

/// Serves `endpoint` until `stop` is ready; then takes no more connections, lets the requests in
/// flight end, for `drain_time` at most, and cuts off the rest.
///
/// Dropped: everything is cut off at once.
pub async fn serve<E>(
    settings: Settings,
    listener: TcpListener,
    tls: Option<Tls>,
    endpoint: E,
    stop: impl Future<Output = ()>,
    drain_time: Duration,
) where
    E: Endpoint<Output = Response> + 'static,
{
    let serving = serve_within(Limits::new(settings), listener, tls.as_ref(), endpoint, stop, drain_time);
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
    let (stopping, stopped) = watch::channel(false);
    let connections = Connections::new(limits.bounds);
    let beginning = Arc::new(Semaphore::new(BEGINNING_MAX));
    let mut tasks = JoinSet::new();
    let mut stop = pin!(stop);
    // Accepted, and not taken in yet.
    let mut newcomer = None;
    loop {
        // Each of these may be dropped: no connection is accepted without being returned.
        tokio::select! {
            () = &mut stop => break,
            Some(ended) = tasks.join_next() => report(ended),
            accepted = accept(&listener), if newcomer.is_none() => newcomer = Some(accepted),
            _ = timeout(ENTER_INTERVAL, connections.freed()), if newcomer.is_some() => {}
        }
        let Some((stream, peer)) = newcomer.take() else { continue };
        let now = Instant::now().into_std();
        match connections.enter(Holder::of_address(peer.ip()), limits.times, now) {
            Ok(entry) => {
                let (endpoint, stopped, beginning) = (endpoint.clone(), stopped.clone(), beginning.clone());
                let connection = Connection::new(limits, &stream, peer, endpoint, stopped, beginning, entry);
                let client = connection.entry.client.clone();
                client.runs_in(tasks.spawn(connection.serve(stream, acceptor.clone())));
            }
            // All it may have are being served.
            Err(Crowd::Network) => tracing::debug!("an address has as many connections as it may"),
            Err(Crowd::Unproved | Crowd::Proved) => newcomer = Some((stream, peer)),
        }
    }
    drop(listener);
    stopping.send_replace(true);
    let drained = async {
        while let Some(ended) = tasks.join_next().await {
            report(ended);
        }
    };
    if timeout(drain_time, drained).await.is_err() {
        tracing::warn!(connections = tasks.len(), "requests in flight were cut off");
    }
    tasks.shutdown().await;
}

/// The next connection.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
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
    timeout(limits.times.head, acceptor.accept(stream)).await.map_err(|_| ErrorKind::TimedOut)?
}

/// A connection that was taken in, and what answers on it.
struct Connection<E> {
    limits: Limits,
    remote: RemoteAddr,
    local: LocalAddr,
    scheme: Scheme,
    endpoint: Arc<E>,
    /// True once the server stops.
    stopped: watch::Receiver<bool>,
    beginning: Arc<Semaphore>,
    entry: Entry,
}

impl<E> Connection<E>
where
    E: Endpoint<Output = Response> + 'static,
{
    fn new(
        limits: Limits,
        stream: &TcpStream,
        peer: SocketAddr,
        endpoint: Arc<E>,
        stopped: watch::Receiver<bool>,
        beginning: Arc<Semaphore>,
        entry: Entry,
    ) -> Self {
        // Answers are small and whole: nothing is gained by waiting for more.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let remote = RemoteAddr(Addr::SocketAddr(peer));
        let local = stream
            .local_addr()
            .map_or_else(|_| LocalAddr::default(), |local| LocalAddr(Addr::SocketAddr(local)));
        Self { limits, remote, local, scheme: Scheme::HTTP, endpoint, stopped, beginning, entry }
    }

    async fn serve(self, stream: TcpStream, acceptor: Option<TlsAcceptor>) {
        let Some(acceptor) = acceptor else { return self.converse(stream).await };
        match shake_hands(self.limits, &acceptor, stream).await {
            Ok(stream) => Self { scheme: Scheme::HTTPS, ..self }.converse(stream).await,
            Err(error) => tracing::debug!(%error, "no TLS connection"),
        }
    }

    async fn converse(self, stream: impl AsyncRead + AsyncWrite + Unpin + 'static) {
        let Self { limits, remote, local, scheme, endpoint, mut stopped, beginning, entry } = self;
        let is_stopped = stopped.clone();
        let client = &entry.client;
        let refused = Refused::default();
        let noted = refused.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let mut request = Request::from((request, local.clone(), remote.clone(), scheme.clone()));
            let (endpoint, noted, client) = (endpoint.clone(), noted.clone(), client.clone());
            let is_stopped = is_stopped.clone();
            client.serves();
            request.extensions_mut().insert(client.clone());
            async move {
                let mut answer = endpoint.get_response(request).await;
                if *is_stopped.borrow() {
                    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                noted.note(answer.status().is_client_error());
                let answer = hyper::Response::<BoxBody<Bytes, io::Error>>::from(answer);
                client.answers(answer.body().size_hint().lower());
                Ok::<_, Infallible>(answer.map(|body| AnswerBody { body, client }))
            }
        });
        let stream = Watched::new(Lingering::new(stream, refused), client.clone());
        let connection = http1::Builder::new()
            // How long it may take is the client's deadline.
            .header_read_timeout(None)
            .max_buf_size(limits.head_bytes_max)
            .serve_connection(TokioIo::new(Box::pin(stream)), service);
        let (mut connection, mut stop) = (pin!(connection), pin!(stopped.wait_for(|stopped| *stopped)));
        let (mut is_stopping, mut is_told) = (false, false);
        // Once the server stops it ends after the request that is under way. A head that has begun is one: who sends it
        // has not heard that the server stops, and may not know whether it can be sent again.
        let serving = std::future::poll_fn(|cx| {
            is_stopping = is_stopping || stop.as_mut().poll(cx).is_ready();
            loop {
                if is_stopping && !is_told && client.head_bytes() == 0 {
                    connection.as_mut().graceful_shutdown();
                    is_told = true;
                }
                let polled = connection.as_mut().poll(cx);
                if polled.is_ready() || !is_stopping || is_told || client.head_bytes() > 0 {
                    return polled;
                }
            }
        });
        let serving = pin!(serving);
        let mut serving = pin!(within_deadline(client, serving));
        // Its first request is looked at in its turn.
        let turn = beginning.acquire().await;
        let first = futures_util::poll!(serving.as_mut());
        drop(turn);
        let ended = match first {
            Poll::Ready(ended) => ended,
            Poll::Pending => serving.await,
        };
        match ended {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::debug!(%error, "connection ended"),
            None => tracing::debug!("a connection's client took too long"),
        }
    }
}

/// What `connection` comes to; none where its client lets a deadline pass.
async fn within_deadline<T>(client: &Client, mut connection: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    let mut timer = pin!(sleep_until(Instant::now()));
    std::future::poll_fn(move |cx| {
        if let Poll::Ready(end) = connection.as_mut().poll(cx) {
            return Poll::Ready(Some(end));
        }
        // The timer is moved only where it would come too late: most deadlines are put off before they pass.
        while let Some(deadline) = client.deadline().map(Instant::from_std) {
            if timer.is_elapsed() || deadline < timer.deadline() {
                timer.as_mut().reset(deadline);
            }
            if timer.as_mut().poll(cx).is_pending() {
                break;
            }
            if client.deadline().is_some_and(|deadline| Instant::from_std(deadline) <= Instant::now()) {
                return Poll::Ready(None);
            }
        }
        Poll::Pending
    })
    .await
}

/// An answer's body, which tells when all of it was handed over.
struct AnswerBody {
    body: BoxBody<Bytes, io::Error>,
    client: Client,
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.client.answered();
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && !error.is_cancelled()
    {
        tracing::error!(%error, "a connection's task failed");
    }
}

#[cfg(test)]
mod tests;
