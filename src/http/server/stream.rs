//! The bytes of a connection on their way to hyper and back.
//!
//! - Reads are of less than 8 KiB each: hyper doubles a connection's buffer with each read that fills it, and keeps it
//!   for as long as the connection lives.
//! - A head beyond 8 KiB needs room in memory ([`super::connections`]), and is not read on before there is some.
//! - A line of a head or of trailers that ends in a bare LF is refused ([`posthorn_domain::framing`]): hyper gets a NUL
//!   in its place, to which it answers 400 and ends the connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use posthorn_domain::framing::Framing;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::client::Client;

/// Read at once, and what a head may have without asking: less than hyper's smallest buffer, 8 KiB.
const PIECE: usize = 8 * 1024 - 64;
/// Room for a head is taken in steps of so many bytes.
const ROOM_STEP: usize = 8 * 1024;
/// How soon room is asked for again.
const ROOM_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// What hyper gets in place of a bare LF: no NUL is allowed anywhere, and it looks at a head as soon as that ends.
const MALFORMED: &[u8] = b"\0\r\n\r\n";

/// A connection's stream, watched.
pub(super) struct Watched<S> {
    stream: S,
    client: Client,
    framing: Framing,
    /// What is still to be handed to hyper once a bare LF came; nothing comes after it.
    malformed: Option<&'static [u8]>,
    /// Bytes of the head that there is room for.
    head_room: usize,
    /// Room is asked for again after it.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, client: Client) -> Self {
        Self { stream, client, framing: Framing::default(), malformed: None, head_room: PIECE, waiting: None }
    }

    /// How many bytes of a head may be read now; none where there is no room.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        loop {
            let head = self.client.head_bytes();
            if head == 0 {
                self.head_room = PIECE;
            }
            if head < self.head_room {
                self.waiting = None;
                return Poll::Ready(self.head_room - head);
            }
            if let Some(waiting) = &mut self.waiting {
                ready!(waiting.as_mut().poll(cx));
            }
            self.waiting = None;
            if self.client.room_for_head(u64::try_from(ROOM_STEP).unwrap_or(u64::MAX), now()) {
                self.head_room += ROOM_STEP;
            } else {
                self.waiting = Some(Box::pin(sleep(ROOM_POLL_INTERVAL)));
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(rest) = this.malformed {
            let (now, later) = rest.split_at(rest.len().min(buffer.remaining()));
            buffer.put_slice(now);
            this.malformed = Some(later);
            return Poll::Ready(Ok(()));
        }
        let room = ready!(this.poll_room(cx));
        let mut piece = [0; PIECE];
        let most = room.min(buffer.remaining());
        let mut read = ReadBuf::new(piece.get_mut(..most.min(PIECE)).unwrap_or_default());
        ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
        let bytes = read.filled();
        this.client.received(bytes.len(), now());
        match this.framing.find_bare_lf(bytes) {
            None => buffer.put_slice(bytes),
            Some(at) => {
                buffer.put_slice(bytes.get(..at).unwrap_or_default());
                let (now, later) = MALFORMED.split_at(MALFORMED.len().min(buffer.remaining()));
                buffer.put_slice(now);
                this.malformed = Some(later);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.client.writes(now());
        let wrote = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.client.wrote(wrote, now());
        Poll::Ready(Ok(wrote))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.client.writes(now());
        let wrote = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, pieces))?;
        self.client.wrote(wrote, now());
        Poll::Ready(Ok(wrote))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.client.flushed(now());
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.client.writes(now());
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn now() -> Instant {
    Instant::now()
}
