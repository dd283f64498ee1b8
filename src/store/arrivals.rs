//! Deliveries that another process accepted, as whoever sends them needs them; on PostgreSQL only.

use bytes::Bytes;
use posthorn_domain::delivery::OrderingKey;
use posthorn_domain::hops::Hops;
use posthorn_domain::id::{DeliveryId, EventId, Sequence, SubscriptionId};
use posthorn_domain::payload::Payload;
use posthorn_domain::tenant::Tenant;
use sea_orm::sqlx::{self, Row as _};
use uuid::Uuid;

use super::connections::Kind;
use super::{Error, Store, columns};

/// Larger payloads are read when they are sent.
const PAYLOAD_BYTES_MAX: i32 = 16 * 1024;

/// A delivery that was not tried yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its subscription.
    pub lane: SubscriptionId,
    /// Whose it is.
    pub tenant: Tenant,
    /// Its number.
    pub sequence: Sequence,
    /// The delivery.
    pub id: DeliveryId,
    /// Its event.
    pub event_id: EventId,
    /// What it repeats.
    pub replay_of: Option<DeliveryId>,
    /// See [`OrderingKey`].
    pub ordering_key: Option<OrderingKey>,
    /// None where it is large.
    pub payload: Option<Payload>,
}

/// Each looked up alone, so that no statistics of an empty table let the planner read all there is.
const READ: &str = "
SELECT t.lane, s.tenant, t.sequence, d.id, d.event_id, d.replay_of, d.ordering_key, e.content_type,
       CASE WHEN octet_length(e.payload) <= $3 THEN e.payload END, e.hops, e.forwarded_headers
FROM unnest($1::uuid[], $2::bigint[]) AS t (lane, sequence)
CROSS JOIN LATERAL (
    SELECT * FROM webhook_deliveries WHERE subscription_id = t.lane AND sequence = t.sequence LIMIT 1
) d
CROSS JOIN LATERAL (
    SELECT content_type, payload, hops, forwarded_headers FROM events WHERE id = d.event_id LIMIT 1
) e
CROSS JOIN LATERAL (SELECT tenant FROM subscriptions WHERE id = t.lane AND deleted_at_ms IS NULL LIMIT 1) s
WHERE d.status = 0 AND d.attempt_count = 0";

impl Store {
    /// The deliveries of these lanes and numbers that are there and were not tried yet.
    pub async fn arrivals(&self, of: &[(SubscriptionId, Sequence)]) -> Result<Vec<Arrival>, Error> {
        let read = sqlx::query(READ)
            .bind(of.iter().map(|(lane, _)| lane.0).collect::<Vec<_>>())
            .bind(of.iter().map(|(_, sequence)| sequence.0).collect::<Vec<_>>())
            .bind(PAYLOAD_BYTES_MAX);
        let deadline = self.lanes.deadline();
        let read = self.connections.bounded(Kind::Hot, deadline, async |pool| read.fetch_all(pool).await);
        let Some(rows) = read.await else { return Ok(Vec::new()) };
        let rows = rows?;
        let arrival = |row: sqlx::postgres::PgRow| -> Result<Arrival, Error> {
            let id = DeliveryId(row.try_get(3)?);
            let tenant: String = row.try_get(1)?;
            let bytes: Option<Vec<u8>> = row.try_get(8)?;
            let content_type = row.try_get(7)?;
            let hops = Hops::of_stored(row.try_get(9)?);
            let forwarded = columns::of_headers(row.try_get(10)?, id)?;
            Ok(Arrival {
                lane: SubscriptionId(row.try_get(0)?),
                tenant: tenant.parse().map_err(|_| Error::corrupt("tenant of delivery", id))?,
                sequence: Sequence(row.try_get(2)?),
                id,
                event_id: EventId(row.try_get(4)?),
                replay_of: row.try_get::<Option<Uuid>, _>(5)?.map(DeliveryId),
                ordering_key: row.try_get::<Option<String>, _>(6)?.map(|key| OrderingKey(key.into())),
                payload: bytes.map(|bytes| Payload {
                    content_type,
                    bytes: Bytes::from(bytes),
                    hops,
                    forwarded,
                }),
            })
        };
        rows.into_iter().map(arrival).collect()
    }
}
