//! `posthorn secrets`: encrypting what is stored anew.

use clap::{Args, Subcommand};

use super::print;
use crate::app;
use crate::config::Config;
use crate::store::{self, Store};

/// What to do with the secrets in `DATABASE_URL`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Encrypt with the key what is encrypted with the previous one or stands in clear; nodes that know both may run
    /// meanwhile.
    Rotate,
}

/// Runs the command; the error is one line.
pub async fn run(Arguments { act: Act::Rotate }: Arguments, config: &Config) -> Result<(), String> {
    let sealed = rotate(config).await.map_err(|error| error.to_string())?;
    print(&format!("encrypted the secrets of {sealed} subscriptions"))
}

async fn rotate(config: &Config) -> Result<u64, store::Error> {
    let store = Store::connect(&app::store_settings(config)).await?;
    store.check_schema().await?;
    store.check_secrets().await?;
    let sealed = store.seal_anew().await;
    store.close().await;
    sealed
}
