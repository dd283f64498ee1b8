//! What the receiver answers, and how it misbehaves.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

/// One answer of the receiver.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    /// Held back until it opens.
    pub(crate) gate: Option<Gate>,
    /// Waited before the first byte.
    pub(crate) delay: Duration,
    /// The bytes sent.
    pub(crate) bytes: Vec<u8>,
    /// What becomes of the connection after them.
    pub(crate) ending: Ending,
}

/// What becomes of a connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The next request may come.
    KeepAlive,
    /// Closed in good order.
    Close,
    /// Torn down with a reset.
    Reset,
    /// Left open in silence until the other side closes it.
    Stall,
}

impl Reply {
    /// A plain answer with an empty body.
    pub(crate) fn status(status: u16) -> Self {
        Self::with(status, "", b"")
    }

    /// An answer with one header more.
    pub(crate) fn header(status: u16, name: &str, value: &str) -> Self {
        Self::with(status, &format!("{name}: {value}\r\n"), b"")
    }

    /// An answer with a body.
    pub(crate) fn body(status: u16, body: &[u8]) -> Self {
        Self::with(status, "", body)
    }

    fn with(status: u16, header: &str, body: &[u8]) -> Self {
        let head = format!("HTTP/1.1 {status} Scripted\r\ncontent-length: {}\r\n{header}\r\n", body.len());
        Self::raw(&[head.as_bytes(), body].concat(), Ending::KeepAlive)
    }

    /// These bytes and no others.
    pub(crate) fn raw(bytes: &[u8], ending: Ending) -> Self {
        Self { gate: None, delay: Duration::ZERO, bytes: bytes.to_vec(), ending }
    }

    /// No answer at all.
    pub(crate) fn stall() -> Self {
        Self::raw(b"", Ending::Stall)
    }

    /// A reset in place of an answer.
    pub(crate) fn reset() -> Self {
        Self::raw(b"", Ending::Reset)
    }

    /// The same answer, so much later.
    pub(crate) fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// The same answer, once the gate lets it pass.
    pub(crate) fn behind(self, gate: &Gate) -> Self {
        Self { gate: Some(gate.clone()), ..self }
    }
}

/// Holds answers back until the test lets them go.
#[derive(Clone, Debug)]
pub(crate) struct Gate(Arc<Semaphore>);

impl Gate {
    /// A gate that lets nothing pass.
    pub(crate) fn shut() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Lets so many answers pass, whether they wait already or come later.
    pub(crate) fn pass(&self, answers: usize) {
        self.0.add_permits(answers);
    }

    /// Lets all answers pass from now on.
    pub(crate) fn open(&self) {
        self.0.close();
    }

    /// Waits to be let pass.
    pub(crate) async fn wait(&self) {
        // An error says that the gate stands open.
        if let Ok(permit) = self.0.acquire().await {
            permit.forget();
        }
    }
}
