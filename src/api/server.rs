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
mod tests;
