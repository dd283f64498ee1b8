//! Nodes and the slots that they hold; on PostgreSQL only, since SQLite has one process.
//!
//! All times are the database's, so nodes whose clocks differ agree on when a lease is over. Whoever locks
//! several slots does so in the order of their numbers.

use std::time::Duration;

use posthorn_domain::cluster::{Cluster, Epoch, Holder, Node, Slot};
use posthorn_domain::id::NodeId;
use posthorn_domain::time::Timestamp;
use sea_orm::sqlx::{self, PgPool};
use uuid::Uuid;

use super::connections::Kind;
use super::{Error, Pool, Store};

/// The database's clock, in milliseconds.
macro_rules! now {
    () => {
        "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
    };
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
    /// One statement, as all that lock slots: no host that vanishes half-way leaves a lock behind, and each may be
    /// dropped.
    pub async fn beat(&self, beat: &Beat, held: &[(Slot, Epoch)]) -> Result<Vec<(Slot, Epoch)>, Error> {
        if !self.is_shared() {
            return Ok(held.to_vec());
        }
        let lease = millis(beat.lease);
        let renew = sqlx::query_as(concat!(
            "WITH alive AS ( \
             INSERT INTO nodes (id, name, version, started_at_ms, seen_at_ms, leaving) VALUES ($1, $2, $3, ",
            now!(),
            ", ",
            now!(),
            ", $4) ON CONFLICT (id) DO UPDATE SET seen_at_ms = excluded.seen_at_ms, leaving = excluded.leaving \
             ), forgotten AS ( \
             DELETE FROM nodes WHERE id <> $1 AND seen_at_ms < ",
            now!(),
            " - $5), locked AS MATERIALIZED ( \
             SELECT s.slot FROM slots s JOIN unnest($6::smallint[], $7::bigint[]) AS h (slot, epoch) \
             ON s.slot = h.slot AND s.epoch = h.epoch WHERE s.owner = $1 ORDER BY s.slot FOR UPDATE OF s \
             ) UPDATE slots SET until_ms = ",
            now!(),
            " + $8 FROM locked WHERE slots.slot = locked.slot RETURNING slots.slot, slots.epoch"
        ))
        .bind(beat.node.0)
        .bind(&beat.name)
        .bind(beat.version)
        .bind(beat.leaving)
        .bind(lease.saturating_mul(FORGOTTEN_AFTER))
        .bind(numbers(held))
        .bind(epochs(held))
        .bind(lease);
        Ok(to_slots(self.quickly(async |pool| renew.fetch_all(pool).await).await?))
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
        if !self.is_shared() {
            return Ok(Vec::new());
        }
        let take = sqlx::query_as(concat!(
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
        .bind(i64::try_from(count).unwrap_or(i64::MAX));
        Ok(to_slots(self.quickly(async |pool| take.fetch_all(pool).await).await?))
    }

    /// Gives slots back, for whoever takes them first.
    pub async fn free_slots(&self, node: NodeId, slots: &[(Slot, Epoch)]) -> Result<(), Error> {
        if !self.is_shared() {
            return Ok(());
        }
        let free = sqlx::query(
            "WITH locked AS MATERIALIZED ( \
             SELECT s.slot FROM slots s JOIN unnest($1::smallint[], $2::bigint[]) AS h (slot, epoch) \
             ON s.slot = h.slot AND s.epoch = h.epoch WHERE s.owner = $3 ORDER BY s.slot FOR UPDATE OF s \
             ) UPDATE slots SET owner = NULL, until_ms = 0 FROM locked WHERE slots.slot = locked.slot",
        )
        .bind(numbers(slots))
        .bind(epochs(slots))
        .bind(node.0);
        self.quickly(async |pool| free.execute(pool).await).await?;
        Ok(())
    }

    /// Whether a node may send for a slot now.
    pub async fn is_owned(&self, slot: Slot) -> Result<bool, Error> {
        if !self.is_shared() {
            return Ok(true);
        }
        let ask = sqlx::query_scalar(concat!("SELECT until_ms > ", now!(), " FROM slots WHERE slot = $1"));
        Ok(self
            .quickly(async |pool| ask.bind(i16::from(slot.0)).fetch_optional(pool).await)
            .await?
            .unwrap_or(false))
    }

    /// Takes a node off the list; its slots should be free by then.
    pub async fn forget_node(&self, node: NodeId) -> Result<(), Error> {
        if !self.is_shared() {
            return Ok(());
        }
        let forget = sqlx::query("DELETE FROM nodes WHERE id = $1").bind(node.0);
        self.quickly(async |pool| forget.execute(pool).await).await?;
        Ok(())
    }

    /// All nodes and who holds which slot.
    pub async fn cluster(&self) -> Result<Cluster, Error> {
        if !self.is_shared() {
            return Ok(Cluster::default());
        }
        let nodes = sqlx::query_as(concat!(
            "SELECT id, name, version, started_at_ms, greatest(",
            now!(),
            " - seen_at_ms, 0), leaving FROM nodes ORDER BY started_at_ms, id LIMIT 1000"
        ));
        let nodes: Vec<(Uuid, String, String, i64, i64, bool)> =
            self.quickly(async |pool| nodes.fetch_all(pool).await).await?;
        let slots = sqlx::query_as(concat!(
            "SELECT slot, CASE WHEN until_ms > ",
            now!(),
            " THEN owner END FROM slots ORDER BY slot"
        ));
        let slots: Vec<(i16, Option<Uuid>)> = self.quickly(async |pool| slots.fetch_all(pool).await).await?;
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
        if !self.is_shared() {
            return Ok(None);
        }
        let known = sqlx::query_scalar("SELECT to_regclass('slots') IS NOT NULL");
        if !self.quickly(async |pool| known.fetch_one(pool).await).await? {
            return Ok(None);
        }
        let running = sqlx::query_scalar(concat!(
            "SELECT coalesce(n.name, s.owner::text) FROM slots s LEFT JOIN nodes n ON n.id = s.owner \
             WHERE s.owner IS NOT NULL AND s.until_ms > ",
            now!(),
            " LIMIT 1"
        ));
        self.quickly(async |pool| running.fetch_optional(pool).await).await
    }

    /// Runs a statement that leases wait for.
    async fn quickly<T>(
        &self,
        work: impl AsyncFnOnce(&PgPool) -> Result<T, sqlx::Error>,
    ) -> Result<T, Error> {
        let done = self.connections.bounded(Kind::Hot, self.lanes.deadline(), work).await;
        done.unwrap_or_else(|| Err(Error::Unusable("there are no nodes on SQLite".to_owned())))
    }
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
