//! Commands beside `serve`, one file each.

pub mod demo;
pub mod keys;
pub mod listen;
pub mod migrate;
pub mod receiver;
pub mod secrets;

use std::fmt::Display;
use std::io::{self, Write as _};

use posthorn_domain::terminal;

/// Why a command ends early.
#[derive(Debug)]
pub enum Stop {
    /// Nobody reads what it prints any more, as after `posthorn keys list | head`.
    ReaderGone,
    /// The command failed. The text is one line for the operator.
    Failed(String),
}

impl Stop {
    /// It failed for this reason.
    pub fn failed(reason: impl Display) -> Self {
        Self::Failed(reason.to_string())
    }
}

impl From<String> for Stop {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

impl From<&str> for Stop {
    fn from(reason: &str) -> Self {
        Self::failed(reason)
    }
}

/// Prints a line on standard output. It may hold what strangers wrote.
fn print(line: &str) -> Result<(), Stop> {
    print_text(&terminal::one_line(line))
}

/// Prints text of our own on standard output, with a line feed behind it.
pub fn print_text(text: &str) -> Result<(), Stop> {
    let mut output = io::stdout().lock();
    let printed = writeln!(output, "{text}").and_then(|()| output.flush());
    printed.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Stop::ReaderGone,
        _ => Stop::Failed(format!("standard output: {error}")),
    })
}
