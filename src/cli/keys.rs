//! `posthorn keys`: API keys without the service, for the first one and when none is at hand.

use std::time::Duration;

use clap::{Args, Subcommand};
use posthorn_domain::api_key::{Access, ApiKey, KeyName, KeyRecord, LastAdminKey, Revocation};
use posthorn_domain::audit::{Actor, Stamp};
use posthorn_domain::id::KeyId;
use posthorn_domain::limits::PAGE_LIMIT_MAX;
use posthorn_domain::tenant::Tenant;
use posthorn_domain::time::Timestamp;
use uuid::Uuid;

use super::{Stop, print};
use crate::app;
use crate::clock::Clock;
use crate::config::Config;
use crate::store::{self, Store};

/// What to do with the keys of `DATABASE_URL`.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Make a key and print it; it is shown this once.
    Create {
        /// For people: who has it.
        #[arg(long, default_value = "")]
        name: KeyName,
        /// The one tenant whose things it opens; without it, it opens everything.
        #[arg(long)]
        tenant: Option<Tenant>,
        /// After how many hours it opens nothing; without it, it does until it is revoked.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        expires_in_hours: Option<u32>,
    },
    /// List the keys, the newest first.
    List,
    /// End a key; running nodes refuse it within 5 seconds. With `POSTHORN_PROFILE=production` the last admin's key in
    /// force stays, unless `POSTHORN_ADMIN_KEY` is set.
    Revoke {
        /// As the list shows it.
        id: KeyId,
    },
}

/// Runs the command.
pub async fn run(arguments: Arguments, config: &Config) -> Result<(), Stop> {
    let store = open(config).await.map_err(Stop::failed)?;
    let done = act(arguments.act, &store, app::last_admin_key(config)).await;
    store.close().await;
    done
}

/// The first key may be made before the service ever ran.
async fn open(config: &Config) -> Result<Store, store::Error> {
    let store = Store::connect(&app::store_settings(config)).await?;
    if store.migrations().await?.iter().any(|(_, applied)| !applied) {
        let _lock = store.lock_instance().await?;
        store.migrate_up().await?;
    }
    Ok(store)
}

async fn act(act: Act, store: &Store, last: LastAdminKey) -> Result<(), Stop> {
    let now = Clock::system().now();
    match act {
        Act::Create { name, tenant, expires_in_hours } => {
            let key = ApiKey::from_random(rand::random());
            let record = KeyRecord {
                id: KeyId(Uuid::now_v7()),
                name,
                access: tenant.map_or(Access::Admin, Access::Tenant),
                created_at: now,
                expires_at: expires_in_hours.map(|hours| now.plus(Duration::from_hours(hours.into()))),
                last_used_at: None,
            };
            store.insert_key(&record, key.digest(), Actor::Command).await.map_err(Stop::failed)?;
            print(key.expose())
        }
        Act::List => list(store).await,
        Act::Revoke { id } => match store
            .revoke_key(id, Stamp { by: Actor::Command, at: now }, last)
            .await
            .map_err(Stop::failed)?
        {
            Revocation::Done(_) => Ok(()),
            Revocation::NotFound => Err(Stop::Failed(format!("{id}: there is no API key with this id"))),
            Revocation::LastAdminKey => Err(Stop::Failed(format!(
                "{id}: no other admin's key is in force, and the production profile needs one: make it first with \
                 posthorn keys create, or set POSTHORN_ADMIN_KEY"
            ))),
        },
    }
}

async fn list(store: &Store) -> Result<(), Stop> {
    let mut page = 1;
    loop {
        let found = store.list_keys(None, page, PAGE_LIMIT_MAX).await.map_err(Stop::failed)?;
        if found.items.is_empty() {
            return Ok(());
        }
        for key in found.items {
            let access =
                key.access.tenant().map_or_else(|| "admin".to_owned(), |name| format!("tenant {name}"));
            let (expires, used) = (or_never(key.expires_at), or_never(key.last_used_at));
            print(&format!("{}  {access}  expires {expires}  used {used}  {}", key.id, key.name.as_str()))?;
        }
        page += 1;
    }
}

fn or_never(time: Option<Timestamp>) -> String {
    time.map_or_else(|| "never".to_owned(), |time| time.to_string())
}
