//! The database: every table and every query, on PostgreSQL and on SQLite.
//!
//! The database is the queue: an event and its delivery are one commit, and so are an attempt and
//! what it meant. Nothing outside this module knows a table; it hands out the domain's own types.
//!
//! Four paths are hot and written by hand: [`intake`] (accept a batch), [`outcomes`] (record a
//! batch), [`lanes`] (load a lane's page, find lanes with work). The rest goes through sea-orm.
//!
//! Times are whole milliseconds ([`Timestamp`](posthorn_domain::time::Timestamp)) and come in as
//! arguments; no query asks the database's clock.

mod api_keys;
pub mod arrivals;
mod attempts;
mod audit;
mod backlog;
mod capacity;
pub mod cluster;
mod columns;
mod connect;
mod connections;
mod database;
mod deliveries;
mod delivery_list;
mod disk;
#[expect(unreachable_pub, reason = "sea-orm writes `pub` on what it derives")]
mod entity;
mod error;
mod everyday_names;
mod files;
mod held;
pub mod intake;
mod lane_wide;
pub mod lanes;
mod lock;
pub mod notices;
pub mod outcomes;
mod own_schema;
pub mod retention;
mod schema;
mod secrets;
pub mod shared_cache;
mod sqlite;
mod stats;
mod stored_bytes;
mod subscriptions;
mod tenants;
mod tx;
mod vault;
mod version;

use std::sync::Arc;

use sea_orm::sqlx::pool::PoolConnection;
use sea_orm::sqlx::{Sqlite, SqlitePool};
use tokio::sync::{Mutex, MutexGuard, Semaphore};
use tokio_util::sync::CancellationToken;

pub use connect::Settings;
use connections::Connections;
use database::Database;
pub use deliveries::{Change, Replayed};
pub use error::Error;
pub use lock::InstanceLock;
use own_schema::OwnSchema;
pub use secrets::{Resealed, SealOptions, Sealed};
pub use subscriptions::{LaneHealth, LaneStart, Update};

/// The database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    orm: Database,
    /// The same connections, for what may take longer than anybody waits for: housekeeping.
    patient: Database,
    /// For what lanes and leases need: by primary keys and few indexes, planned once.
    lanes: Database,
    pool: Pool,
    connections: Connections,
    turn: WriteTurn,
    /// Of transactions that run in tasks of their own.
    transactions: Arc<Semaphore>,
    vault: vault::Vault,
    /// Of SQLite: the process before left its log behind.
    was_killed: bool,
    /// Cancelled once the disk has failed.
    disk_failed: CancellationToken,
}

/// What is asked beside sea-orm.
#[derive(Clone, Debug)]
enum Pool {
    Postgres {
        /// Where a connection of one's own can be had.
        direct_url: Arc<str>,
        own_schema: OwnSchema,
    },
    Sqlite(SqlitePool),
}

/// SQLite takes one writer at a time and lets the others poll; here they queue up. PostgreSQL needs no such thing.
///
/// The writers of the hot paths go first: all other transactions stand in a queue of their own, of which only the
/// first stands in that of the writers. So a writer waits for one of them at most, however many there are.
///
/// With the turn comes the connection of the hot paths. Both share one, since a connection forgets every
/// page that it holds once another one has written.
#[derive(Clone, Debug)]
struct WriteTurn(Option<Arc<Turns>>);

#[derive(Debug, Default)]
struct Turns {
    writers: Mutex<Option<PoolConnection<Sqlite>>>,
    others: Mutex<()>,
}

/// The turn of a transaction that is no hot writer's.
type OtherTurn<'a> = (MutexGuard<'a, ()>, MutexGuard<'a, Option<PoolConnection<Sqlite>>>);

impl WriteTurn {
    /// The turn of a hot writer.
    async fn take(&self) -> Option<MutexGuard<'_, Option<PoolConnection<Sqlite>>>> {
        match &self.0 {
            Some(turns) => Some(turns.writers.lock().await),
            None => None,
        }
    }

    /// The turn of any other transaction.
    async fn take_behind_writers(&self) -> Option<OtherTurn<'_>> {
        let turns = self.0.as_ref()?;
        // Held to the end, so that the next one comes behind the writers that wait by then.
        let first = turns.others.lock().await;
        Some((first, turns.writers.lock().await))
    }
}
