//! Logs: to standard error, so that standard output is a command's own.

use std::io::IsTerminal as _;

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
const DEFAULT_FILTER: &str = "info,sqlx=warn,sea_orm_migration=warn";

/// Starts logging; `RUST_LOG` filters as usual.
pub fn init(format: Format) -> Result<(), TryInitError> {
    start(format, DEFAULT_FILTER)
}

fn start(format: Format, default_filter: &str) -> Result<(), TryInitError> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default_filter));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        Format::Text => logs.with_ansi(std::io::stderr().is_terminal()).finish().try_init(),
        Format::Json => logs.json().finish().try_init(),
    }
}

/// Starts logging for a command that speaks for itself: only what is wrong, unless `RUST_LOG` says
/// otherwise.
pub fn init_quiet() -> Result<(), TryInitError> {
    start(Format::Text, "error")
}
