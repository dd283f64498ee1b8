//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;
use posthorn::api::document;
use posthorn::app::App;
use posthorn::cli::{demo, keys, listen, migrate, secrets};
use posthorn::config::{Config, LogFormat};
use posthorn::telemetry;
use posthorn_domain::terminal;

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

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Arguments::parse().command.unwrap_or(Command::Serve) {
        Command::Serve => serve().await,
        Command::Migrate(arguments) => {
            with_config(async |config| migrate::run(arguments, &config).await).await
        }
        Command::Keys(arguments) => with_config(async |config| keys::run(arguments, &config).await).await,
        Command::Secrets(arguments) => {
            with_config(async |config| secrets::run(arguments, &config).await).await
        }
        Command::Openapi { yaml } => {
            print(&if yaml { document::yaml() } else { document::json() });
            Ok(())
        }
        Command::Listen(arguments) => listen::run(arguments).await.map_err(|error| error.to_string()),
        Command::Demo(arguments) => demo::run(arguments).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => {
            complain(&line);
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<(), String> {
    with_config(async |config| {
        let app = App::start(&config).await.map_err(|error| error.to_string())?;
        app.run().await.map_err(|error| error.to_string())
    })
    .await
}

/// Reads the configuration and starts logging as it says.
async fn with_config(work: impl AsyncFnOnce(Config) -> Result<(), String>) -> Result<(), String> {
    let config = Config::load().map_err(|error| error.to_string())?;
    let format = match config.log_format {
        LogFormat::Text => telemetry::Format::Text,
        LogFormat::Json => telemetry::Format::Json,
    };
    telemetry::init(format).map_err(|error| error.to_string())?;
    for variable in &config.readable_by_others {
        tracing::warn!(
            variable,
            "every user of this machine may read the secret's file: chmod 600 would end that"
        );
    }
    work(config).await
}

#[expect(clippy::print_stdout, reason = "it is what was asked for")]
fn print(text: &str) {
    println!("{}", text.trim_end());
}

#[expect(clippy::print_stderr, reason = "logs may not have been started yet")]
fn complain(line: &str) {
    eprintln!("posthorn: {}", terminal::one_line(line));
}
