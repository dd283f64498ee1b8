//! Commands beside `serve`, one file each.

pub mod demo;
pub mod keys;
pub mod listen;
pub mod migrate;
pub mod receiver;
pub mod secrets;

use std::io::{self, Write as _};

use posthorn_domain::terminal;

/// Prints a line of what was asked for, which may hold what strangers wrote. Who reads may have gone, as `head` does.
fn print(line: &str) -> Result<(), String> {
    writeln!(io::stdout(), "{}", terminal::one_line(line)).map_err(|error| error.to_string())
}
