//! Closing in stages (RFC 9112 §9.6): a client that is refused while it still sends hears why.
//!
//! A socket closed with bytes unread is reset, and the reset can overtake the answer. So after a
//! refusal our side is closed first, and what still comes is read and thrown away for a little
//! while, without keeping any of it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long what comes after a refusal is thrown away.
const TIME: Duration = Duration::from_secs(1);
/// How much of it.
const BYTES: usize = 16 * 1024 * 1024;
/// Read and thrown away at once.
const PIECE: usize = 16 * 1024;

/// Whether a connection's last answer was a refusal, so that part of its request may be unread.
#[derive(Clone, Debug, Default)]
pub(super) struct Refused(Arc<AtomicBool>);

impl Refused {
    /// Notes what the last answer was.
    pub(super) fn note(&self, refused: bool) {
        self.0.store(refused, Ordering::Relaxed);
    }
}

/// A connection that closes in stages where its last answer was a refusal.
pub(super) struct Lingering<S> {
    stream: S,
    refused: Refused,
    closing: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<S: AsyncRead + Unpin> Lingering<S> {
    pub(super) fn new(stream: S, refused: Refused) -> Self {
        Self { stream, refused, closing: None }
    }

    /// Throws away what comes, until the other side closes or a bound is reached.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (time, left) = self.closing.get_or_insert_with(|| (Box::pin(sleep(TIME)), BYTES));
        let mut piece = [0; PIECE];
        while *left > 0 && time.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut piece);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => *left = left.saturating_sub(buffer.filled().len()),
                // It closed, or broke.
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closing.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        if self.refused.0.load(Ordering::Relaxed) {
            ready!(self.poll_drain(cx));
        }
        Poll::Ready(Ok(()))
    }
}
