//! The endpoint's side of an HTTP/2 connection, frame by frame (RFC 9113 §4.1): it can say what no
//! HTTP/2 server would.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// `:status: 200` in HPACK's static table (RFC 7541, appendix A).
pub(super) const STATUS_200: &[u8] = &[0x88];

#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

pub(super) struct Frames {
    pub(super) stream: TlsStream<TcpStream>,
}

impl Frames {
    /// Takes the client's preface and sends the settings: none of its own. None where the
    /// connection ended.
    pub(super) async fn accept(acceptor: &TlsAcceptor, stream: TcpStream) -> Option<Self> {
        let mut stream = acceptor.accept(stream).await.ok()?;
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.ok()?;
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut frames = Self { stream };
        frames.write(SETTINGS, 0, 0, &[]).await.ok()?;
        Some(frames)
    }

    /// The next frame; none where the connection ended.
    pub(super) async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await.ok()?;
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, &byte| number << 8 | u32::from(byte));
        let mut payload = vec![0; number(&head[..3]).try_into().unwrap()];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind: head[3], flags: head[4], stream: number(&head[5..]), payload })
    }

    /// Reads on to the end of a request, and says which stream it is; none where the connection
    /// ended. Settings and pings are answered meanwhile.
    pub(super) async fn request(&mut self) -> Option<u32> {
        loop {
            let frame = self.read().await?;
            match frame.kind {
                DATA | HEADERS if frame.flags & END_STREAM != 0 => return Some(frame.stream),
                SETTINGS | PING if frame.flags & ACK == 0 => {
                    let answer: &[u8] = if frame.kind == PING { &frame.payload } else { &[] };
                    self.write(frame.kind, ACK, 0, answer).await.ok()?;
                }
                _ => {}
            }
        }
    }

    pub(super) async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.stream.write_all(&frame(kind, flags, stream, payload)).await?;
        self.stream.flush().await
    }

    /// An answer without a body.
    pub(super) async fn answer(&mut self, stream: u32) {
        self.write(HEADERS, END_HEADERS | END_STREAM, stream, STATUS_200).await.unwrap();
    }
}

/// The bytes of one frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// A header in HPACK, spelled out (RFC 7541 §6.2.2). The value's length is below 127 or, in more
/// bytes, at most 16,510.
pub(super) fn header(name: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, u8::try_from(name.len()).unwrap()];
    bytes.extend(name.as_bytes());
    match value.len().checked_sub(127) {
        None => bytes.push(value.len().try_into().unwrap()),
        Some(rest) => {
            let (low, high) = (rest % 128, rest / 128);
            bytes.extend([127, u8::try_from(low).unwrap() | 128, high.try_into().unwrap()]);
        }
    }
    bytes.extend(value);
    bytes
}

/// `last` is the highest stream that was taken.
pub(super) fn go_away(last: u32, code: u32) -> Vec<u8> {
    [last.to_be_bytes(), code.to_be_bytes()].concat()
}
