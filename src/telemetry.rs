//! Logs: to standard error, so that standard output is a command's own.
//!
//! An event is one line, whatever its fields hold: what comes from outside can neither begin a line that looks
//! like ours nor steer the terminal of whoever reads it. Panics are events like all others. Logging never waits
//! for standard error ([`output`]).

pub mod output;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::panic::PanicHookInfo;

use posthorn_domain::terminal::is_steering;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// What is logged where `RUST_LOG` says nothing.
const DEFAULT_FILTER: &str = "info,sqlx=warn,sea_orm_migration=warn,fred=off";

/// Starts logging; `RUST_LOG` filters as usual.
pub fn init(format: Format) -> Result<(), TryInitError> {
    start(format, DEFAULT_FILTER)
}

fn start(format: Format, default_filter: &str) -> Result<(), TryInitError> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default_filter));
    let colours = format == Format::Text && io::stderr().is_terminal();
    let writer = move || OneLine { colours };
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(colours);
    match format {
        Format::Text => logs.finish().try_init(),
        Format::Json => logs.json().finish().try_init(),
    }?;
    std::panic::set_hook(Box::new(note_panic));
    Ok(())
}

/// Starts logging for a command that speaks for itself: only what is wrong, unless `RUST_LOG` says
/// otherwise.
pub fn init_quiet() -> Result<(), TryInitError> {
    start(Format::Text, "error")
}

/// What the standard library would print in lines of its own; the backtrace where `RUST_BACKTRACE` asks for it.
fn note_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string);
    let reason = panic.payload_as_str().unwrap_or("no text");
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(location, reason, backtrace, "a panic");
}

/// Writes each event, which the subscriber hands over whole, as one line.
struct OneLine {
    /// The subscriber's own escapes stay: those that colour. Whatever else a field holds is replaced.
    colours: bool,
}

impl io::Write for OneLine {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        output::write(one_line(&String::from_utf8_lossy(event), self.colours));
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Says on standard error why a command ends, in one line, after what was logged.
pub fn complain(reason: &str) {
    output::write(one_line(&format!("posthorn: {reason}"), false));
}

/// `event` with what would steer a terminal in the escapes that JSON and people know.
fn one_line(event: &str, colours: bool) -> String {
    let text = event.strip_suffix('\n').unwrap_or(event);
    let mut line = String::with_capacity(event.len());
    for (at, c) in text.char_indices() {
        match c {
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            '\u{1b}' if colours && is_colour(text.get(at..).unwrap_or_default()) => line.push(c),
            c if is_steering(c) => {
                // Writing to a string cannot fail.
                let _ = write!(line, "\\u{:04x}", u32::from(c));
            }
            c => line.push(c),
        }
    }
    line.push('\n');
    line
}

/// Whether `text` begins with a sequence that changes colours and nothing else ("SGR", ECMA-48 §8.3.117).
fn is_colour(text: &str) -> bool {
    let Some(sequence) = text.strip_prefix("\u{1b}[") else { return false };
    sequence.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m')
}

#[cfg(test)]
#[allow(clippy::print_stderr, clippy::panic, reason = "what stands on standard error is what is tested")]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn an_event_is_one_line() {
        for (event, colours, line) in [
            ("plain, even ü 漢\n", false, "plain, even ü 漢\n"),
            ("a\r\n2026 INFO forged\n", false, "a\\r\\n2026 INFO forged\n"),
            ("\0\u{7}\u{1b}[31m\u{7f}\u{9b}2J\t", false, "\\u0000\\u0007\\u001b[31m\\u007f\\u009b2J\\t\n"),
            ("\u{1b}[31mred\u{7}\n", true, "\u{1b}[31mred\\u0007\n"),
            ("\u{1b}[1;31m\u{1b}[0m\n", true, "\u{1b}[1;31m\u{1b}[0m\n"),
            ("\u{1b}[2J\u{1b}]0;title\u{7}\u{1b}\n", true, "\\u001b[2J\\u001b]0;title\\u0007\\u001b\n"),
            ("\u{80}\u{9f}\u{9b}31m\n", true, "\\u0080\\u009f\\u009b31m\n"),
            ("a\u{202e}b\u{2066}c\u{2028}d\n", false, "a\\u202eb\\u2066c\\u2028d\n"),
        ] {
            assert_eq!(one_line(event, colours), line, "{event:?}");
        }
    }

    #[test]
    fn lines_of_json_stay_json() {
        let event = "{\"a\":\"\u{7f}\u{85}\u{202e}\"}\n";
        let read: serde_json::Value = serde_json::from_str(&one_line(event, false)).unwrap();
        assert_eq!(read["a"], "\u{7f}\u{85}\u{202e}");
    }

    const FORMAT: &str = "POSTHORN_TEST_PANIC";

    /// Hooks and subscribers are the process's, so it takes one of its own.
    #[test]
    fn panics_are_events() {
        for (format, expected) in [
            ("text", r#"reason="boom\n\u{1b}[31m2026 INFO forged""#),
            ("json", r#""reason":"boom\n\u001b[31m2026 INFO forged""#),
        ] {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "telemetry::tests::panics_where_it_is_asked", "--nocapture"]);
            command.env(FORMAT, format).env_remove("RUST_LOG").env_remove("RUST_BACKTRACE");
            let output = command.output().unwrap();
            let log = String::from_utf8(output.stderr).unwrap();
            let lines: Vec<_> = log.lines().filter(|line| line.contains("forged")).collect();
            assert!(lines.len() == 1 && lines[0].contains(expected), "{log}");
            assert!(lines[0].contains("src/telemetry.rs:"), "{log}");
        }
    }

    #[test]
    fn panics_where_it_is_asked() {
        let Ok(format) = std::env::var(FORMAT) else { return };
        start(if format == "json" { Format::Json } else { Format::Text }, DEFAULT_FILTER).unwrap();
        assert!(std::thread::spawn(|| panic!("boom\n\u{1b}[31m2026 INFO forged")).join().is_err());
        output::flush();
    }
}
