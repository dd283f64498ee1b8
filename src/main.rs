//! The command line.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;
use posthorn::api::document;
use posthorn::app;
use posthorn::cli::{self, Stop, demo, keys, listen, migrate, secrets};
use posthorn::config::{Config, LogFormat, UnknownName};
use posthorn::telemetry::{self, output};
use rustls::crypto::aws_lc_rs;

/// A tenth to a fifth less CPU for each event than with glibc's, for some 15 MiB more of memory.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Webhook delivery in order, at least once, at the pace each endpoint can bear.
///
/// Posthorn takes events in over HTTP, answers 202 once they are on disk, and delivers each to its
/// subscription's endpoint, signed, with retries. Try `posthorn demo` first.
///
/// The service is configured by environment variables; README.md has the table.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Migrate the database and serve (what no subcommand means, too).
    Serve,
    /// Change the database's schema without serving.
    Migrate(migrate::Arguments),
    /// Make, list and revoke API keys.
    Keys(keys::Arguments),
    /// Encrypt what is stored with another key.
    Secrets(secrets::Arguments),
    /// Print the OpenAPI document; needs no database.
    Openapi {
        /// As YAML instead of JSON.
        #[arg(long)]
        yaml: bool,
    },
    /// Receive webhooks on this machine: prints, verifies and answers what arrives.
    Listen(listen::Args),
    /// See it work: serve on a database of its own, with a receiver beside it, and send a handful
    /// of events through, one of which fails at first.
    Demo(demo::Arguments),
}

/// How long the end waits for blocking tasks; one that hangs ends with the process.
const BLOCKING_TASKS_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    // Libraries that bring TLS take the process's provider. Nothing installed one before, and two are linked in.
    let _ = aws_lc_rs::default_provider().install_default();
    let command = Arguments::parse().command.unwrap_or(Command::Serve);
    let done = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let done = runtime.block_on(run(command));
            runtime.shutdown_timeout(BLOCKING_TASKS_TIMEOUT);
            done
        }
        Err(error) => Err(Stop::Failed(format!("no threads: {error}"))),
    };
    let code = match done {
        // As it is with whatever is piped into `head`.
        Ok(()) | Err(Stop::ReaderGone) => ExitCode::SUCCESS,
        Err(Stop::Failed(reason)) => {
            telemetry::complain(&reason);
            ExitCode::FAILURE
        }
    };
    output::flush();
    code
}

async fn run(command: Command) -> Result<(), Stop> {
    match command {
        Command::Serve => with_config(async |config| app::serve(&config).await.map_err(Stop::failed)).await,
        Command::Migrate(arguments) => {
            with_config(async |config| migrate::run(arguments, &config).await).await
        }
        Command::Keys(arguments) => with_config(async |config| keys::run(arguments, &config).await).await,
        Command::Secrets(arguments) => {
            with_config(async |config| secrets::run(arguments, &config).await).await
        }
        Command::Openapi { yaml } => {
            let document = if yaml { document::yaml() } else { document::json() };
            cli::print_text(document.trim_end())
        }
        Command::Listen(arguments) => listen::run(arguments).await,
        Command::Demo(arguments) => demo::run(arguments).await,
    }
}

/// Reads the configuration and starts logging as it says.
async fn with_config(work: impl AsyncFnOnce(Config) -> Result<(), Stop>) -> Result<(), Stop> {
    let config = Config::load().map_err(Stop::failed)?;
    let format = match config.log_format {
        LogFormat::Text => telemetry::Format::Text,
        LogFormat::Json => telemetry::Format::Json,
    };
    telemetry::init(format).map_err(Stop::failed)?;
    for variable in &config.readable_by_others {
        tracing::warn!(
            variable,
            "every user of this machine may read the secret's file: chmod 600 would end that"
        );
    }
    for UnknownName { name, nearest } in &config.unknown {
        tracing::warn!(name, nearest, "there is no such setting, and nothing reads it");
    }
    work(config).await
}
