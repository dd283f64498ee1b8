//! Writes log lines to standard error from a thread of its own.
//!
//! A full disk, a pipe that is closed or that nobody reads, and a slow terminal cost lines and nothing else:
//! logging never waits. Lines wait in a queue of at most [`BYTES_MAX`]. A line that finds it full, or that cannot be
//! written, is dropped and counted; the count is logged before the next line that can be written.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of lines that wait to be written.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes that a line takes in the queue beside its text.
const LINE_OVERHEAD: usize = 64;
/// How long a stream that takes no bytes without waiting for them is asked again before the line is dropped.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// How long the end of the process waits for the lines that are left.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

static STANDARD_ERROR: LazyLock<Output> = LazyLock::new(|| Output::start(io::stderr()));

thread_local! {
    /// The lines that the writing thread logs itself, which it writes at once.
    static OWN: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Hands `line`, which ends with a line feed, to the thread that writes to standard error. Never waits.
pub(super) fn write(line: String) {
    let own = OWN.with_borrow_mut(|own| own.as_mut().map(|lines| lines.extend_from_slice(line.as_bytes())));
    if own.is_none() {
        STANDARD_ERROR.push(line);
    }
}

/// Waits until the lines so far are written, at most a second: the process is about to end.
pub fn flush() {
    STANDARD_ERROR.flush(FLUSH_TIMEOUT);
}

/// The queue in front of a stream.
struct Output(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Lines came.
    came: Condvar,
    /// All lines are written or dropped.
    empty: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<String>,
    bytes: usize,
    /// Lines that were dropped since it was last told.
    dropped: u64,
    /// The thread has lines in hand.
    writing: bool,
}

impl Output {
    fn start(stream: impl Write + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("log".to_owned());
        // Where there is no thread to be had, the queue fills and lines are dropped.
        let _ = thread.spawn(move || of_thread.write_all_to(stream));
        Self(shared)
    }

    fn push(&self, line: String) {
        let mut queue = self.0.queue();
        let bytes = queue.bytes + line.len() + LINE_OVERHEAD;
        if bytes > BYTES_MAX {
            queue.dropped += 1;
            return;
        }
        queue.bytes = bytes;
        queue.lines.push_back(line);
        drop(queue);
        self.0.came.notify_one();
    }

    fn flush(&self, limit: Duration) {
        let busy = |queue: &mut Queue| queue.writing || !queue.lines.is_empty();
        let waited = self.0.empty.wait_timeout_while(self.0.queue(), limit, busy);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Shared {
    /// Only numbers and whole lines are changed under it.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all_to(&self, stream: impl Write) {
        let mut stream = Lines { stream, broken: false };
        loop {
            let (lines, dropped) = self.next();
            let mut lost = dropped;
            for line in lines {
                // What comes after the loss says so first.
                if lost > 0 && stream.write(&loss(lost)).is_ok() {
                    lost = 0;
                }
                if lost > 0 || stream.write(line.as_bytes()).is_err() {
                    lost += 1;
                }
            }
            let mut queue = self.queue();
            queue.dropped += lost;
            queue.writing = false;
            if queue.lines.is_empty() {
                self.empty.notify_all();
            }
        }
    }

    /// Waits for lines and takes all of them, with the count of those that were dropped.
    fn next(&self) -> (VecDeque<String>, u64) {
        let waited = self.came.wait_while(self.queue(), |queue| queue.lines.is_empty());
        let mut queue = waited.unwrap_or_else(PoisonError::into_inner);
        queue.writing = true;
        queue.bytes = 0;
        (std::mem::take(&mut queue.lines), std::mem::take(&mut queue.dropped))
    }
}

/// The line that tells of lost ones, in the log's own format; empty where it is filtered out.
fn loss(lines: u64) -> Vec<u8> {
    OWN.set(Some(Vec::new()));
    tracing::warn!(lines, "log lines are lost: they could not be written");
    OWN.take().unwrap_or_default()
}

/// Writes whole lines, and never goes on in the middle of one that was broken off.
struct Lines<W> {
    stream: W,
    broken: bool,
}

impl<W: Write> Lines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.broken {
            self.write_bytes(b"\n")?;
            self.broken = false;
        }
        self.write_bytes(line)
    }

    fn write_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut left = bytes;
        let mut busy_since = None;
        while !left.is_empty() {
            match self.stream.write(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.broken = true;
                    left = left.get(written..).unwrap_or_default();
                    busy_since = None;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let since = *busy_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > BUSY_TIMEOUT {
                        return Err(error);
                    }
                    std::thread::sleep(BUSY_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
        self.broken = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A stream that takes so many bytes as it is told, one permission for each write.
    struct Stream {
        allowed: mpsc::Receiver<io::Result<usize>>,
        written: Arc<Mutex<String>>,
    }

    impl Write for Stream {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = self.allowed.recv().unwrap_or(Ok(usize::MAX))?.min(bytes.len());
            self.written.lock().unwrap().push_str(std::str::from_utf8(&bytes[..taken]).unwrap());
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn start() -> (Output, mpsc::Sender<io::Result<usize>>, Arc<Mutex<String>>) {
        let (allow, allowed) = mpsc::channel();
        let written = Arc::new(Mutex::new(String::new()));
        let output = Output::start(Stream { allowed, written: Arc::clone(&written) });
        (output, allow, written)
    }

    /// Whether the lines are those, but for the line that tells of a loss: tests have no subscriber.
    fn flushed(output: &Output, written: &Mutex<String>) -> String {
        output.flush(Duration::from_secs(20));
        written.lock().unwrap().clone()
    }

    #[test]
    fn lines_come_out_in_order() {
        let (output, allow, written) = start();
        drop(allow);
        for line in 0..1000 {
            output.push(format!("{line}\n"));
        }
        let written = flushed(&output, &written);
        assert!(written.lines().eq((0..1000).map(|line| line.to_string())), "{written}");
    }

    #[test]
    fn who_logs_never_waits_for_a_stream_that_takes_nothing() {
        let (output, allow, written) = start();
        let line = format!("{}\n", "x".repeat(1023));
        // 10 times what may wait.
        for _ in 0..BYTES_MAX / 1024 * 10 {
            output.push(line.clone());
        }
        let queue = output.0.queue();
        assert!(queue.bytes <= BYTES_MAX && queue.dropped > 0, "{} {}", queue.bytes, queue.dropped);
        drop(queue);
        output.flush(Duration::from_millis(20));
        assert_eq!(*written.lock().unwrap(), "");
        drop(allow);
        let written = flushed(&output, &written);
        assert!(written.len() <= 2 * BYTES_MAX && written.lines().all(|written| written == line.trim()));
    }

    #[test]
    fn a_line_that_fails_is_dropped_and_counted() {
        let (output, allow, written) = start();
        let full = || Err(io::ErrorKind::StorageFull.into());
        for allowed in [full(), Ok(3), full(), Ok(100), Ok(100)] {
            allow.send(allowed).unwrap();
        }
        output.push("first\n".to_owned());
        output.flush(Duration::from_secs(20));
        assert_eq!(output.0.queue().dropped, 1);
        output.push("second\n".to_owned());
        output.flush(Duration::from_secs(20));
        assert_eq!(output.0.queue().dropped, 1, "the loss before it was told of");
        // It begins a line of its own.
        output.push("third\n".to_owned());
        assert_eq!(flushed(&output, &written), "sec\nthird\n");
        assert_eq!(output.0.queue().dropped, 0);
    }

    #[test]
    fn a_busy_stream_is_asked_again() {
        let (output, allow, written) = start();
        for allowed in [Err(io::ErrorKind::WouldBlock.into()), Err(io::ErrorKind::Interrupted.into())] {
            allow.send(allowed).unwrap();
        }
        drop(allow);
        output.push("a line\n".to_owned());
        assert_eq!(flushed(&output, &written), "a line\n");
    }
}
