//! `posthorn migrate`: the schema without the service.

use clap::{Args, Subcommand};

use super::{Stop, print};
use crate::app;
use crate::config::Config;
use crate::store::{self, Store};

/// What to do with the schema of `DATABASE_URL`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    step: Step,
}

#[derive(Debug, Subcommand)]
enum Step {
    /// Bring it up to date; `serve` does so by itself.
    Up,
    /// Take the newest steps back, and with them what is stored in their tables.
    Down {
        /// How many.
        #[arg(long, default_value_t = 1)]
        steps: u32,
    },
    /// List the steps and which of them are applied.
    Status,
}

/// Runs the command.
pub async fn run(arguments: Arguments, config: &Config) -> Result<(), Stop> {
    for (name, applied) in migrate(arguments.step, config).await.map_err(Stop::failed)? {
        print(&format!("{} {name}", if applied { "applied" } else { "pending" }))?;
    }
    Ok(())
}

/// The steps and whether they are applied, afterwards.
async fn migrate(step: Step, config: &Config) -> Result<Vec<(String, bool)>, store::Error> {
    let store = Store::connect(&app::store_settings(config)).await?;
    match step {
        Step::Up => {
            let _lock = store.lock_instance().await?;
            store.migrate_up().await?;
        }
        Step::Down { steps } => {
            let _lock = store.lock_instance().await?;
            store.migrate_down(steps).await?;
        }
        Step::Status => {}
    }
    let migrations = store.migrations().await?;
    store.close().await;
    Ok(migrations)
}
