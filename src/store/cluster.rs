//! Nodes and the slots that they hold; on PostgreSQL only, since SQLite has one process.
//!
//! All times are the database's, so nodes whose clocks differ agree on when a lease is over. Whoever locks
//! several slots does so in the order of their numbers.

use std::time::Duration;

use posthorn_domain::cluster::{Epoch, Slot};
use posthorn_domain::id::NodeId;
use posthorn_domain::time::Timestamp;
use sea_orm::sqlx::{self, PgConnection, PgPool};
use uuid::Uuid;

use super::{Error, Pool, Store};

/// The database's clock, in milliseconds.
macro_rules! now {
    () => {
        "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
    };
}

/// One running process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Chosen at its start.
    pub id: NodeId,
    /// Where it runs, for people.
    pub name: String,
    /// Of its program.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// Since it was heard of last.
    pub silent_for: Duration,
    /// It hands its slots over and takes none.
    pub leaving: bool,
}

/// Who holds a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The slot.
    pub slot: Slot,
    /// Who holds it; none where its lease is over.
    pub node: Option<NodeId>,
}

/// The cluster as the database shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// All that were heard of within some leases, the oldest first.
    pub nodes: Vec<Node>,
    /// All slots, in order.
    pub slots: Vec<Holder>,
}

/// A node's sign of life.
#[derive(Clone, Debug)]
pub struct Beat {
    /// Which.
    pub node: NodeId,
    /// See [`Node::name`].
    pub name: String,
    /// See [`Node::version`].
    pub version: &'static str,
    /// See [`Node::leaving`].
    pub leaving: bool,
    /// How long its slots are its own from now on.
    pub lease: Duration,
}

/// A node that was silent for so many leases is forgotten.
const FORGOTTEN_AFTER: i64 = 20;

impl Store {
    /// Whether other processes may work on the same database.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        matches!(self.pool, Pool::Postgres { .. })
    }

    /// Gives a sign of life and renews the leases of `held`; returns those that were renewed. A slot that
    /// somebody took meanwhile is not among them.
    ///
    /// Not to be dropped half-way, as all of these: the caller has a task of its own.
    pub async fn beat(&self, beat: &Beat, held: &[(Slot, Epoch)]) -> Result<Vec<(Slot, Epoch)>, Error> {
        let Some(pool) = self.shared() else { return Ok(held.to_vec()) };
        let mut tx = pool.begin().await?;
        let lease = millis(beat.lease);
        sqlx::query(concat!(
            "INSERT INTO nodes (id, name, version, started_at_ms, seen_at_ms, leaving) VALUES ($1, $2, $3, ",
            now!(),
            ", ",
            now!(),
            ", $4) ON CONFLICT (id) DO UPDATE SET seen_at_ms = excluded.seen_at_ms, leaving = excluded.leaving"
        ))
        .bind(beat.node.0)
        .bind(&beat.name)
        .bind(beat.version)
        .bind(beat.leaving)
        .execute(&mut *tx)
        .await?;
        sqlx::query(concat!("DELETE FROM nodes WHERE seen_at_ms < ", now!(), " - $1"))
            .bind(lease.saturating_mul(FORGOTTEN_AFTER))
            .execute(&mut *tx)
            .await?;
        lock(&mut tx, held).await?;
        let renewed = sqlx::query_as(concat!(
            "UPDATE slots SET until_ms = ",
            now!(),
            " + $4 FROM unnest($1::smallint[], $2::bigint[]) AS h (slot, epoch) \
             WHERE slots.slot = h.slot AND slots.epoch = h.epoch AND slots.owner = $3 \
             RETURNING slots.slot, slots.epoch"
        ))
        .bind(numbers(held))
        .bind(epochs(held))
        .bind(beat.node.0)
        .bind(lease)
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(to_slots(renewed))
    }

    /// Takes up to `count` slots that nobody holds, or that were this node's and are not `held` any more.
    /// Those that an outcome is being written for are left for later.
    pub async fn take_slots(
        &self,
        node: NodeId,
        held: &[(Slot, Epoch)],
        count: usize,
        lease: Duration,
    ) -> Result<Vec<(Slot, Epoch)>, Error> {
        let Some(pool) = self.shared() else { return Ok(Vec::new()) };
        let taken = sqlx::query_as(concat!(
            "UPDATE slots SET owner = $1, epoch = epoch + 1, until_ms = ",
            now!(),
            " + $2 WHERE slot IN (SELECT slot FROM slots \
             WHERE owner IS NULL OR until_ms <= ",
            now!(),
            " OR owner = $1 AND slot <> ALL ($3::smallint[]) \
             ORDER BY slot LIMIT $4 FOR UPDATE SKIP LOCKED) RETURNING slot, epoch"
        ))
        .bind(node.0)
        .bind(millis(lease))
        .bind(numbers(held))
        .bind(i64::try_from(count).unwrap_or(i64::MAX))
        .fetch_all(pool)
        .await?;
        Ok(to_slots(taken))
    }

    /// Gives slots back, for whoever takes them first.
    pub async fn free_slots(&self, node: NodeId, slots: &[(Slot, Epoch)]) -> Result<(), Error> {
        let Some(pool) = self.shared() else { return Ok(()) };
        let mut tx = pool.begin().await?;
        lock(&mut tx, slots).await?;
        sqlx::query(
            "UPDATE slots SET owner = NULL, until_ms = 0 FROM unnest($1::smallint[], $2::bigint[]) AS h (slot, epoch) \
             WHERE slots.slot = h.slot AND slots.epoch = h.epoch AND slots.owner = $3",
        )
        .bind(numbers(slots))
        .bind(epochs(slots))
        .bind(node.0)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Takes a node off the list; its slots should be free by then.
    pub async fn forget_node(&self, node: NodeId) -> Result<(), Error> {
        let Some(pool) = self.shared() else { return Ok(()) };
        sqlx::query("DELETE FROM nodes WHERE id = $1").bind(node.0).execute(pool).await?;
        Ok(())
    }

    /// All nodes and who holds which slot.
    pub async fn cluster(&self) -> Result<Cluster, Error> {
        let Some(pool) = self.shared() else { return Ok(Cluster::default()) };
        let nodes: Vec<(Uuid, String, String, i64, i64, bool)> = sqlx::query_as(concat!(
            "SELECT id, name, version, started_at_ms, greatest(",
            now!(),
            " - seen_at_ms, 0), leaving FROM nodes ORDER BY started_at_ms, id LIMIT 1000"
        ))
        .fetch_all(pool)
        .await?;
        let slots: Vec<(i16, Option<Uuid>)> = sqlx::query_as(concat!(
            "SELECT slot, CASE WHEN until_ms > ",
            now!(),
            " THEN owner END FROM slots ORDER BY slot"
        ))
        .fetch_all(pool)
        .await?;
        let node = |(id, name, version, started, silent, leaving)| Node {
            id: NodeId(id),
            name,
            version,
            started_at: Timestamp::from_millis(started),
            silent_for: Duration::from_millis(u64::try_from(silent).unwrap_or(0)),
            leaving,
        };
        let holder = |(slot, owner): (i16, Option<Uuid>)| {
            Some(Holder { slot: Slot(u8::try_from(slot).ok()?), node: owner.map(NodeId) })
        };
        Ok(Cluster {
            nodes: nodes.into_iter().map(node).collect(),
            slots: slots.into_iter().filter_map(holder).collect(),
        })
    }

    /// The name of a node that holds slots; none where none does, or none is known in this schema.
    pub(super) async fn running_node(&self) -> Result<Option<String>, Error> {
        let Some(pool) = self.shared() else { return Ok(None) };
        let (known,): (bool,) =
            sqlx::query_as("SELECT to_regclass('slots') IS NOT NULL").fetch_one(pool).await?;
        if !known {
            return Ok(None);
        }
        let running = sqlx::query_scalar(concat!(
            "SELECT coalesce(n.name, s.owner::text) FROM slots s LEFT JOIN nodes n ON n.id = s.owner \
             WHERE s.owner IS NOT NULL AND s.until_ms > ",
            now!(),
            " LIMIT 1"
        ));
        Ok(running.fetch_optional(pool).await?)
    }

    fn shared(&self) -> Option<&PgPool> {
        match &self.pool {
            Pool::Postgres { general, .. } => Some(general),
            Pool::Sqlite(_) => None,
        }
    }
}

/// Locks slots in the order of their numbers.
async fn lock(connection: &mut PgConnection, slots: &[(Slot, Epoch)]) -> Result<(), Error> {
    sqlx::query("SELECT 1 FROM slots WHERE slot = ANY ($1::smallint[]) ORDER BY slot FOR UPDATE")
        .bind(numbers(slots))
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) fn numbers(slots: &[(Slot, Epoch)]) -> Vec<i16> {
    slots.iter().map(|(slot, _)| i16::from(slot.0)).collect()
}

pub(super) fn epochs(slots: &[(Slot, Epoch)]) -> Vec<i64> {
    slots.iter().map(|(_, epoch)| epoch.0).collect()
}

fn to_slots(rows: Vec<(i16, i64)>) -> Vec<(Slot, Epoch)> {
    // The column takes nothing else.
    rows.into_iter()
        .filter_map(|(slot, epoch)| Some((Slot(u8::try_from(slot).ok()?), Epoch(epoch))))
        .collect()
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
