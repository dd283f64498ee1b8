//! Where the lines of HTTP/1.1 requests end (RFC 9112 §2.2).
//!
//! hyper takes a bare LF as the end of a line, in heads and in trailers. A program in front that does not sees other
//! lines, and so other headers or another number of requests. [`Framing`] follows the bytes of a connection from
//! message to message and finds the first LF that no CR stands before.
//!
//! It decides nothing else: hyper reads the same bytes, and refuses by itself what is malformed in other ways. After
//! such a message its connection ends, so what this makes of the rest does not matter.

/// The longest name that is looked for: `transfer-encoding`.
const NAME_BYTES_MAX: usize = 17;

/// Follows the bytes that come in on one connection.
#[derive(Clone, Debug, Default)]
pub struct Framing(State);

#[derive(Clone, Debug)]
enum State {
    /// In a head, or before one.
    Head(Head),
    /// In a body of a known length, with so many bytes to come.
    Length(u64),
    /// In the line that tells a chunk's size.
    Size(Size),
    /// In a chunk, with so many bytes to come, the line end after it among them.
    Chunk(u64),
    /// In the trailers after the last chunk.
    Trailers(Line),
    /// hyper refuses what came, and the connection ends.
    Lost,
}

impl Default for State {
    fn default() -> Self {
        Self::Head(Head::default())
    }
}

/// A line so far.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    bytes: usize,
    after_cr: bool,
}

/// What a byte is to a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Within,
    Ends { empty: bool },
    BareLf,
}

impl Line {
    fn step(&mut self, byte: u8) -> Step {
        match byte {
            b'\n' if self.after_cr => {
                let empty = self.bytes == 0;
                *self = Self::default();
                Step::Ends { empty }
            }
            b'\n' => Step::BareLf,
            b'\r' => {
                self.after_cr = true;
                Step::Within
            }
            _ => {
                self.after_cr = false;
                self.bytes = self.bytes.saturating_add(1);
                Step::Within
            }
        }
    }
}

/// A head so far.
#[derive(Clone, Debug, Default)]
struct Head {
    line: Line,
    /// Whether the request line has ended.
    begun: bool,
    field: Field,
    length: Option<u64>,
    chunked: bool,
    malformed: bool,
}

/// The part of a header line that counts here.
#[derive(Clone, Copy, Debug)]
enum Field {
    Name { bytes: [u8; NAME_BYTES_MAX], len: usize },
    Length(Option<u64>),
    Other,
}

impl Default for Field {
    fn default() -> Self {
        Self::Name { bytes: [0; NAME_BYTES_MAX], len: 0 }
    }
}

impl Head {
    fn step(&mut self, byte: u8) -> Result<Option<State>, BareLf> {
        match self.line.step(byte) {
            Step::BareLf => Err(BareLf),
            // Empty lines before the request line are skipped (RFC 9112 §2.2).
            Step::Ends { empty: true } if !self.begun => Ok(None),
            Step::Ends { empty: true } => Ok(Some(self.body())),
            Step::Ends { empty: false } => {
                self.end_field();
                self.begun = true;
                self.field = Field::default();
                Ok(None)
            }
            Step::Within => {
                if self.begun && byte != b'\r' {
                    self.read(byte);
                }
                Ok(None)
            }
        }
    }

    fn read(&mut self, byte: u8) {
        self.field = match self.field {
            Field::Name { bytes, len } if byte == b':' => match bytes.get(..len) {
                Some(b"content-length") => Field::Length(None),
                Some(b"transfer-encoding") => {
                    self.chunked = true;
                    Field::Other
                }
                _ => Field::Other,
            },
            Field::Name { mut bytes, len } => match bytes.get_mut(len) {
                Some(place) => {
                    *place = byte.to_ascii_lowercase();
                    Field::Name { bytes, len: len + 1 }
                }
                None => Field::Other,
            },
            Field::Length(so_far) => match byte {
                b' ' | b'\t' => self.field,
                b'0'..=b'9' => {
                    let digit = u64::from(byte - b'0');
                    let length = so_far.unwrap_or(0).checked_mul(10).and_then(|ten| ten.checked_add(digit));
                    self.malformed |= length.is_none();
                    Field::Length(length)
                }
                _ => {
                    self.malformed = true;
                    Field::Other
                }
            },
            Field::Other => Field::Other,
        };
    }

    fn end_field(&mut self) {
        if let Field::Length(length) = self.field {
            self.malformed |= length.is_none() || self.length.is_some_and(|before| Some(before) != length);
            self.length = length;
        }
    }

    /// What follows the head. With both a length and chunks hyper goes by the chunks, and then ends the connection.
    const fn body(&self) -> State {
        match self.length {
            _ if self.malformed => State::Lost,
            _ if self.chunked => State::Size(Size { line: EMPTY_LINE, bytes: 0, read: false }),
            Some(length) if length > 0 => State::Length(length),
            _ => State::Head(Head {
                line: EMPTY_LINE,
                begun: false,
                field: Field::Name { bytes: [0; NAME_BYTES_MAX], len: 0 },
                length: None,
                chunked: false,
                malformed: false,
            }),
        }
    }
}

const EMPTY_LINE: Line = Line { bytes: 0, after_cr: false };

/// The line that tells a chunk's size so far.
#[derive(Clone, Copy, Debug)]
struct Size {
    line: Line,
    bytes: u64,
    /// Whether the size has ended; extensions may follow it.
    read: bool,
}

impl Size {
    fn step(&mut self, byte: u8) -> Result<Option<State>, BareLf> {
        match self.line.step(byte) {
            Step::BareLf => Err(BareLf),
            Step::Ends { empty: true } => Ok(Some(State::Lost)),
            Step::Ends { empty: false } if self.bytes == 0 => Ok(Some(State::Trailers(Line::default()))),
            Step::Ends { empty: false } => Ok(Some(State::Chunk(self.bytes.saturating_add(2)))),
            Step::Within => {
                let digit = char::from(byte).to_digit(16).filter(|_| !self.read);
                let Some(digit) = digit else {
                    self.read = true;
                    return Ok(None);
                };
                let size = self.bytes.checked_mul(16).and_then(|size| size.checked_add(u64::from(digit)));
                let Some(size) = size else { return Ok(Some(State::Lost)) };
                self.bytes = size;
                Ok(None)
            }
        }
    }
}

/// An LF that no CR stands before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BareLf;

impl Framing {
    /// Takes the next bytes of the connection. Where a bare LF is among them, its index: nothing after it counts.
    pub fn find_bare_lf(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            let next = match &mut self.0 {
                State::Lost => return None,
                State::Length(left) | State::Chunk(left) => {
                    let here = u64::try_from(bytes.len() - at).unwrap_or(u64::MAX).min(*left);
                    *left -= here;
                    at = at.saturating_add(usize::try_from(here).unwrap_or(usize::MAX));
                    if *left == 0 {
                        self.0 = match self.0 {
                            State::Chunk(_) => {
                                State::Size(Size { line: Line::default(), bytes: 0, read: false })
                            }
                            _ => State::default(),
                        };
                    }
                    continue;
                }
                State::Head(head) => head.step(byte),
                State::Size(size) => size.step(byte),
                State::Trailers(line) => match line.step(byte) {
                    Step::BareLf => Err(BareLf),
                    Step::Ends { empty: true } => Ok(Some(State::default())),
                    Step::Ends { empty: false } | Step::Within => Ok(None),
                },
            };
            match next {
                Ok(Some(state)) => self.0 = state,
                Ok(None) => {}
                Err(BareLf) => {
                    self.0 = State::Lost;
                    return Some(at);
                }
            }
            at += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Where the first bare LF is, with the bytes in pieces of `piece`.
    fn found(bytes: &str, piece: usize) -> Option<usize> {
        let mut framing = Framing::default();
        let mut before = 0;
        for piece in bytes.as_bytes().chunks(piece) {
            if let Some(at) = framing.find_bare_lf(piece) {
                return Some(before + at);
            }
            before += piece.len();
        }
        None
    }

    #[test]
    fn bare_line_feeds_are_found_where_lines_are() {
        let chunked = "POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let length = "POST / HTTP/1.1\r\nhost: a\r\ncontent-LENGTH: \t 3\r\n\r\n";
        for (case, bytes, bare) in [
            ("a whole head", "GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), false),
            ("bare after the request line", "GET / HTTP/1.1\nhost: a\r\n\r\n".to_owned(), true),
            ("bare after a header", "GET / HTTP/1.1\r\nhost: a\nx: y\r\n\r\n".to_owned(), true),
            ("bare at the head's end", "GET / HTTP/1.1\r\nhost: a\r\n\n".to_owned(), true),
            ("empty lines before it", "\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), false),
            ("a bare one before it", "\nGET / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), true),
            ("a body may have any bytes", format!("{length}a\nbGET / HTTP/1.1\r\n\r\n"), false),
            ("bare after a body that ends in CR", format!("{length}ab\r\nGET / HTTP/1.1\r\n\r\n"), true),
            ("a second head", format!("{length}a\nbGET / HTTP/1.1\n\r\n"), true),
            ("chunks may have any bytes", format!("{chunked}3;x\r\na\nb\r\n0\r\n\r\n"), false),
            ("bare after a size", format!("{chunked}3\na\nb\r\n0\r\n\r\n"), true),
            ("trailers", format!("{chunked}1\r\na\r\n0\r\nx: y\r\n\r\n"), false),
            ("bare in trailers", format!("{chunked}1\r\na\r\n0\r\nx: y\nz: 1\r\n\r\n"), true),
            ("bare at their end", format!("{chunked}1\r\na\r\n0\r\n\n"), true),
            ("a head after chunks", format!("{chunked}0\r\n\r\nGET /\n"), true),
            ("a length that is none", "GET / HTTP/1.1\r\ncontent-length: -1\r\n\r\n\n".to_owned(), false),
        ] {
            for piece in [1, 2, 7, 1000] {
                assert_eq!(found(&bytes, piece).is_some(), bare, "{case} in pieces of {piece}");
            }
        }
    }

    proptest! {
        /// Whatever comes, and in whatever pieces, the same LF is found, and it is one that is bare.
        #[test]
        fn pieces_make_no_difference(
            parts in prop::collection::vec(
                prop_oneof![
                    Just("GET / HTTP/1.1\r\n"), Just("content-length: 4\r\n"), Just("transfer-encoding: chunked\r\n"),
                    Just("\r\n"), Just("\n"), Just("\r"), Just("2\r\nab\r\n"), Just("0\r\n"), Just("x: y\r\n"), Just("a"),
                ],
                0..12,
            ),
            piece in 1..9_usize,
        ) {
            let bytes = parts.concat();
            let at = found(&bytes, usize::MAX);
            prop_assert_eq!(found(&bytes, piece), at);
            if let Some(at) = at {
                prop_assert_eq!(bytes.as_bytes()[at], b'\n');
                // The CR before it may be a body's last byte.
                let has_body = parts.iter().any(|part| part.ends_with("4\r\n") || part.ends_with("chunked\r\n"));
                prop_assert!(has_body || at == 0 || bytes.as_bytes()[at - 1] != b'\r');
            }
        }
    }
}
