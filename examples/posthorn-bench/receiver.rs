//! The endpoint of every subscription: answers 200 as fast as one process can.
//!
//! An own HTTP/1.1 loop instead of a server crate, since the receiver shares the cores with what is
//! measured: one read, one parse and one write for a delivery. It takes what a webhook is, a POST with a
//! `Content-Length`; whatever else comes is reported as wrong.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::clock::Clock;
use crate::event::Event;
use crate::tally::Tally;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const HEADERS_MAX: usize = 64;
/// More than one delivery of the largest payload that a benchmark sends.
const BUFFER_BYTES_MAX: usize = 2 * 1024 * 1024;
const READ_BYTES: usize = 16 * 1024;
/// Far above what any server here opens: it has its own limit of requests in flight.
const CONNECTIONS_MAX: usize = 4096;
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Listens until it is dropped.
pub(crate) struct Receiver {
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Receiver {
    /// Starts to listen on a free port; what comes is told to `tally`.
    pub(crate) async fn start(tally: Arc<Tally>, clock: Clock) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("the receiver's port")?;
        let address = listener.local_addr()?;
        let task = AbortOnDropHandle::new(tokio::spawn(accept(listener, tally, clock)));
        Ok(Self { address, _task: task })
    }

    /// Where deliveries for the subscription of this index go.
    pub(crate) fn target_url(&self, subscription: usize) -> String {
        format!("http://{}/{subscription}", self.address)
    }
}

async fn accept(listener: TcpListener, tally: Arc<Tally>, clock: Clock) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: some must be closed before the next one opens.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let tally = Arc::clone(&tally);
        connections.spawn(async move {
            if let Err(error) = serve(stream, &tally, clock).await {
                tally.wrong(format!("{error:#}"));
            }
        });
    }
}

async fn serve(mut stream: TcpStream, tally: &Tally, clock: Clock) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    loop {
        while let Some(request) = Request::parse(&buffer)? {
            let now_nanos = clock.nanos();
            let event = Event::decode(request.body).context("a payload that nobody sent")?;
            tally.arrived_at(now_nanos, request.subscription, event);
            let length = request.length;
            buffer.advance(length);
            if stream.write_all(ANSWER).await.is_err() {
                return Ok(());
            }
        }
        ensure!(buffer.len() < BUFFER_BYTES_MAX, "a request of more than {BUFFER_BYTES_MAX} bytes");
        buffer.reserve(READ_BYTES);
        // A connection that ends is the client's business: what it did not hand over, it sends again.
        if matches!(stream.read_buf(&mut buffer).await, Ok(0) | Err(_)) {
            return Ok(());
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Request<'buffer> {
    subscription: usize,
    body: &'buffer [u8],
    /// Of head and body.
    length: usize,
}

impl<'buffer> Request<'buffer> {
    /// The first request in the buffer, if all of it is there.
    fn parse(buffer: &'buffer [u8]) -> anyhow::Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(head_length) = head.parse(buffer).context("a request head")? else {
            return Ok(None);
        };
        ensure!(head.method == Some("POST"), "the method {:?}", head.method);
        let path = head.path.unwrap_or_default();
        let subscription =
            path.trim_start_matches('/').parse().with_context(|| format!("the path {path}"))?;
        let length = head_length + content_length(head.headers)?;
        let body = buffer.get(head_length..length);
        Ok(body.map(|body| Self { subscription, body, length }))
    }
}

fn content_length(headers: &[httparse::Header<'_>]) -> anyhow::Result<usize> {
    let Some(header) = headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"))
    else {
        bail!("a request without Content-Length");
    };
    let length = std::str::from_utf8(header.value)?.parse().context("Content-Length")?;
    ensure!(length < BUFFER_BYTES_MAX, "a body of {length} bytes");
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_when_all_of_it_is_there() {
        let bytes = b"POST /17 HTTP/1.1\r\nHost: a\r\ncontent-LENGTH: 2\r\n\r\n{}POST /1";
        let length = bytes.len() - "POST /1".len();
        for end in 0..length {
            assert_eq!(Request::parse(&bytes[..end]).unwrap(), None, "{end}");
        }
        let request = Request { subscription: 17, body: b"{}", length };
        assert_eq!(Request::parse(bytes).unwrap(), Some(request));
    }

    #[test]
    fn what_is_no_delivery_is_refused() {
        for (case, bytes) in [
            ("method", "GET /1 HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}"),
            ("path", "POST /one HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}"),
            ("chunks", "POST /1 HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"),
            ("length", "POST /1 HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n"),
        ] {
            assert!(Request::parse(bytes.as_bytes()).is_err(), "{case}");
        }
    }
}
