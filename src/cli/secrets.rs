//! `posthorn secrets`: encrypting what is stored anew, and mending what cannot be read.

use clap::{Args, Subcommand};
use posthorn_domain::subscription::SecretField;

use super::{Stop, print};
use crate::app;
use crate::config::Config;
use crate::store::{self, Resealed, SealOptions, Store};

/// What to do with the secrets in `DATABASE_URL`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Encrypt with the key what is encrypted with the previous one or stands in clear, and mend rows in which it is
    /// mixed; nodes that know both may run meanwhile.
    ///
    /// Each row is read again before it is committed. What no key opens stays as it is: it is named, and the exit code
    /// is 1.
    Rotate {
        /// Encrypt secrets in clear, too, that came after all were encrypted. Without it they are refused: whoever can
        /// write to the database may have put them there.
        #[arg(long)]
        accept_clear: bool,

        /// Give up rows of which no key opens anything, so that the service starts without the key they name: they show
        /// as unreadable until their secrets are set anew.
        #[arg(long)]
        give_up: bool,
    },
}

/// Runs the command.
pub async fn run(Arguments { act }: Arguments, config: &Config) -> Result<(), Stop> {
    let Act::Rotate { accept_clear, give_up } = act;
    let done = rotate(config, SealOptions { accept_clear, give_up }).await;
    let Resealed { written, mended, unreadable, named } = done.map_err(Stop::failed)?;
    print(&format!("encrypted the secrets of {written} subscriptions"))?;
    if mended > 0 {
        print(&format!("mended {mended} subscriptions that could not be read"))?;
    }
    if unreadable == 0 {
        return Ok(());
    }
    for (id, fields) in &named {
        let fields: Vec<_> = fields.iter().map(|field| SecretField::as_str(*field)).collect();
        print(&format!("unreadable {id} {}", fields.join(", ")))?;
    }
    Err(Stop::Failed(format!(
        "POSTHORN_ENCRYPTION_KEY: {unreadable} subscriptions have secrets that neither it nor \
         POSTHORN_PREVIOUS_ENCRYPTION_KEY opens"
    )))
}

async fn rotate(config: &Config, options: SealOptions) -> Result<Resealed, store::Error> {
    let store = Store::connect(&app::store_settings(config)).await?;
    store.migrations().await?;
    let done = store.seal_anew(options).await;
    store.close().await;
    done
}
